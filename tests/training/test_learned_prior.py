"""--prior learned: a prior that is trained with the decoder, and what becomes of it."""

import copy
import json

import pytest
import torch

import evaluate
import impute
import train_vad
import train_vae
from training.inference import infer_latents
from training.runs import load_run
from training.trainer import PRIOR_SPEED


@pytest.fixture
def trainer(digits, small_config, make_trainer):
    config = small_config('gaussian', prior='learned').with_data(*digits)
    return make_trainer(config, digits[0])


def test_it_is_trained_and_faster_than_the_decoder(trainer):
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.step(*trainer.images.epoch(0, 0, 16)[0])
    others, prior = trainer.adam.param_groups
    assert prior['lr'] == PRIOR_SPEED * others['lr']
    assert len(others['params']) + len(prior['params']) == len(list(trainer.model.parameters()))
    # Adam's first step is as long as the learning rate.
    for name, group in (('prior.params', prior), ('pixel_bias', others)):
        step = (trainer.model.state_dict()[name] - before[name]).abs().max()
        assert step == pytest.approx(group['lr'], rel=0.01)


def test_the_draws_come_closer_to_the_posteriors(digits, small_config, train, tmp_path):
    log_density = []
    for epochs in (1, 30):
        config = small_config('gaussian', prior='learned', epochs=epochs)
        trained = train(config, digits[0], tmp_path / str(epochs))
        means = trained.model.mean(trained.latents)
        log_density.append(trained.model.log_prior(means) - trained.model.log_standard_prior(means))
    # Learned, it gives the training images a higher density than N(0, 1) does.
    assert log_density[1].mean() > max(log_density[0].mean() + 1, 1)


@pytest.mark.parametrize('encoder', [None, 'conv'])
def test_images_of_which_nothing_is_observed_have_finite_latents(
    digits, small_config, train, tmp_path, encoder
):
    blank = digits[1].part(slice(3)).hide_pixels('pixels', 0.999999, seed=0, part=1)
    trained = train(small_config('gaussian', encoder, prior='learned'), digits[0], tmp_path / 'run')
    latents, _ = infer_latents(trained, blank)
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize(
    'module, arguments',
    [
        (train_vad, []),
        (train_vad, ['--dist', 'laplace', '--missing', '0.5']),
        (train_vae, ['--importance-samples', '2']),
    ],
)
def test_the_commands(command, csv_dir, tmp_path, quicken, monkeypatch, module, arguments):
    quicken(monkeypatch)
    run = tmp_path / 'run'
    flags = ['--epochs', '2', '--latent-dim', '6', '--device', 'cpu', '--run-dir', run]
    status, _, err = command(module, '--data-path', csv_dir, '--prior', 'learned', *arguments, *flags)
    assert status == 0 and not err, err
    results = json.loads((run / 'results.json').read_text())
    assert results['prior'] == 'learned' and load_run(run).model.prior is not None
    refine = [] if 'laplace' in arguments else ['--refine', 'full']
    status, _, err = command(evaluate, run, '--likelihood', '4', *refine)
    assert status == 0, err
    if '--missing' in arguments:
        status, _, err = command(impute, run, '--draws', '2', '--out', tmp_path / 'out.npz')
        assert status == 0, err
