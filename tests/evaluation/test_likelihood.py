"""Estimates of log p, on a linear decoder, whose log p is known: that of probabilistic PCA."""

import math

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal

import kernels
import models
from evaluation.likelihood import estimate_likelihood, grade_likelihood, proposal_draws
from training.data import ImageDataset
from training.posteriors import refine_posteriors
from training.runs import TrainedRun, build_model
from training.systems import ADConfig, VAEConfig


@pytest.fixture
def linear(monkeypatch):
    """A linear decoder W [4, 784] in place of every model's own, and eight images that it made."""
    generator = torch.Generator().manual_seed(0)
    weights = 0.05 * torch.randn(4, 784, generator=generator)
    monkeypatch.setattr(models.AutoDecoder, 'render', lambda self, code: (code @ weights).view(-1, 28, 28))
    x = torch.randn(8, 4, generator=generator) @ weights + 0.1 * torch.randn(8, 784, generator=generator)
    return weights, ImageDataset(255 * x.view(8, 28, 28), torch.zeros(8), 'digits')


def exact(weights, x, obs_std=0.1):
    """log p [N] of x [N, F]."""
    noise = torch.full((weights.shape[1],), obs_std**2)
    return LowRankMultivariateNormal(torch.zeros(weights.shape[1]), weights.T, noise).log_prob(x)


def start(trained, weights, images):
    """Latents near the true posteriors."""
    precision = torch.eye(4) + weights @ weights.T / trained.config.obs_std**2
    mean = images.X.flatten(1) / 255 @ weights.T / trained.config.obs_std**2 @ torch.linalg.inv(precision)
    latents = torch.full((8, trained.model.latent_size), -2.0)  # log of the scale, if there is one
    latents[:, :4] = mean + 0.1
    return latents


@pytest.mark.parametrize('system', ['ad', 'vad'])
@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('obs_std', [0.1, 0.2])
def test_the_likelihood_of_probabilistic_pca(linear, vad_config, system, full, obs_std):
    weights, images = linear
    small = dict(latent_dim=4, obs_std=obs_std, dataset='digits', shape=(28, 28))
    config = ADConfig(**small) if system == 'ad' else vad_config(**small)
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    model, latents = refine_posteriors(trained, images, start(trained, weights, images), full)
    found = estimate_likelihood(trained, model, latents, images, 1000)
    expected = exact(weights, images.X.flatten(1) / 255, obs_std).double()
    assert (found.log_p[:, -1] - expected).mean().abs() < 0.1  # nats, of about 700
    assert found.draws == [1, 3, 7, 15, 31, 62, 125, 250, 500, 1000]
    assert (found.ess > (500 if full else 5)).all() and (found.ess <= 1000 + 1e-6).all()


def test_the_likelihood_of_incomplete_images_is_that_of_their_observed_pixels(linear, vad_config):
    weights, images = linear
    incomplete = images.hide_pixels('pixels', 0.5, seed=0, part=1)
    config = vad_config(latent_dim=4)
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    latents = start(trained, weights, images)
    model, latents = refine_posteriors(trained, incomplete, latents, full=True)
    found = estimate_likelihood(trained, model, latents, incomplete, 1000).log_p[:, -1]
    for i, (x, seen) in enumerate(zip(images.X.flatten(1) / 255, incomplete.observed[torch.arange(8)])):
        seen = seen.flatten()
        expected = exact(weights[:, seen], x[None, seen])
        assert (found[i] - expected).abs() < 0.1


def test_the_likelihood_under_a_learned_prior(linear, vad_config):
    # Of a linear decoder and a mixture of Gaussians images are a mixture of Gaussians.
    weights, images = linear
    config = vad_config(latent_dim=4, obs_std=0.1, prior='learned')
    model = build_model(config).eval().requires_grad_(False)
    model.prior.params -= 0.5  # another than the standard prior, whose mean and variance it starts with
    trained = TrainedRun(config, model)
    x = (images.X.flatten(1) / 255).double()
    parts = [
        LowRankMultivariateNormal(
            mean.double() @ weights.double(),
            (log_sigma.exp()[:, None] * weights).T.double(),
            torch.full((784,), 0.01, dtype=torch.float64),
        ).log_prob(x)
        for mean, log_sigma in model.prior.params
    ]
    expected = torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts))  # its shares start equal
    posteriors, latents = refine_posteriors(trained, images, start(trained, weights, images), full=True)
    found = estimate_likelihood(trained, posteriors, latents, images, 1000)
    assert (found.log_p[:, -1] - expected).mean().abs() < 0.1
    assert (expected - exact(weights, x.float())).mean().abs() > 1


def test_more_draws_are_a_continuation_of_fewer(digits, vad_config):
    config = vad_config()
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    latents = torch.zeros(3, 16)
    few, many = (estimate_likelihood(trained, trained.model, latents, digits[1], k) for k in (8, 16))
    torch.testing.assert_close(few.log_p, many.log_p[:, :4], rtol=1e-5, atol=0)  # decoded in other batches


def test_a_single_draw(digits, vad_config):
    config = vad_config()
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    found = estimate_likelihood(trained, trained.model, torch.zeros(1, 16), digits[1], 1)
    grades = found.grades()
    assert found.draws == [1] and found.ess.tolist() == [1.0] and math.isfinite(grades['log_likelihood'])
    assert grades['log_likelihood_half'] is None and grades['log_likelihood_error'] is None


@pytest.mark.parametrize('dist', kernels.FAMILIES)
def test_the_weights_of_the_proposal_have_the_mean_one(dist, vad_config):
    # E[p(z) / r(z)] = 1 for z ~ r, for any posterior.
    model = build_model(vad_config(dist=dist, latent_dim=3))
    params = 0.3 * torch.randn(1, *model.params_shape, generator=torch.Generator().manual_seed(0))
    _, log_ratio = proposal_draws(model, params, torch.arange(20_000), 3, seed=5)
    weights = torch.exp(-log_ratio)
    assert (weights.mean() - 1).abs() < 5 * weights.std() / 20_000**0.5
    assert weights.max() <= 50 + 1e-6  # 1 / SHARE


def test_a_bernoulli_likelihood_of_grey_values_is_warned_of(digits, capsys, tmp_path):
    config = VAEConfig(latent_dim=3, likelihood='bernoulli', dataset='digits', shape=(28, 28))
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    grey, latents = digits[1].part(slice(2)), torch.zeros(2, 6)
    binary = ImageDataset(255 * (grey.X > 127).float(), grey.y, 'digits')
    grades = grade_likelihood(trained, trained.model, latents, binary, 4, tmp_path)
    assert grades['log_likelihood'] < 0 and grades['proposal'] == 'gaussian'
    assert not capsys.readouterr().err and (tmp_path / 'likelihood.png').exists()
    grade_likelihood(trained, trained.model, latents, grey, 4, None)
    assert 'cross-entropy of grey values is not a likelihood' in capsys.readouterr().err


def test_a_uniform_posterior_is_warned_of(digits, vad_config, capsys):
    config = vad_config(dist='uniform')
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    grade_likelihood(trained, trained.model, torch.zeros(2, 16), digits[1].part(slice(2)), 4, None)
    assert 'lower bound that does not converge' in capsys.readouterr().err
