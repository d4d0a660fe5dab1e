"""The GAN: networks, both players' steps, and its run from start to report."""

import json
import os
import signal

import commands
import gan
import numpy as np
import pictures
import pytest
import torch
from PIL import Image

import evaluate
import models
import train_gan
import training
import utils

SMALL = ['--epochs', '3', '--latent-dim', '6', '--batch-size', '16', '--device', 'cpu']


@pytest.fixture(autouse=True)
def data_path(monkeypatch, csv_dir):
    monkeypatch.setenv('DATA_PATH', str(csv_dir))


def test_images_that_do_not_fit_get_one_line(command, monkeypatch, tmp_path):
    X = torch.rand(20, 30, 30) * 255
    dataset = utils.ImageDataset(X, torch.arange(20) % 10, 'digits')
    monkeypatch.setattr(utils, 'load_data', lambda *_: (dataset, dataset, 'here'))
    status, _, err = command(train_gan, '--run-dir', tmp_path / 'run', *SMALL)
    assert status == 2 and err.startswith('error: expected images whose height') and err.count('\n') == 1


# --------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize('kind', models.GAN_NETWORKS)
def test_a_run_from_start_to_report(command, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(train_gan, '--model', kind, *SMALL)
    assert status == 0 and not err and 'frechet' in out and 'classes' in out, err
    folder = tmp_path / 'runs' / f'gan-{kind}'
    drawn = {'loss.png', 'samples.png', 'samples.gif', 'interpolation.png', 'interpolation.gif'}
    assert set(os.listdir(folder)) == {
        'config.json',
        'checkpoint.pt',
        'metrics.jsonl',
        'results.json',
        'report.html',
        *drawn,
    }
    metrics = training.read_metrics(folder)
    assert [m['epoch'] for m in metrics] == [1, 2, 3] and set(metrics[0]) == {'epoch', *gan.NAMES, 'seconds'}
    assert all(0 < m['d_real'] < 1 and 0 < m['d_fake'] < 1 for m in metrics)
    results = json.loads((folder / 'results.json').read_text())
    assert {
        'system',
        'model',
        'latent_dim',
        'frechet',
        'frechet_floor',
        'frechet_features',
        'classes',
        'smallest_class',
        'train_seconds',
    } <= set(results) and 'test_loss' not in results
    report = (folder / 'report.html').read_text()
    assert report.count('data:image/png;base64') == 3 and report.count('data:image/gif;base64') == 2
    assert Image.open(folder / 'samples.gif').n_frames == 3
    assert Image.open(folder / 'interpolation.gif').n_frames == 2 * pictures.STEPS - 2
    state = utils.load_checkpoint(folder / 'checkpoint.pt')
    assert state['frames'].shape == (3, gan.DRAWS, 28, 28)
    model = commands.load_model(state, 'cpu')
    shown = model.decode(model.sample_prior(gan.DRAWS, seed=training.key(0, training.PRIOR)))
    assert torch.equal(shown.round().byte(), state['frames'][-1])

    status, out, err = command(evaluate, '--samples', '7')
    assert status == 0 and not err and f'gan-{kind}' in out
    samples = np.load(folder / 'samples_prior.npy')
    assert (
        samples.shape == (7, 28, 28)
        and samples.dtype == np.uint8
        and not (folder / 'samples_mixture.npy').exists()
    )
    again = json.loads((folder / 'results.json').read_text())
    assert again['frechet'] == pytest.approx(results['frechet'], rel=1e-6)
    status, out, err = command(evaluate, '--dataset', 'digits', '--n-test', '30', '--json', 'grades.json')
    (grades,) = json.loads((tmp_path / 'grades.json').read_text())
    assert status == 0 and grades['frechet'] is None  # other data than the run's is no match for its samples


@pytest.mark.parametrize('kind', models.GAN_NETWORKS)
def test_an_interrupted_run_ends_as_an_undisturbed_one(command, tmp_path, monkeypatch, kind):
    flags = ['--model', kind, *SMALL]
    assert command(train_gan, *flags, '--run-dir', tmp_path / 'whole')[0] == 0
    step, interrupted = gan.Trainer.step, [5, 12, 20]  # 12 steps an epoch: within one, and at its end

    def stop(self, *batch):
        if interrupted and self.step_number + 1 == interrupted[0]:
            interrupted.pop(0)
            os.kill(os.getpid(), signal.SIGINT)
        step(self, *batch)

    monkeypatch.setattr(gan.Trainer, 'step', stop)
    flags += ['--run-dir', tmp_path / 'parts', '--resume']
    for _ in range(3):
        status, _, err = command(train_gan, *flags)
        assert status == 130 and 'the checkpoint is saved' in err
    assert command(train_gan, *flags)[0] == 0
    parts, whole = (tmp_path / name / 'checkpoint.pt' for name in ('parts', 'whole'))
    assert parts.read_bytes() == whole.read_bytes()
    lines = [[{**m, 'seconds': 0} for m in training.read_metrics(path.parent)] for path in (parts, whole)]
    assert lines[0] == lines[1] and len(lines[0]) == 3
    assert (parts.parent / 'samples.gif').read_bytes() == (whole.parent / 'samples.gif').read_bytes()
    # Killed after training, before the last file was written: it only grades and draws.
    (parts.parent / 'results.json').unlink()
    status, _, err = command(train_gan, *flags)
    assert status == 0 and utils.is_whole(parts.parent), err
    status, _, err = command(train_gan, *flags[:-1], '--resume', '--seed', '1')
    assert status == 2 and 'from another configuration: seed 0 (now 1)' in err


@pytest.mark.parametrize('poison', ['images', 'weights'])
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(command, tmp_path, monkeypatch, poison):
    step = gan.Trainer.step

    def poisoned(self, *batch):
        if self.step_number == 14 and poison == 'images':
            self.images.X = self.images.X * float('nan')
        step(self, *batch)
        if self.step_number == 24 and poison == 'weights':  # the last of an epoch
            with torch.no_grad():
                self.model.discriminator[-1].bias.fill_(float('inf'))

    monkeypatch.setattr(gan.Trainer, 'step', poisoned)
    status, _, err = command(train_gan, '--run-dir', tmp_path / 'run', *SMALL)
    assert (
        status == 2 and err.count('\n') == 1 and f'got none at step {14 if poison == "images" else 24}' in err
    )
    assert utils.load_checkpoint(tmp_path / 'run' / 'checkpoint.pt')['step'] == 12 and not utils.is_whole(
        tmp_path / 'run'
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--model', 'style'], "invalid choice: 'style'"),
        (['--lr', '0'], 'above 0'),
        (['--beta', '1'], 'unrecognized arguments'),
        (['--n-train', '65'], 'at most 64'),
    ],
)
def test_bad_flags_get_one_line(command, tmp_path, arguments, message):
    status, out, err = command(train_gan, '--run-dir', tmp_path / 'run', *arguments)
    assert status == 2 and err.startswith('error: ') and err.count('\n') == 1 and message in err and not out
