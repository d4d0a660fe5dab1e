import pytest
import torch

from evaluation.second_stage import SecondStage, fit_second_stage


@pytest.fixture
def ring():
    """Codes [2000, 5] around a circle of radius 3 in the first two dimensions; no Gaussian is like it."""
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(2000, generator=generator)
    circle = 3 * torch.stack([angle.cos(), angle.sin()], 1)
    noise = 0.1 * torch.randn(2000, 5, generator=generator)
    return torch.cat([circle, torch.zeros(2000, 3)], 1) + noise


def test_it_begins_with_the_principal_components(ring):
    stage = SecondStage(ring * torch.tensor([1.0, 1, 1, 1, 100]) + 7)
    codes = stage.sample(20_000, seed=0)
    torch.testing.assert_close(codes.mean(0), stage.mean, atol=0.2, rtol=0)
    torch.testing.assert_close(codes.std(0), stage.std, atol=0.01, rtol=0.05)


def test_training_lowers_the_negative_elbo(ring):
    torch.manual_seed(0)
    before, after = SecondStage(ring)(ring).mean(), fit_second_stage(ring, seed=0)(ring).mean()
    assert after < before - 1


def test_samples_are_where_the_codes_are(ring):
    radius = fit_second_stage(ring, seed=0).sample(1000, seed=1)[:, :2].norm(dim=1)
    gaussian = SecondStage(ring).sample(1000, seed=1)[:, :2].norm(dim=1)
    assert (radius - 3).abs().mean() < 0.5 * (gaussian - 3).abs().mean()


def test_it_follows_from_the_seed(ring):
    first, again, other = (fit_second_stage(ring[:50], seed).sample(5, seed=3) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize('n, d', [(1, 1), (1, 60), (2, 3), (40, 2)])
def test_few_codes(n, d):
    codes = torch.randn(n, d)
    assert fit_second_stage(codes, seed=0).sample(9, seed=0).shape == (9, d)
    assert torch.isfinite(fit_second_stage(codes, seed=0).sample(9, seed=0)).all()


def test_equal_codes():
    codes = fit_second_stage(torch.full((30, 4), 2.0), seed=0).sample(9, seed=0)
    torch.testing.assert_close(codes, torch.full((9, 4), 2.0), atol=0.02, rtol=0)
