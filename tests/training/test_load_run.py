import pytest
import torch

from training import load_run
from training.checkpoints import load_checkpoint, save_checkpoint
from training.errors import UserError
from training.runs import Run
from training.systems import VADConfig


def test_a_finished_run_has_its_model_latents_and_configuration(run_dir):
    trained = load_run(run_dir, 'cpu')
    assert isinstance(trained.config, VADConfig) and trained.config.dist == 'laplace'
    assert trained.latents.shape == (64, 12) and trained.labels.shape == (64,)
    assert trained.warm_start.shape == (785, 12) and trained.frames is None


def test_its_model_decodes_and_learns_no_more(run_dir):
    trained = load_run(run_dir, 'cpu')
    model = trained.model
    images = model.decode(model.mean(trained.latents[:5]))
    assert images.shape == (5, 28, 28) and 0 <= images.min() and images.max() <= 255
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())


def test_its_model_reconstructs_what_it_was_trained_on(run_dir, digits):
    trained, x = load_run(run_dir, 'cpu'), digits[0].X
    decoded = trained.model.decode(trained.model.mean(trained.latents))
    baseline = (x - x.mean(0)).square().mean()
    assert (x - decoded).square().mean() < 0.8 * baseline


def test_two_readings_are_equal(run_dir):
    first, second = load_run(str(run_dir)), load_run(run_dir)
    assert first.config == second.config and torch.equal(first.latents, second.latents)


def test_a_checkpoint_of_another_architecture_does_not_fit(run_dir):
    path = run_dir / 'checkpoint.pt'
    state = load_checkpoint(path)
    save_checkpoint(path, {**state, 'config': {**state['config'], 'decoder': 'mlp'}})
    with pytest.raises(
        UserError, match='expected float32 .* as model.decoder.stem.weight in .*, got float32'
    ):
        load_run(run_dir, 'cpu')


@pytest.mark.parametrize('changes', [{'system': 'rbm'}, {'system': None}, {'dist': 'cauchy'}, {'shape': 28}])
def test_a_configuration_that_is_none(run_dir, changes):
    path = run_dir / 'checkpoint.pt'
    state = load_checkpoint(path)
    save_checkpoint(path, {**state, 'config': {**state['config'], **changes}})
    with pytest.raises(UserError, match='expected a .* in .*checkpoint.pt, got .*; put back a copy') as error:
        load_run(run_dir, 'cpu')
    assert '\n' not in str(error.value)


def empty(folder):
    (folder / 'checkpoint.pt').unlink()


def of_training(folder):
    state = load_checkpoint(folder / 'checkpoint.pt')
    save_checkpoint(folder / 'checkpoint.pt', {**state, 'stage': 'training'})


def broken(folder):
    (folder / 'checkpoint.pt').write_bytes(b'nonsense')


@pytest.mark.parametrize(
    'damage, message',
    [
        (empty, 'expected a finished run in .*, got none; first run: python train_vad.py --run-dir'),
        (of_training, 'expected a trained model in .*, got an unfinished one; finish it with --resume'),
        (broken, 'expected a checkpoint in .*, got a file that cannot be read as one'),
    ],
)
def test_a_run_that_is_not_finished(run_dir, damage, message):
    damage(run_dir)
    with pytest.raises(UserError, match=message) as error:
        load_run(run_dir, 'cpu')
    assert '\n' not in str(error.value)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match='which does not exist; first run: python train_ae.py --run-dir'):
        load_run(tmp_path / 'none', script='train_ae.py')


def test_a_file_is_no_run(run_dir):
    with pytest.raises(UserError, match='expected a run folder, got .*config.json, which is a file'):
        load_run(run_dir / 'config.json')


def test_a_device_that_is_not_here(run_dir):
    with pytest.raises(UserError, match='expected --device to be'):
        load_run(run_dir, 'tpu')


def test_a_run_that_is_finished_after_a_kill_keeps_no_shares(run_dir):
    (run_dir / 'results.json').unlink()
    (run_dir / 'shares-6').mkdir()  # the final checkpoint was written, and the program killed
    config = load_run(run_dir).config
    Run(config, torch.device('cpu'), run_dir, run_dir, 'digits').finish({})
    assert (run_dir / 'results.json').exists() and not (run_dir / 'shares-6').exists()
