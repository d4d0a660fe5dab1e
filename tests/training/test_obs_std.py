"""--obs-std auto: the standard deviation of the likelihood that training finds."""

import copy
import json

import pytest
import torch

import train_vad
from training.checkpoints import load_checkpoint
from training.config import DEFAULTS
from training.errors import UserError
from training.objective import NegativeELBO
from training.runs import load_run
from training.systems import AEConfig, VADConfig, VAEConfig


def take_steps(trainer, n):
    for index, batch_size in (trainer.images.epoch(0, 0, 16) * 5)[:n]:
        trainer.step(index, batch_size)


@pytest.mark.parametrize('missing', [False, True])
def test_it_follows_the_mean_squared_error_of_the_observed_pixels(
    digits, small_config, make_trainer, missing
):
    train_set = digits[0].hide_pixels('pixels', 0.5, seed=0, part=0) if missing else digits[0]
    config = small_config('gaussian', obs_std='auto', shape=()).with_data(train_set, digits[1])
    trainer = make_trainer(config, train_set)
    assert trainer.obs_std == pytest.approx(DEFAULTS['incomplete' if missing else 'complete']['obs_std'])
    x, observed = trainer.images[torch.arange(5)]
    pixels = torch.full((5,), 784) if observed is None else observed.flatten(1).sum(1)
    for _ in range(1000):  # an error of 0.3 in each pixel, in units of what the variance now is
        trainer.follow_error(pixels * 0.3**2 / (2 * trainer.variance), x, observed, True)
    assert trainer.obs_std == pytest.approx(0.3, rel=1e-3)
    for has_images, mask in ((False, observed), (True, torch.zeros_like(x, dtype=torch.bool))):
        trainer.follow_error(torch.zeros(5), x, mask, has_images)  # nothing is observed here
    assert trainer.obs_std == pytest.approx(0.3, rel=1e-3)
    for _ in range(1000):
        trainer.follow_error(torch.zeros(5), x, observed, True)
    assert trainer.obs_std == pytest.approx(1e-3)


@pytest.mark.parametrize('dist', [None, 'gaussian'])
@pytest.mark.parametrize('encoder', [None, 'conv'])
def test_training_finds_less_than_the_error_of_the_mean_image(
    digits, small_config, make_trainer, dist, encoder
):
    trainer = make_trainer(small_config(dist, encoder, obs_std='auto').with_data(*digits), digits[0])
    take_steps(trainer, 40)
    assert trainer.obs_std < (digits[0].X / 255).std(0).square().mean().sqrt()


def test_the_loss_is_measured_in_it(digits, small_config, make_trainer):
    trainer = make_trainer(small_config('gaussian', obs_std='auto').with_data(*digits), digits[0])
    trainer.variance.fill_(0.5**2)
    fixed = NegativeELBO(trainer.model, trainer.config.replace(obs_std=0.5))
    index = trainer.images.own()
    arguments = trainer.model.params(trainer.latents[index]), *trainer.images[index]
    noise = dict(seed=0, step=0, index=index)
    for actual, expected in zip(trainer.objective(*arguments, **noise), fixed(*arguments, **noise)):
        torch.testing.assert_close(actual, expected)


def test_a_state_is_taken_over(digits, small_config, make_trainer, tmp_path):
    config = small_config('gaussian', obs_std='auto').with_data(*digits)
    trainer, other = (make_trainer(config, digits[0]) for _ in range(2))
    take_steps(trainer, 3)
    state = {'stage': 'training', 'config': {}, **copy.deepcopy(trainer.state_dict())}
    other.load_state_dict(state, tmp_path)
    assert other.obs_std == trainer.obs_std != config.obs_std
    del state['variance']
    with pytest.raises(UserError, match='variance'):
        other.load_state_dict(state, tmp_path)


def test_a_run_keeps_what_it_found(command, csv_dir, tmp_path, quicken, monkeypatch):
    quicken(monkeypatch)
    run_dir = tmp_path / 'run'
    small = ['--data-path', csv_dir, '--run-dir', run_dir, '--latent-dim', '4', '--epochs', '2']
    assert command(train_vad, *small, '--obs-std', 'auto')[0] == 0
    config = load_checkpoint(run_dir / 'checkpoint.pt', 'cpu')['config']
    assert config['learn_obs_std'] and 0.05 < config['obs_std'] < 0.5 and config['obs_std'] != 0.08
    assert load_run(run_dir, 'cpu').config.obs_std == config['obs_std']
    status, out, _ = command(train_vad, *small, '--obs-std', 'auto', '--resume')
    assert status == 0 and 'nothing to resume' in out
    status, _, err = command(train_vad, *small, '--resume')
    assert status == 2 and 'learn_obs_std True (now False)' in err
    (run_dir / 'results.json').unlink()  # as if the program had been killed before its grades
    assert command(train_vad, *small, '--obs-std', 'auto', '--resume')[0] == 0
    assert json.loads((run_dir / 'config.json').read_text())['obs_std'] == config['obs_std']


@pytest.mark.parametrize('value', ['auto', 0.1])
def test_a_bernoulli_likelihood_has_none(value):
    with pytest.raises(UserError, match=f'--likelihood gaussian for --obs-std {value}, got bernoulli'):
        VAEConfig(obs_std=value, likelihood='bernoulli')


def test_a_bernoulli_likelihood_has_none_where_the_images_are_known():
    with pytest.raises(UserError, match='--likelihood gaussian for --obs-std auto, got bernoulli'):
        VAEConfig(obs_std='auto', likelihood='bernoulli', shape=(28, 28))


@pytest.mark.parametrize('flags', [dict(patience=3), dict(tune=5)])
def test_losses_that_choose_need_a_fixed_one(flags):
    with pytest.raises(UserError, match='a number for --obs-std with --patience or --tune'):
        AEConfig(obs_std='auto', **flags)


def test_it_starts_at_the_default(digits):
    config = VADConfig(obs_std='auto').with_data(*digits)
    assert config.learn_obs_std and config.obs_std == DEFAULTS['complete']['obs_std']
