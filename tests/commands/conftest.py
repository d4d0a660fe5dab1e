"""Shared by the tests of the commands."""

import pytest

from evaluation import frechet
from training.checkpoints import load_checkpoint, save_checkpoint


@pytest.fixture(scope='session')
def small():
    """Flags of a small run."""
    return ['--epochs', '2', '--latent-dim', '6', '--device', 'cpu']


@pytest.fixture
def train(command, csv_dir, tmp_path, small):
    """train(module, *arguments): `command` with the flags of a small run of csv_dir in tmp_path / 'run'."""
    flags = ['--data-path', csv_dir, '--run-dir', tmp_path / 'run', *small]
    return lambda module, *arguments: command(module, *flags, *arguments)


@pytest.fixture
def quick_classifier(monkeypatch):
    """Fréchet distances that take a moment, and mean nothing: for images other than csv_dir's, whose
    classifier is trained only once."""
    monkeypatch.setattr(frechet, 'STEPS', 3)
    monkeypatch.setattr(frechet, 'SAMPLES', 20)
    monkeypatch.setattr(frechet, 'known', {})


@pytest.fixture(scope='session')
def change_checkpoint():
    """change_checkpoint(run, **changes): change entries of a run's checkpoint."""

    def change(run, **changes):
        path = run / 'checkpoint.pt'
        save_checkpoint(path, {**load_checkpoint(path), **changes})

    return change
