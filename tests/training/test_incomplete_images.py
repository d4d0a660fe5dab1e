"""Training encoders on incomplete images."""

import pytest
import torch

from training.checkpoints import load_checkpoint, read_metrics
from training.data import ImageDataset
from training.regularisation import hold_out, zero_weights
from training.runs import build_model

# Few channels: for what is tested here the default's widths only take time.
SMALL = {'convolutions': [{'channels': 8, 'kernel': 3, 'stride': 2, 'padding': 1}] * 3, 'linear': [16]}


@pytest.fixture
def incomplete(digits):
    """The training and test digits, of which half of the pixels are missing."""
    return [dataset.hide_pixels('pixels', 0.5, 0, part) for part, dataset in enumerate(digits)]


@pytest.mark.parametrize(
    'dist, encoder, changes',
    [
        (None, 'conv3', {}),
        ('gaussian', 'conv', {}),
        ('exponential', 'lstm', dict(likelihood='bernoulli')),
        ('laplace', 'mlp', dict(importance_samples=3)),
    ],
)
def test_what_lies_under_missing_pixels_changes_no_bit(
    incomplete, small_config, make_trainer, dist, encoder, changes
):
    states, lines = [], []
    for seed in range(2):
        datasets = []
        for dataset in incomplete:
            observed = dataset.observed[torch.arange(len(dataset))]
            garbage = torch.rand(observed.shape, generator=torch.Generator().manual_seed(seed)) * 255
            X = torch.where(observed, dataset.X, garbage.round())
            datasets.append(ImageDataset(X, dataset.y, 'digits', observed=observed))
        config = small_config(dist, encoder, missing_share=0.5, **changes)
        trainer = make_trainer(config, *datasets)
        trainer.model.train()
        trainer.step(*trainer.images.epoch(0, 0, 16)[0])
        states.append(trainer.state_dict())
        lines.append(trainer.end_epoch(1, trainer.check_finite()))
    assert lines[0] == lines[1]  # losses of training and of validation
    assert torch.equal(states[0]['history'], states[1]['history'])
    for name, weights in states[0]['model'].items():
        assert torch.equal(weights, states[1]['model'][name])
    for key, moments in states[0]['adam']['state'].items():  # after one step they are the gradient, scaled
        assert torch.equal(moments['exp_avg'], states[1]['adam']['state'][key]['exp_avg'])


def test_a_model_of_complete_images_takes_incomplete_ones_filled_with_zeros(incomplete, small_config):
    model = build_model(small_config('gaussian', 'conv'))
    observed = incomplete[0].observed[torch.arange(5)]
    x = torch.where(observed, incomplete[0].X[:5] / 255, 0.0)
    assert not model.masked and torch.equal(model.encode(x, observed), model.encoder(x))


def test_early_stopping_pruning_and_dropout_of_an_auto_encoder(incomplete, small_config, train, tmp_path):
    regularisers = dict(patience=9, prune=0.4, dropout=0.1)
    config = small_config(None, 'conv3', decoder='mirror', architecture=SMALL, epochs=4, **regularisers)
    fit_set, held_out = hold_out(incomplete[0])
    trained = train(config, fit_set, tmp_path, held_out)
    metrics = read_metrics(tmp_path)
    assert trained.model.masked and metrics[-1]['validation_loss'] < metrics[0]['validation_loss']
    assert trained.best_epoch > 2 and zero_weights(trained.model) == pytest.approx(0.4, abs=0.005)


def test_a_resumed_run_of_several_samples_ends_as_an_undisturbed_one_bit_for_bit(
    incomplete, small_config, train, stop_at, ctrl_c, tmp_path
):
    config = small_config('laplace', 'mlp', decoder='mlp', importance_samples=3)
    train_set = incomplete[0].part(slice(32))
    train(config, train_set, tmp_path / 'whole', incomplete[1])
    heal = stop_at(7, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train(config, train_set, tmp_path / 'resumed', incomplete[1])
    heal()
    checkpoint = load_checkpoint(tmp_path / 'resumed' / 'checkpoint.pt')
    model = build_model(config.replace(seed=9, missing_share=0.5))  # all its weights must be replaced
    train(config, train_set, tmp_path / 'resumed', incomplete[1], model, checkpoint)
    whole, resumed = (tmp_path / name / 'checkpoint.pt' for name in ('whole', 'resumed'))
    assert whole.read_bytes() == resumed.read_bytes()
    metrics = [read_metrics(path.parent) for path in (whole, resumed)]
    assert [{**line, 'seconds': 0} for line in metrics[0]] == [{**line, 'seconds': 0} for line in metrics[1]]
    assert metrics[0][-1]['validation_loss'] < metrics[0][0]['validation_loss']
