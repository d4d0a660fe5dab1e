"""The state of training that a checkpoint holds: what a trainer takes over, and what it refuses."""

import copy

import pytest
import torch

from training.batches import Images
from training.checkpoints import load_shares
from training.errors import UserError
from training.gan_trainer import GANTrainer
from training.runs import build_model
from training.systems import GANConfig


@pytest.fixture
def stepped(small_config, make_trainer, digits):
    """stepped(kind): a trainer of a kind of system after one step, and a fresh one."""

    def make(kind):
        def new():
            if kind == 'gan':
                config = GANConfig(epochs=1, batch_size=16, latent_dim=4, shape=(28, 28), model='linear')
                return GANTrainer(build_model(config), Images(digits[0], 'cpu'), config)
            encoder = {'ae': 'conv3', 'vad': None}[kind]
            return make_trainer(small_config('laplace' if kind == 'vad' else None, encoder), digits[0])

        trainer = new()
        trainer.model.train()
        trainer.step(*trainer.images.epoch(0, 0, 16)[0])
        return trainer, new()

    return make


def head(trainer):
    """The state that a checkpoint of the trainer would have, a copy."""
    state = {'stage': 'training', 'config': trainer.config.to_dict(), **trainer.state_dict()}
    return copy.deepcopy(state)


@pytest.mark.parametrize('kind', ['vad', 'ae', 'gan'])
def test_a_state_is_taken_over(stepped, tmp_path, kind):
    trainer, fresh = stepped(kind)
    fresh.load_state_dict(head(trainer), tmp_path / 'checkpoint.pt')
    assert fresh.step_number == 1
    for name, weights in trainer.model.state_dict().items():
        assert torch.equal(weights, fresh.model.state_dict()[name])


@pytest.mark.parametrize('kind', ['vad', 'ae', 'gan'])
def test_a_state_that_lacks_something_is_refused_and_names_it(stepped, tmp_path, kind):
    trainer, fresh = stepped(kind)
    before = copy.deepcopy(fresh.model.state_dict())
    for name in trainer.state_dict():
        state = head(trainer)
        del state[name]
        with pytest.raises(UserError, match=f'{name}.*in .*checkpoint.pt, got') as error:
            fresh.load_state_dict(state, tmp_path / 'checkpoint.pt')
        assert '\n' not in str(error.value)
    assert all(torch.equal(weights, before[name]) for name, weights in fresh.model.state_dict().items())


def spoil_weights(state):
    state['model']['decoder.stem.weight'][0] = torch.nan


def spoil_moments(state):
    state['adam']['state'][0]['exp_avg'] = torch.zeros(3)


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda state: state.update(step=10**9), 'expected a whole number from 1 to .* as step'),
        (lambda state: state.update(step='1'), "as step in .*, got '1'"),
        (lambda state: state.update(history=torch.zeros(2, 2)), r'as history in .*, got float32 \[2, 2\]'),
        (lambda state: state['adam'].update(state={}), 'expected an entry adam.state.0 in'),
        (lambda state: state.update(best={'epoch': 1, 'loss': 0.5}), 'expected an entry best.model'),
        (
            lambda state: state['best'].update(epoch=torch.tensor([])),
            'from 0 to 3 as best.epoch in .*, got tensor',
        ),
        (lambda state: state.update(more=1), 'expected no entry more'),
        (spoil_weights, 'as model.decoder.stem.weight in .*, got 8 numbers in it that are not finite'),
        (spoil_moments, r'as adam.state.0.exp_avg in .*, got float32 \[3\]'),
    ],
)
def test_a_state_of_another_kind_is_refused(stepped, tmp_path, spoil, message):
    trainer, fresh = stepped('vad')
    state = head(trainer)
    spoil(state)
    with pytest.raises(UserError, match=message) as error:
        fresh.load_state_dict(state, tmp_path / 'checkpoint.pt')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'shares, message',
    [
        ({}, 'expected an entry shares.latents'),
        ({'folder': 3, 'checksums': {}}, 'expected str as shares.folder'),
        ({'folder': 'shares-7', 'checksums': {'__0_0.distcp': 'x'}}, 'a file __0_0.distcp that is missing'),
        ({'folder': '../shares-7', 'checksums': {}}, 'expected the latents of 64 images in'),
    ],
)
def test_latents_that_are_not_there_are_refused(stepped, tmp_path, shares, message):
    trainer, _ = stepped('vad')
    with pytest.raises(UserError, match=message) as error:
        load_shares(tmp_path / 'checkpoint.pt', shares, trainer.shares(), trainer.images)
    assert '\n' not in str(error.value)


def test_learning_rates_do_not_come_from_a_file(stepped, tmp_path):
    trainer, fresh = stepped('vad')
    state = head(trainer)
    state['adam']['param_groups'] = ['nonsense']
    fresh.load_state_dict(state, tmp_path / 'checkpoint.pt')
    assert fresh.adam.param_groups[0]['betas'] == (0.9, 0.99)
