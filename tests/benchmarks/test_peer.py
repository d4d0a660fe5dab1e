"""The comparison with pythae, where it is installed; no times are asserted."""

import importlib.util
import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks import peer
from training import ImageDataset, read_json


@pytest.fixture(autouse=True)
def small(digits, monkeypatch):
    monkeypatch.setattr(peer, 'exit_on_sigterm', lambda: None)
    monkeypatch.setattr(peer, 'load_images', lambda path: digits)
    monkeypatch.setattr(peer, 'our_run', lambda *_: dict(seconds=1.0, test_loss=0.1, negative_elbo=500.0))


def test_a_missing_library_is_said(command, one_line, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    status, out, err = command(peer, '--dir', tmp_path)
    assert status == 2 and one_line(err) and not out
    assert 'expected the package pythae, got none; install it by pip install pythae' in err


@pytest.mark.skipif(importlib.util.find_spec('pythae') is None, reason='pythae is not installed')
def test_the_peer_is_trained_and_compared(command, tmp_path):
    status, out, err = command(peer, '--epochs', '1', '--dir', tmp_path)
    assert status == 0 and not err
    rows = read_json(tmp_path / 'peer.json')['rows']
    assert len(rows) == 8 and all(row['seconds'] > 0 and row['test_loss'] > 0 for row in rows.values())
    assert all(f'| {name} |' in out for name in rows)


def test_grades_of_a_model_that_knows_its_images():
    """The loss of a mean of 0.5 and a standard deviation of 1 for images that are 0.5 everywhere."""
    images = ImageDataset(torch.full((3, 28, 28), 127.5), torch.zeros(3), 'fashion-mnist')
    zeros = torch.zeros(3, peer.LATENT_DIM)
    model = SimpleNamespace(
        encoder=lambda x: SimpleNamespace(embedding=zeros + 1, log_covariance=zeros),
        decoder=lambda z: SimpleNamespace(reconstruction=torch.full((3, 28, 28), 0.5)),
    )
    grades = peer.grade_peer(model, images)
    assert grades['test_loss'] == 0 and math.isclose(grades['negative_elbo'], peer.LATENT_DIM / 2)
