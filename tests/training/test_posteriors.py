"""Posteriors that are fitted further, on a linear decoder, whose true posteriors are known."""

import pytest
import torch

import models
from kernels.families.gaussian_full import unpack
from training import posteriors
from training.data import ImageDataset
from training.errors import UserError
from training.posteriors import precision, refine_posteriors
from training.runs import TrainedRun, build_model
from training.systems import ADConfig, AEConfig, VAEConfig


@pytest.fixture
def linear(monkeypatch):
    """A linear decoder W [4, 784] in place of every model's own."""
    weights = 0.05 * torch.randn(4, 784, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(models.AutoDecoder, 'render', lambda self, code: (code @ weights).view(-1, 28, 28))
    return weights


@pytest.fixture
def images(linear):
    """Five images that the linear decoder and noise of standard deviation 0.1 made."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(5, 4, generator=generator)
    x = z @ linear + 0.1 * torch.randn(5, 784, generator=generator)
    return ImageDataset(255 * x.view(5, 28, 28), torch.zeros(5), 'digits')


def true_posteriors(weights, images):
    """Means [5, 4] and the covariance [4, 4]."""
    covariance = torch.linalg.inv(torch.eye(4) + weights @ weights.T / 0.01)
    return images.X.flatten(1) / 255 @ weights.T @ covariance / 0.01, covariance


def make(vad_config, system):
    small = dict(latent_dim=4, obs_std=0.1, dataset='digits', shape=(28, 28))
    configs = {
        'ad': lambda: ADConfig(**small),
        'ae': lambda: AEConfig(**small, encoder='conv', decoder='groupnorm'),
        'vae': lambda: VAEConfig(**small),
        'full': lambda: vad_config(dist='gaussian-full', latent_dim=4),
        'vad': lambda: vad_config(latent_dim=4),
    }
    config = configs[system]()
    return TrainedRun(config, build_model(config).eval().requires_grad_(False))


@pytest.mark.parametrize('system', ['ad', 'ae', 'vad', 'vae', 'full'])
def test_full_posteriors_of_a_linear_decoder_are_the_true_ones(vad_config, linear, images, system):
    trained = make(vad_config, system)
    mean, covariance = true_posteriors(linear, images)
    latents = torch.zeros(5, trained.model.latent_size)
    latents[:, :4] = mean + 0.2  # about two standard deviations off
    latents[:, 4:8] = -2.3  # if there is a scale, its logarithm
    model, fitted = refine_posteriors(trained, images, latents, full=True)
    assert model.dist == 'gaussian-full' and model.decoder is trained.model.decoder
    mu, s, t = unpack(fitted)
    scale = torch.exp(s)[:, :, None] * (t + torch.eye(4))
    torch.testing.assert_close(mu, mean, atol=2e-4, rtol=0)
    torch.testing.assert_close(scale @ scale.mT, covariance.expand(5, 4, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize('system', ['ad', 'ae'])
def test_a_point_gets_a_gaussian_posterior(vad_config, linear, images, system):
    trained = make(vad_config, system)
    mean, covariance = true_posteriors(linear, images)
    model, fitted = refine_posteriors(trained, images, mean + 0.02, full=False)
    assert model.dist == 'gaussian' and fitted.shape == (5, 8)
    torch.testing.assert_close(fitted[:, :4], mean, atol=0.1, rtol=0.05)
    # The best Gaussian without correlations has the precisions of the diagonal.
    best = -0.5 * torch.log(torch.linalg.inv(covariance).diagonal())
    torch.testing.assert_close(fitted[:, 4:], best.expand(5, 4), atol=0.1, rtol=0.1)


def test_the_precision_leaves_missing_pixels_out(vad_config, linear):
    trained = make(vad_config, 'vad')
    observed = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.3
    found = precision(trained.model, trained.config, torch.randn(3, 4), torch.full((3, 4), 0.1), observed)
    seen = observed.flatten(1)[:, None] * linear  # [3, 4, 784]
    expected = torch.eye(4) + seen @ linear.T / 0.01
    torch.testing.assert_close(found, expected.double(), rtol=1e-3, atol=1e-2)


def test_the_precision_of_a_bernoulli_likelihood():
    config = VAEConfig(latent_dim=4, likelihood='bernoulli', dataset='digits', shape=(28, 28))
    model, mean = build_model(config).eval().requires_grad_(False).double(), torch.randn(2, 4).double()
    found = precision(model, config, mean, torch.full_like(mean, 1e-4), None)
    p = torch.sigmoid(model.logits(mean)).flatten(1)
    jacobian = torch.stack(
        [torch.func.jacrev(lambda z: model.logits(z[None]).flatten())(z) for z in mean]
    )  # [2, 784, 4]
    expected = torch.eye(4) + jacobian.mT @ ((p * (1 - p))[:, :, None] * jacobian)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_fewer_pixels_than_dimensions_and_a_small_obs_std(vad_config):
    config = vad_config(latent_dim=64, obs_std=1e-3)
    model = build_model(config).eval().requires_grad_(False)
    observed = torch.zeros(2, 28, 28, dtype=torch.bool)
    observed[:, :4, :4] = True
    mean = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    params = posteriors.start_full(model, config, mean, torch.zeros(2, 64), observed)  # no step at all
    _, s, t = unpack(params)
    assert torch.isfinite(params).all() and (s < 1e-3).all()  # inside the prior


def test_posteriors_without_correlations_are_fitted_further(digits, vad_config, monkeypatch):
    trained = make(vad_config, 'vad')
    monkeypatch.setattr(posteriors, 'FURTHER', posteriors.Schedule(passes=5, lr=0.06))
    latents = torch.zeros(40, 8)
    model, fitted = refine_posteriors(trained, digits[1], latents, full=False)
    assert model is trained.model and not torch.equal(fitted, latents) and not latents.any()


def test_a_family_that_is_not_gaussian_has_no_full_covariance(digits, vad_config):
    config = vad_config(dist='laplace')
    trained = TrainedRun(config, build_model(config))
    with pytest.raises(UserError, match='for --refine full, got laplace; leave it out'):
        refine_posteriors(trained, digits[1], torch.zeros(40, 16), full=True)
