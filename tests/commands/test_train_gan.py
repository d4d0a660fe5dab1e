"""train_gan.py: a run from start to report, stopping and going on, bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import networks
import train_gan
from evaluation.pictures import INTERPOLATED
from training.checkpoints import load_checkpoint, read_metrics
from training.gan_trainer import DRAWS, TERMS, GANTrainer
from training.randomness import PRIOR, noise_key
from training.runs import is_finished, load_run

FILES = {'config.json', 'checkpoint.pt', 'metrics.jsonl', 'results.json', 'report.html'}
PICTURES = {'loss.png', 'samples.png', 'samples.gif', 'interpolation.png', 'interpolation.gif'}
RESULTS = {
    'system',
    'model',
    'latent_dim',
    'frechet',
    'frechet_floor',
    'frechet_features',
    'classes',
    'smallest_class',
    'samples',
    'train_seconds',
    'total_seconds',
}


@pytest.fixture
def flags(csv_dir):
    """Of a small run: 12 steps in each of three epochs."""
    small = ['--epochs', '3', '--latent-dim', '6', '--batch-size', '16', '--device', 'cpu']
    return ['--data-path', csv_dir, *small]


@pytest.mark.parametrize('kind', networks.GAN_NETWORKS)
def test_a_run_from_start_to_report(command, flags, tmp_path, monkeypatch, names, kind):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(train_gan, '--model', kind, *flags)
    assert status == 0 and not err and 'frechet' in out and 'classes' in out, err
    folder = tmp_path / 'runs' / f'gan-{kind}'
    assert names(folder) == FILES | PICTURES
    metrics = read_metrics(folder)
    assert [m['epoch'] for m in metrics] == [1, 2, 3] and set(metrics[0]) == {'epoch', *TERMS, 'seconds'}
    assert all(0 < m['d_real'] < 1 and 0 < m['d_fake'] < 1 for m in metrics)
    results = json.loads((folder / 'results.json').read_text())
    assert set(results) >= RESULTS and 'test_loss' not in results
    report = (folder / 'report.html').read_text()
    assert report.count('data:image/png;base64') == 3 and report.count('data:image/gif;base64') == 2
    assert Image.open(folder / 'samples.gif').n_frames == 3
    assert Image.open(folder / 'interpolation.gif').n_frames == 2 * INTERPOLATED - 2

    trained = load_run(folder)  # whose draws are those of the last frame
    assert trained.frames.shape == (3, DRAWS, 28, 28)
    shown = trained.model.decode(trained.model.sample_prior(DRAWS, seed=noise_key(0, PRIOR)))
    assert torch.equal(shown.round().byte(), trained.frames[-1])

    status, out, err = command(evaluate, '--samples', '7')
    assert status == 0 and not err and f'gan-{kind}' in out
    samples = np.load(folder / 'samples_prior.npy')
    assert samples.shape == (7, 28, 28) and samples.dtype == np.uint8
    assert len(list(folder.glob('samples_*.npy'))) == 1
    again = json.loads((folder / 'results.json').read_text())
    assert again['frechet'] == pytest.approx(results['frechet'], rel=1e-6)
    status, _, _ = command(evaluate, '--dataset', 'digits', '--n-test', '30', '--json', 'grades.json')
    (grades,) = json.loads((tmp_path / 'grades.json').read_text())
    assert status == 0 and grades['frechet'] is None  # other data than the run's is no match for its samples


@pytest.mark.parametrize('kind', networks.GAN_NETWORKS)
def test_an_interrupted_run_ends_as_an_undisturbed_one(command, flags, tmp_path, monkeypatch, ctrl_c, kind):
    flags = ['--model', kind, *flags]
    assert command(train_gan, *flags, '--run-dir', tmp_path / 'whole')[0] == 0
    step, interrupted = GANTrainer.step, [5, 12, 20]  # within an epoch, and at its end

    def stop(self, *batch):
        if interrupted and self.step_number + 1 == interrupted[0]:
            interrupted.pop(0)
            ctrl_c()
        step(self, *batch)

    monkeypatch.setattr(GANTrainer, 'step', stop)
    flags += ['--run-dir', tmp_path / 'parts', '--resume']
    for _ in range(3):
        status, _, err = command(train_gan, *flags)
        assert status == 130 and 'the checkpoint is saved' in err
    assert command(train_gan, *flags)[0] == 0
    parts, whole = tmp_path / 'parts', tmp_path / 'whole'
    for name in ('checkpoint.pt', 'samples.gif'):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    lines = [[{**line, 'seconds': 0} for line in read_metrics(run)] for run in (parts, whole)]
    assert lines[0] == lines[1] and len(lines[0]) == 3

    # Killed after training, before the last file was written: it only grades and draws.
    (parts / 'results.json').unlink()
    status, _, err = command(train_gan, *flags)
    assert status == 0 and is_finished(parts), err
    status, _, err = command(train_gan, *flags, '--seed', '1')
    assert status == 2 and 'from another configuration: seed 0 (now 1)' in err


@pytest.mark.usefixtures('saved_every_epoch')
@pytest.mark.parametrize('poison, step', [('images', 14), ('weights', 24)])
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(
    command, flags, tmp_path, monkeypatch, one_line, poison, step
):
    whole = GANTrainer.step

    def poisoned(self, *batch):
        if self.step_number == 14 and poison == 'images':
            self.images.X = self.images.X * float('nan')
        whole(self, *batch)
        if self.step_number == 24 and poison == 'weights':  # the last of an epoch
            with torch.no_grad():
                self.model.discriminator[-1].bias.fill_(float('inf'))

    monkeypatch.setattr(GANTrainer, 'step', poisoned)
    status, _, err = command(train_gan, '--run-dir', tmp_path / 'run', *flags)
    assert status == 2 and one_line(err) and f'got none at step {step}' in err
    assert load_checkpoint(tmp_path / 'run' / 'checkpoint.pt')['step'] == 12
    assert not is_finished(tmp_path / 'run')


def test_images_that_do_not_fit_get_one_line(command, flags, tmp_path, one_line):
    images = np.random.default_rng(0).integers(0, 256, (40, 30, 30), np.uint8)
    np.save(tmp_path / 'images.npy', images)
    data = ['--data-path', tmp_path / 'images.npy']
    status, _, err = command(train_gan, *flags, *data, '--run-dir', tmp_path / 'run')
    assert status == 2 and one_line(err) and err.startswith('error: expected images whose height')


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--model', 'style'], "invalid choice: 'style'"),
        (['--lr', '0'], 'above 0'),
        (['--beta', '1'], 'unrecognized arguments'),
        (['--n-train', '65'], 'at most 64'),
    ],
)
def test_bad_flags_get_one_line(command, csv_dir, tmp_path, one_line, arguments, message):
    status, out, err = command(train_gan, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *arguments)
    assert status == 2 and one_line(err) and message in err and not out
