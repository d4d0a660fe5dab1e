import pytest
import torch

from training.checkpoints import load_checkpoint
from training.errors import UserError
from training.regularisation import hold_out, prunable, zero_weights
from training.runs import build_model
from training.trainer import Trainer

# Few channels: for what is tested here the default's widths only take time.
SMALL = {'convolutions': [{'channels': 8, 'kernel': 3, 'stride': 2, 'padding': 1}] * 3, 'linear': [16]}


class Killed(Exception):
    pass


def kill():
    raise Killed


@pytest.fixture(scope='session')
def ae_config(small_config):
    """ae_config(**changes): a small auto-encoder of 6 steps an epoch, in 4 epochs."""

    def make(**changes):
        networks = dict(encoder='conv3', decoder='mirror', architecture=SMALL, latent_dim=3)
        return small_config(**{**networks, 'epochs': 4, 'batch_size': 32, 'obs_std': 0.08, **changes})

    return make


# -------------------------------------------------------------------------------------------- resuming


@pytest.fixture(scope='module')
def undisturbed(digits, ae_config, train, tmp_path_factory):
    """undisturbed(changes): the folder of a run that was never interrupted, trained once."""
    folders = {}

    def get(changes):
        key = str(changes)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp('undisturbed')
            train(ae_config(**changes), digits[0], folders[key], digits[1])
        return folders[key]

    return get


@pytest.mark.usefixtures('saved_every_epoch')
@pytest.mark.parametrize(
    'changes',
    [
        {'dropout': 0.3},
        {'prune': 0.4, 'weight_decay': 0.1},
        {'dropout': 0.3, 'prune': 0.4, 'patience': 9, 'min_delta': 1.0},
    ],
)
@pytest.mark.parametrize('number', [5, 12, 15])  # 6 steps an epoch; pruning comes before the 12th
@pytest.mark.parametrize('gently', [True, False])  # Ctrl-C, or a death between two checkpoints
def test_a_resumed_run_ends_as_an_undisturbed_one_bit_for_bit(
    digits, ae_config, train, undisturbed, stop_at, ctrl_c, tmp_path, changes, number, gently
):
    config = ae_config(**changes)
    heal = stop_at(number, ctrl_c if gently else kill)
    with pytest.raises(KeyboardInterrupt if gently else Killed):
        train(config, digits[0], tmp_path, digits[1])
    heal()
    path = tmp_path / 'checkpoint.pt'
    assert path.exists() == (gently or number >= 6)
    checkpoint = load_checkpoint(path) if path.exists() else None
    model = build_model(config.replace(seed=9) if checkpoint else config)
    torch.manual_seed(99)  # whatever came before
    train(config, digits[0], tmp_path, digits[1], model, checkpoint)
    assert path.read_bytes() == (undisturbed(changes) / 'checkpoint.pt').read_bytes()


# -------------------------------------------------------------------------------------------- dropout


def test_dropout_differs_between_calls_and_is_off_in_use(digits, ae_config):
    model = build_model(ae_config(dropout=0.5))
    x = digits[0].X[:8] / 255
    assert not torch.equal(model.encoder(x), model.encoder(x))
    model.eval()
    assert torch.equal(model.encoder(x), model.encoder(x))


# -------------------------------------------------------------------------------------- early stopping


def test_early_stopping_stops_and_restores_the_best(digits, ae_config, train, tmp_path, monkeypatch):
    losses, weights = [50.0, 40.0, 39.5, 41.0, 39.2, 1.0], []

    def validate(model, images, config, variance):
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {'validation_loss': losses[len(weights) - 1]}

    monkeypatch.setattr('training.trainer.validate', validate)
    # 39.5 and 39.2 are not better than 40 by more than 1
    config = ae_config(epochs=6, patience=3, min_delta=1.0)
    part, held_out = hold_out(digits[0])
    trained = train(config, part, tmp_path, held_out)
    assert len(weights) == 5 and trained.best_epoch == 2
    state = trained.model.state_dict()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in state.items())
    assert len(trained.latents) == len(trained.labels) == 58


def test_the_held_out_images_are_the_last_of_the_training_images(digits):
    part, held_out = hold_out(digits[0])
    assert len(part) == 58 and torch.equal(torch.cat([part.X, held_out.X]), digits[0].X)
    assert torch.equal(torch.cat([part.y, held_out.y]), digits[0].y)


@pytest.mark.parametrize('changes', [{'patience': 2}, {'tune': 2}])
def test_of_a_single_image_none_can_be_held_out(digits, ae_config, changes):
    single = digits[0].part(slice(1))
    with pytest.raises(UserError, match='expected two training images or more, to hold some out'):
        ae_config(**changes).with_data(single, digits[1])


# -------------------------------------------------------------------------------------------- pruning


@pytest.fixture
def zeros(monkeypatch):
    """The share of weights that are 0 after each step."""
    shares, step = [], Trainer.step

    def watched(self, *batch):
        step(self, *batch)
        shares.append(zero_weights(self.model))

    monkeypatch.setattr(Trainer, 'step', watched)
    return shares


def test_pruned_weights_stay_zero_and_the_checkpoint_is_plain(digits, ae_config, train, tmp_path, zeros):
    trained = train(ae_config(prune=0.4, patience=1, min_delta=1e9), digits[0], tmp_path, digits[1])
    assert max(zeros[:12]) < 0.01 and all(share == pytest.approx(0.4, abs=0.005) for share in zeros[12:])
    assert trained.best_epoch == 3 and len(zeros) == 24  # patience counts from the first pruned epoch
    # a model that never had masks has read the checkpoint
    assert zero_weights(trained.model) == pytest.approx(0.4, abs=0.005)
    for module in prunable(trained.model):  # in each layer, not in some
        assert (module.weight == 0).float().mean() == pytest.approx(0.4, abs=0.05)
