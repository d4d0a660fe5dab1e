"""Shared by the tests of the experiments."""

import pytest

import train_ae


@pytest.fixture(autouse=True)
def quick(monkeypatch, quicken):
    quicken(monkeypatch)


@pytest.fixture(scope='session')
def small():
    """Flags of a small run."""
    return ['--epochs', '2', '--latent-dim', '3', '--device', 'cpu']


@pytest.fixture
def ae_run(command, csv_dir, tmp_path, small):
    """A finished run of train_ae.py."""
    folder = tmp_path / 'ae'
    status, _, err = command(train_ae, '--data-path', csv_dir, '--run-dir', folder, *small)
    assert status == 0 and not err, err
    return folder
