"""The whole of training: what it learns, how it goes on after an interruption, and what stops it."""

import json
import math

import pytest
import torch

import kernels
from evaluation import Sampler
from evaluation.grades import grade_test
from evaluation.losses import course_loss, reconstruction_loss
from networks import ENCODERS
from training import loop
from training.batches import Images
from training.checkpoints import load_checkpoint, read_metrics
from training.data import ImageDataset
from training.errors import NotFinite
from training.inference import infer_latents
from training.loop import fit
from training.objective import encode, mean_negative_elbo
from training.randomness import INFER, noise_key
from training.runs import build_model

MODELS = [None, *kernels.FAMILIES]


class Killed(Exception):
    pass


def kill():
    raise Killed


# ---------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('seed', [0, 1])
def test_training_beats_the_mean_image_by_far(digits, small_config, train, tmp_path, dist, seed):
    train_set, _ = digits
    trained = train(small_config(dist, epochs=4, seed=seed), train_set, tmp_path)
    mean = train_set.X.mean(0).expand_as(train_set.X)
    baseline = reconstruction_loss(train_set.X, mean).item()
    # 64 images are one batch. The samples of a family without a scale are noisy.
    bound = 0.85 if dist == 'exponential' else 0.6
    assert course_loss(trained.model, train_set, trained.latents) < bound * baseline
    metrics = read_metrics(tmp_path)
    assert [line['epoch'] for line in metrics] == [1, 2, 3, 4]
    assert metrics[-1]['loss'] < metrics[0]['loss'] and all(line['seconds'] > 0 for line in metrics)
    for line in metrics:
        assert math.isclose(line['loss'], line['reconstruction'] + line['kl'], rel_tol=1e-6)


@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('encoder', ENCODERS)
def test_an_encoder_learns_with_its_decoder(digits, small_config, train, tmp_path, dist, encoder):
    train_set, test_set = digits
    changes = dict(likelihood='bernoulli') if dist else {}
    epochs = 8 if 'lstm' in encoder else 4  # an LSTM starts slowly
    config = small_config(dist, encoder, epochs=epochs, lr=2e-3, **changes)
    trained = train(config, train_set, tmp_path, test_set)
    model = trained.model
    assert trained.warm_start is None
    torch.testing.assert_close(trained.latents, encode(model, Images(train_set, 'cpu')))
    metrics = read_metrics(tmp_path)
    for name in ('loss', 'validation_loss'):
        assert metrics[-1][name] < metrics[0][name]
    last = metrics[-1]
    loss = last['validation_loss']
    assert math.isclose(loss, last['validation_reconstruction'] + last['validation_kl'], rel_tol=1e-6)
    # what the last epoch's validation saw is what the grade finds
    images, seed = Images(test_set, 'cpu'), noise_key(0, INFER)
    terms = mean_negative_elbo(model, encode(model, images), images, config, seed=seed)
    assert math.isclose(sum(terms), loss, rel_tol=1e-5)


@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('n, identical', [(1, False), (2, False), (3, True)])
def test_few_or_identical_images(digits, small_config, train, tmp_path, dist, n, identical):
    X = digits[0].X[:1].expand(n, -1, -1) if identical else digits[0].X[:n]
    train_set = ImageDataset(X, digits[0].y[:n], 'digits')
    trained = train(small_config(dist, epochs=1), train_set, tmp_path)
    latents, _ = infer_latents(trained, train_set)
    assert torch.isfinite(latents).all()
    assert math.isfinite(grade_test(trained, train_set, latents)['test_loss'])
    assert all(torch.isfinite(images).all() for images in Sampler(trained).sample(5).values())


# ---------------------------------------------------------------------------------------------- resuming


@pytest.fixture(scope='module')
def undisturbed(digits, small_config, train, tmp_path_factory):
    """undisturbed(dist, encoder): the folder of a run that was never interrupted, trained once."""
    folders = {}

    def get(dist, encoder):
        if (dist, encoder) not in folders:
            folders[dist, encoder] = folder = tmp_path_factory.mktemp('undisturbed')
            train(small_config(dist, encoder), digits[0].part(slice(32)), folder)
        return folders[dist, encoder]

    return get


