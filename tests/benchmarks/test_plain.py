"""The plain program that ours is measured against."""

import pytest
import torch

from benchmarks import plain

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Four epochs of training, and twice two passes over the test images."""
    for name, value in (('EPOCHS', 4), ('EVERY', 4), ('PASSES', 2)):
        monkeypatch.setattr(plain, name, value)


def test_its_shortest_way_is_returned(digits, monkeypatch):
    monkeypatch.setattr(plain, 'TARGET', 10)  # any loss will do
    curve = plain.plain_curve(*digits, CPU, seed=0)
    assert len(curve) == 1 and curve[0][0] > 0


def test_a_fit_ends_when_it_would_not_reach_the_target(digits, monkeypatch):
    monkeypatch.setattr(plain, 'TARGET', 0)
    monkeypatch.setattr(plain, 'EPOCHS', 20)
    monkeypatch.setattr(plain, 'LATENT_LR', 1e-9)  # the loss stays where it is
    fit = plain.Plain(digits[1], CPU, plain.PlainDecoder().requires_grad_(False))
    assert len(plain.fit_curve(fit, 0.0, float('inf'))) == 2


def test_it_learns(digits, monkeypatch):
    monkeypatch.setattr(plain, 'TARGET', 0)
    curve = plain.plain_curve(*digits, CPU, seed=0)
    assert len(curve) == 2 and curve[-1][1] < curve[0][1]
