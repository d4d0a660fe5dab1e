"""The learned prior: its density, its draws, and the KL to it."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import kernels
import models
import networks

FAMILIES = [name for name, family in kernels.FAMILIES.items() if family.location_scale]


def make(dist='gaussian', latent_dim=3):
    """A model whose prior is far from where it starts."""
    torch.manual_seed(0)
    model = models.VariationalAutoDecoder(dist, latent_dim, 'mlp', learned_prior=True).requires_grad_(False)
    model.prior.params += 0.5 * torch.randn(model.prior.params.shape)
    model.prior.logits += torch.randn(model.prior.logits.shape)
    return model


def reference(prior):
    mean, log_sigma = prior.params.double().unbind(1)
    components = Independent(Normal(mean, log_sigma.exp()), 1)
    return MixtureSameFamily(Categorical(logits=prior.logits.double()), components)


@pytest.mark.parametrize('shape', [(3,), (1, 3), (50, 3), (4, 2, 3)])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_the_density_is_that_of_a_mixture(shape, dtype, tolerance):
    prior = make().prior
    z = 3 * torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    found = prior.log_density(z)
    assert found.dtype == dtype and found.shape == shape[:-1]
    expected = reference(prior).log_prob(z.double()).to(dtype)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_far_away_the_density_is_finite():
    prior = make().prior
    z = torch.full((1, 3), 1e4, requires_grad=True)
    log_density = prior.log_density(z)
    (gradient,) = torch.autograd.grad(log_density.sum(), z)
    assert torch.isfinite(log_density).all() and torch.isfinite(gradient).all()


def test_it_starts_with_mean_0_and_variance_1():
    torch.manual_seed(0)
    start = reference(networks.LearnedPrior(500))
    assert start.mean.mean().abs() < 0.02 and (start.variance.mean() - 1).abs() < 0.02


def test_draws_are_of_the_mixture():
    model, n = make(), 100_000
    z, expected = model.sample_prior(n, seed=3).double(), reference(model.prior)
    assert z.shape == (n, 3) and len(z.unique(dim=0)) == n
    assert ((z.mean(0) - expected.mean).abs() < 5 * (expected.variance / n).sqrt()).all()
    torch.testing.assert_close(z.var(0), expected.variance, rtol=0.05, atol=0)
    # and not only as wide: the density of the draws themselves has the mean of the reference's own draws
    torch.manual_seed(0)
    own, found = (expected.log_prob(draws) for draws in (expected.sample((n,)), z))
    assert (own.mean() - found.mean()).abs() < 5 * own.std() * (2 / n) ** 0.5


def test_draws_follow_from_the_seed():
    model = make()
    z = model.sample_prior(20, seed=3)
    assert torch.equal(z, model.sample_prior(20, seed=3))
    assert not torch.equal(z, model.sample_prior(20, seed=4))


@pytest.mark.parametrize('dist', FAMILIES)
def test_the_kl_is_right_on_average(dist):
    # Of a posterior in one dimension, whose KL an integral gives.
    model, n = make(dist, latent_dim=1), 200_000
    params = torch.tensor([0.3, -0.7]).view(1, *model.params_shape)
    noise = dict(seed=0, step=0, index=torch.arange(n))
    _, kl = model.sample(params.expand(n, *params.shape[1:]), **noise)
    grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64)[:, None]
    log_q = model.family.log_density(params[0].double(), grid)[:, 0]
    expected = torch.trapezoid(log_q.exp() * (log_q - model.log_prior(grid)), grid[:, 0])
    assert (kl.double().mean() - expected).abs() < 5 * kl.std() / n**0.5


@pytest.mark.parametrize('dist', FAMILIES)
def test_a_mixture_that_is_the_standard_prior_leaves_the_kl_as_it_is(dist):
    model = make(dist)
    if dist == 'laplace':  # no mixture of Gaussians is one
        model.prior.log_density = model.log_standard_prior
    else:
        model.prior.params.zero_()
    params = torch.randn(5, *model.params_shape, generator=torch.Generator().manual_seed(1))
    noise = dict(seed=0, step=0, index=torch.arange(5))
    _, kl = model.sample(params, **noise)
    _, expected = kernels.sample_kl(params, dist, seed=0, step=0)
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dist', FAMILIES)
def test_standardising_moves_it_with_the_latents(dist):
    model = make(dist)
    latents = 0.5 * torch.randn(50, model.latent_size, generator=torch.Generator().manual_seed(0)) + 0.3
    mean = model.mean(latents)
    before = model.prior.log_density(mean)
    new = model.standardise(latents, latents)
    assert not torch.allclose(new, latents)
    # In units that are `scale` times as large, a density is as many times as high.
    found = model.prior.log_density(model.mean(new)) - before
    torch.testing.assert_close(found, model.code_scale.log().sum().expand(50), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('dist', kernels.FAMILIES)
def test_the_log_density_of_the_prior_that_is_not_learned(dist):
    model = models.VariationalAutoDecoder(dist, 3, 'mlp')
    z = 0.9 * torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    each = {
        'laplace': lambda z: -z.abs() - torch.tensor(2.0).log(),
        'exponential': lambda z: -z,
        'uniform': lambda z: -torch.tensor(2.0).log().expand_as(z),
    }.get(dist, Normal(0, 1).log_prob)
    torch.testing.assert_close(model.log_prior(z), each(z).sum(-1))


def test_other_posteriors_keep_the_prior():
    model = make()
    assert models.with_posteriors(model, 'gaussian-full').prior is model.prior
