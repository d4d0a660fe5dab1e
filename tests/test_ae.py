"""Auto-encoders: architectures and their mirrors, regularisers, sweep, tuning, and classifiers on their codes."""

import itertools

import pytest
import torch
from test_commands import ctrl_c
from test_training import Stop, fit_until, raise_stop

import models
import networks
import training
import utils

SMALL = {'convolutions': [{'channels': 8, 'kernel': 3, 'stride': 2, 'padding': 1}] * 3, 'linear': [16]}
FLAGS = ['--epochs', '2', '--latent-dim', '3', '--device', 'cpu']


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few channels: for what is tested here the default's widths only take time."""
    monkeypatch.setattr(networks, 'ARCHITECTURE', SMALL)


def make_config(**changes):
    return {
        'system': 'ae',
        'dist': None,
        'dataset': 'digits',
        'latent_dim': 3,
        'architecture': SMALL,
        'epochs': 4,
        'batch_size': 32,
        'lr': 4e-3,
        'beta': 1.0,
        'obs_std': 0.08,
        'seed': 0,
        **changes,
    }


def make(config, seed=0):
    torch.manual_seed(seed)
    return models.AutoEncoder('conv3', 3, 'mirror', architecture=SMALL, dropout=config.get('dropout', 0.0))


# ----------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize('shape', [(28, 28), (3, 64, 64), (3, 20, 31), (9, 8)])
@pytest.mark.parametrize('kernel', range(2, 7))
@pytest.mark.parametrize('stride', range(1, 5))
def test_the_mirror_gives_images_of_the_shape_that_the_encoder_took(shape, kernel, stride):
    for n, padding, linear in itertools.product((2, 4), range(kernel // 2 + 1), ([], [7, 5])):
        layer = {'channels': 5, 'kernel': kernel, 'stride': stride, 'padding': padding}
        options = {'architecture': {'convolutions': [layer] * n, 'linear': linear}, 'dropout': 0.1}
        try:
            model = models.AutoEncoder('conv3', 4, 'mirror', shape, **options)
        except ValueError as error:
            assert 'expected images that are large enough' in str(error) and '\n' not in str(error)
            continue
        codes = model.encoder(torch.rand(2, *shape))
        assert codes.shape == (2, 4) and model(codes).shape == (2, *shape)
        assert isinstance(model.decoder.stem, torch.nn.Linear) and model.decoder.stem.in_features == 4


def test_the_mirror_has_the_encoders_sizes_in_the_opposite_order():
    sizes = networks.map_sizes(
        {
            'convolutions': [
                {'channels': c, 'kernel': 3, 'stride': 2, 'padding': p} for c, p in ((4, 1), (8, 1), (16, 0))
            ]
        },
        (28, 28),
    )
    assert sizes == [(1, 28, 28), (4, 14, 14), (8, 7, 7), (16, 3, 3)]
    with pytest.raises(ValueError, match='got a map of 3 x 3 for kernel 6 and padding 0 of layer 1'):
        networks.map_sizes(
            {'convolutions': [{'channels': 4, 'kernel': 6, 'stride': 1, 'padding': 0}]}, (3, 3)
        )


def test_a_batch_of_one_image_can_be_standardised():
    layer = models.Standardise(3)
    codes = 5 + 2 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(layer(codes).mean(0), torch.zeros(3), atol=1e-5)
    mean = layer.running_mean.clone()
    assert torch.isfinite(layer(codes[:1])).all() and torch.equal(layer.running_mean, mean)


# ------------------------------------------------------------------------------------------------- regularisers


@pytest.mark.parametrize(
    'changes',
    [
        {'dropout': 0.3},
        {'prune': 0.4, 'weight_decay': 0.1},
        {'dropout': 0.3, 'prune': 0.4, 'patience': 9, 'min_delta': 1.0},
    ],
)
@pytest.mark.parametrize('stop_at', [5, 12, 15])  # 6 steps an epoch; pruning comes before the 12th
@pytest.mark.parametrize('gently', [True, False])
def test_a_resumed_run_ends_as_an_undisturbed_one_bit_for_bit(
    digits, tmp_path, monkeypatch, changes, stop_at, gently
):
    config, (train, test) = make_config(**changes), digits
    fit = training.fit
    monkeypatch.setattr(training, 'fit', lambda *args, **kwargs: fit(*args, **{**kwargs, 'validation': test}))
    (tmp_path / 'whole').mkdir()
    training.fit(make(config), train, config, tmp_path / 'whole')
    broken = tmp_path / 'broken'
    broken.mkdir()
    with pytest.raises(KeyboardInterrupt if gently else Stop):
        fit_until(
            make(config),
            train,
            config,
            broken,
            stop_at,
            (lambda _: ctrl_c()) if gently else raise_stop,
            monkeypatch,
        )
    resume = utils.load_checkpoint(broken / 'checkpoint.pt') if (broken / 'checkpoint.pt').exists() else None
    torch.manual_seed(99)  # whatever came before
    training.fit(make(config, seed=9 if resume else 0), train, config, broken, resume=resume)
    assert (broken / 'checkpoint.pt').read_bytes() == (tmp_path / 'whole' / 'checkpoint.pt').read_bytes()


def test_dropout_differs_between_steps_and_is_off_in_use(digits):
    model = make({'dropout': 0.5})
    x = digits[0].X[:8] / 255
    assert not torch.equal(model.encoder(x), model.encoder(x))
    model.eval()
    assert torch.equal(model.encoder(x), model.encoder(x))


def test_early_stopping_stops_and_restores_the_best(digits, tmp_path, monkeypatch):
    losses, weights = [50.0, 40.0, 39.5, 41.0, 39.2, 1.0], []

    def validate(model, images, config):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return {'validation_loss': losses[len(weights) - 1]}

    monkeypatch.setattr(training, 'validate', validate)
    config = make_config(
        epochs=6, patience=3, min_delta=1.0
    )  # 39.5 and 39.2 are not better than 40 by more than 1
    part, held_out = training.hold_out(digits[0])
    state, _ = training.fit(make(config), part, config, tmp_path, validation=held_out)
    assert len(weights) == 5 and state['best_epoch'] == 2
    assert all(torch.equal(v, weights[1][k]) for k, v in state['model'].items())
    assert len(state['latents']) == len(state['labels']) == 58


def test_the_held_out_images_are_the_last_of_the_training_images(digits):
    part, held_out = training.hold_out(digits[0])
    assert len(part) == 58 and torch.equal(torch.cat([part.X, held_out.X]), digits[0].X)
    assert torch.equal(torch.cat([part.y, held_out.y]), digits[0].y)
    with pytest.raises(
        utils.UserError, match='two training images or more, to hold some out for --patience, got 1'
    ):
        training.hold_out(utils.ImageDataset(digits[0].X[:1], digits[0].y[:1], 'digits'))


def test_pruned_weights_stay_zero_and_the_checkpoint_is_plain(digits, tmp_path):
    config, zeros = make_config(prune=0.4, patience=1, min_delta=1e9), []
    step = training.Trainer.step

    def watched(self, *batch):
        step(self, *batch)
        zeros.append(training.zero_weights(self.model))

    with pytest.MonkeyPatch.context() as m:
        m.setattr(training.Trainer, 'step', watched)
        state, _ = training.fit(make(config), digits[0], config, tmp_path, validation=digits[1])
    assert max(zeros[:12]) < 0.01 and all(z == pytest.approx(0.4, abs=0.005) for z in zeros[12:])
    assert state['best_epoch'] == 3 and len(zeros) == 24  # patience counts from the first pruned epoch
    model = make(config)
    model.load_state_dict(state['model'])  # has no masks
    assert training.zero_weights(model) == pytest.approx(0.4, abs=0.005)
    for module in training.prunable(model):  # in each layer, not in some
        assert (module.weight == 0).float().mean() == pytest.approx(0.4, abs=0.05)