def lines_without_seconds(folder):
    return [{**line, 'seconds': None} for line in read_metrics(folder)]


@pytest.mark.usefixtures('saved_every_epoch')
@pytest.mark.parametrize(
    'dist, encoder', [(None, None), ('gaussian', None), (None, 'conv'), ('laplace', 'lstm')]
)
@pytest.mark.parametrize('number', [7, 12, 15])  # 6 steps an epoch: in the second, at its end, in the third
@pytest.mark.parametrize('gently', [True, False])  # Ctrl-C saves in mid-epoch; death between two checkpoints
def test_a_resumed_run_ends_as_an_undisturbed_one_bit_for_bit(
    digits, small_config, train, undisturbed, stop_at, ctrl_c, tmp_path, dist, encoder, number, gently
):
    config, train_set = small_config(dist, encoder), digits[0].part(slice(32))
    heal = stop_at(number, ctrl_c if gently else kill)
    with pytest.raises(KeyboardInterrupt if gently else Killed):
        train(config, train_set, tmp_path)
    heal()
    checkpoint = load_checkpoint(tmp_path / 'checkpoint.pt')
    assert checkpoint['step'] == (number + 1 if gently else number // 6 * 6)
    other = build_model(config.replace(seed=9))  # all its weights must be replaced
    train(config, train_set, tmp_path, model=other, checkpoint=checkpoint)
    whole = undisturbed(dist, encoder)
    assert (tmp_path / 'checkpoint.pt').read_bytes() == (whole / 'checkpoint.pt').read_bytes()
    assert lines_without_seconds(tmp_path) == lines_without_seconds(whole)


@pytest.mark.parametrize('seconds, saved', [(0, [6, 12, 18, 24]), (3600, [24])])
def test_a_checkpoint_is_saved_when_the_last_one_is_old_and_at_the_end(
    digits, small_config, make_trainer, tmp_path, monkeypatch, seconds, saved
):
    trainer, steps = make_trainer(small_config('gaussian', epochs=4), digits[0].part(slice(32))), []
    monkeypatch.setattr(loop, 'SAVE_EVERY', seconds)
    monkeypatch.setattr(loop, 'save_shared_checkpoint', lambda path, state, n: steps.append(state['step']))
    fit(trainer, tmp_path)
    assert steps == saved


# ------------------------------------------------------------------------------------------ divergence


@pytest.mark.usefixtures('saved_every_epoch')
def test_weights_that_the_last_step_ruined_are_not_saved(
    digits, small_config, make_trainer, stop_at, tmp_path
):
    trainer = make_trainer(small_config('gaussian'), digits[0])

    def poison():  # the loss of this step is computed before its update, and finite
        update = trainer.adam.step
        trainer.adam.step = lambda: (update(), trainer.model.pixel_bias.data.fill_(float('inf')))

    stop_at(23, poison)
    with pytest.raises(NotFinite, match=r'at step 24 \(epoch 3\)'):
        fit(trainer, tmp_path)
    assert load_checkpoint(tmp_path / 'checkpoint.pt')['step'] == 12


@pytest.mark.usefixtures('saved_every_epoch')
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(
    digits, small_config, make_trainer, stop_at, tmp_path
):
    trainer = make_trainer(small_config('gaussian'), digits[0])
    stop_at(17, lambda: trainer.latents.fill_(float('nan')))
    message = r'expected a finite loss, got none at step 17 \(epoch 2\); nothing after the last good'
    with pytest.raises(NotFinite, match=message):
        fit(trainer, tmp_path)
    checkpoint = load_checkpoint(tmp_path / 'checkpoint.pt')
    assert checkpoint['step'] == 12 and torch.isfinite(checkpoint['shares']['latents']).all()
    assert len(json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])) == 5
