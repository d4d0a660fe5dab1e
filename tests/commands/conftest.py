"""Shared by the tests of the commands."""

import pytest

from training.checkpoints import load_checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def quick(monkeypatch, quicken):
    quicken(monkeypatch)


@pytest.fixture(scope='session')
def small():
    """Flags of a small run."""
    return ['--epochs', '2', '--latent-dim', '6', '--device', 'cpu']


@pytest.fixture
def train(command, csv_dir, tmp_path, small):
    """train(module, *arguments): `command` with the flags of a small run of csv_dir in tmp_path / 'run'."""
    flags = ['--data-path', csv_dir, '--run-dir', tmp_path / 'run', *small]
    return lambda module, *arguments: command(module, *flags, *arguments)


@pytest.fixture(scope='session')
def change_checkpoint():
    """change_checkpoint(run, **changes): change entries of a run's checkpoint."""

    def change(run, **changes):
        path = run / 'checkpoint.pt'
        save_checkpoint(path, {**load_checkpoint(path), **changes})

    return change
