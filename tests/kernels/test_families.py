"""The posterior families against torch.distributions, SciPy and Monte Carlo."""

import math

import pytest
import scipy.stats
import torch
from torch.distributions import Exponential, Laplace, MultivariateNormal, Normal, Uniform, kl_divergence

import kernels
from kernels.families.family import h
from kernels.families.gaussian_full import unpack

# A family's row: parameters [N, P, D] -> the same posterior in torch.distributions; its prior; and one
# image's parameters [P, D] -> the same posterior in SciPy, of each dimension.
DISTRIBUTIONS = {
    'gaussian': (
        lambda p: Normal(p[:, 0], p[:, 1].exp()),
        lambda: Normal(0.0, 1.0),
        lambda p: scipy.stats.norm(p[0], torch.exp(p[1])),
    ),
    'laplace': (
        lambda p: Laplace(p[:, 0], p[:, 1].exp()),
        lambda: Laplace(0.0, 1.0),
        lambda p: scipy.stats.laplace(p[0], torch.exp(p[1])),
    ),
    'exponential': (
        lambda p: Exponential(p[:, 0].exp()),
        lambda: Exponential(1.0),
        lambda p: scipy.stats.expon(scale=torch.exp(-p[0])),
    ),
    'uniform': (
        lambda p: Uniform(*interval(p[:, 0], p[:, 1])),
        lambda: Uniform(-1.0, 1.0),
        lambda p: scipy.stats.uniform(interval(*p)[0], 2 / torch.cosh(p[1])),
    ),
    'gaussian-full': (
        lambda p: MultivariateNormal(unpack(p)[0], scale_tril=scale(p)),
        lambda: Normal(0.0, 1.0),
        lambda p: scipy.stats.norm(unpack(p)[0], scale(p).square().sum(-1).sqrt()),
    ),
}


def scale(p):
    """L of a Gaussian with a full covariance."""
    mu, s, t = unpack(p)
    return torch.exp(s).unsqueeze(-1) * (t + torch.eye(mu.shape[-1]))


def total(x):
    """Over the dimensions, unless torch.distributions has added them up."""
    return x.sum(-1) if x.dim() > 1 else x


def interval(a, s):
    """Ends of a uniform posterior."""
    w = 1 / torch.cosh(s)
    return (1 - w) * torch.tanh(a) - w, (1 - w) * torch.tanh(a) + w


def test_every_family_is_tested():
    assert list(DISTRIBUTIONS) == list(kernels.FAMILIES)


def test_kl_equals_torch_distributions(dist, random_params):
    params = random_params(dist, dtype=torch.float64).cpu()
    posterior, prior, _ = DISTRIBUTIONS[dist]
    _, kl = kernels.sample_kl(params, dist, seed=0, step=0)
    if dist == 'gaussian-full':
        prior = lambda: MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())  # noqa: E731
    torch.testing.assert_close(kl, total(kl_divergence(posterior(params), prior())))


def test_the_density_equals_torch_distributions(dist, random_params):
    params = random_params(dist, dtype=torch.float64).cpu()
    posterior, prior, _ = DISTRIBUTIONS[dist]
    z, _ = kernels.sample_kl(params, dist, seed=0, step=0)
    log_density = kernels.family(dist).log_density
    expected = posterior(params).log_prob(z)  # [N, D], or [N] where its dimensions depend on each other
    actual = log_density(params, z)
    torch.testing.assert_close(actual if expected.dim() > 1 else actual.sum(1), expected)
    torch.testing.assert_close(
        log_density(torch.zeros_like(params), z), prior().log_prob(z), check_dtype=False
    )
    several = torch.stack([z, 0.9 * z])  # [2, N, D]
    torch.testing.assert_close(log_density(params, several)[0], actual)


@pytest.mark.parametrize('z', [-1.5, 0.51, 2.0])
def test_the_density_outside_a_uniform_posterior_is_zero(z):
    params = torch.tensor([[[0.0], [math.acosh(2)]]])  # from -0.5 to 0.5
    assert kernels.family('uniform').log_density(params, torch.tensor([[z]])).item() == -math.inf


def test_kl_equals_its_monte_carlo_estimate(dist, random_params):
    params = 0.5 * random_params(dist, n=2, d=4, dtype=torch.float64).cpu()
    posterior, prior, _ = DISTRIBUTIONS[dist]
    n = 40_000
    rows = torch.arange(2).repeat_interleave(n)
    z, kl = kernels.sample_kl(params, dist, seed=1, step=0, rows=rows, draw=torch.arange(n).repeat(2))
    ratio = (total(posterior(params[rows]).log_prob(z)) - total(prior().log_prob(z))).view(2, n)
    error = 5 * ratio.std(1) / math.sqrt(n) + 1e-7  # of a uniform posterior the ratio is the same everywhere
    assert ((ratio.mean(1) - kl.view(2, n)[:, 0]).abs() < error).all()


@pytest.mark.parametrize('scale', [0.0, 1e-6, 1e-4, 1e-2])
def test_kl_is_accurate_near_the_prior(dist, scale, random_params):
    params = scale * random_params(dist, d=60, dtype=torch.float64).cpu()
    _, exact = kernels.sample_kl(params, dist, seed=0, step=0)
    _, kl = kernels.sample_kl(params.float(), dist, seed=0, step=0)
    torch.testing.assert_close(kl.double(), exact, rtol=0.01, atol=60 * scale * 1e-7)
    assert (kl >= -60 * scale * 1e-7).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_h_keeps_its_digits_near_zero(dtype):
    x = torch.tensor([-1e-2, -1e-3, -1e-5, 1e-5, 1e-3, 1e-2], dtype=dtype)
    wide = x.double()
    exact = wide**2 * (1 / 2 + wide / 6 + wide**2 / 24 + wide**3 / 120 + wide**4 / 720)
    rtol = 1e-6 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(h(x).double(), exact, rtol=rtol, atol=0)


def test_h_is_not_negative():
    assert (h(torch.linspace(-20, 20, 10_001)) >= -1e-7).all()


def test_samples_follow_the_posterior(sample_kl, dist, random_params, device):
    params = random_params(dist, n=1, d=4)
    # Triton's interpreter takes a hundredth of a second for each sample of a full covariance.
    n = 512 if kernels.family(dist).packed and sample_kl is kernels.sample_kl_triton else 8192
    rows = torch.zeros(n, dtype=torch.int64, device=device)
    z, _ = sample_kl(params, dist, seed=2, step=0, rows=rows, draw=torch.arange(n, device=device))
    posterior = DISTRIBUTIONS[dist][2](params[0].cpu())
    for d, samples in enumerate(z.double().cpu().T):
        assert scipy.stats.kstest(posterior.cdf(samples[:, None])[:, d], 'uniform').pvalue > 1e-3


def test_the_mean_equals_torch_distributions(dist, random_params):
    params = random_params(dist, n=1, d=4).cpu()
    torch.testing.assert_close(kernels.family(dist).mean(params), DISTRIBUTIONS[dist][0](params).mean)


def test_the_quantiles_of_the_prior_equal_torch_distributions(dist):
    u = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    expected = DISTRIBUTIONS[dist][1]().icdf(u)
    torch.testing.assert_close(kernels.family(dist).quantile(u), expected, check_dtype=False)


def test_zero_parameters_are_the_prior(dist):
    params = torch.zeros(7, *kernels.family(dist).shape(6))
    z, kl = kernels.sample_kl(params, dist, seed=9, step=0)
    assert torch.equal(z, kernels.sample_prior(dist, (7, 6), seed=9)) and not kl.any()


def test_gradients_equal_finite_differences(dist, random_params):
    params = random_params(dist, n=3, d=5, dtype=torch.float64).cpu().requires_grad_()
    torch.autograd.gradcheck(lambda p: kernels.sample_kl(p, dist, seed=3, step=1), params)


def test_the_laplace_gradient_is_zero_at_the_prior():
    params = torch.zeros(1, 2, 1, requires_grad=True)
    kernels.sample_kl(params, 'laplace', seed=0, step=0)[1].sum().backward()
    assert params.grad.tolist() == [[[0.0], [0.0]]]


@pytest.mark.parametrize('s', [-104.0, -200.0, -1000.0])
@pytest.mark.parametrize('mu', [0.0, 2.0])
def test_the_narrowest_laplace_has_a_finite_kl_and_gradient(mu, s):
    params = torch.tensor([[[mu], [s]]], requires_grad=True)  # exp(s) is 0, or nearly
    _, kl = kernels.sample_kl(params, 'laplace', seed=0, step=0)
    kl.backward()
    torch.testing.assert_close(kl.detach(), torch.tensor([mu - 1 - s]))
    torch.testing.assert_close(params.grad, torch.tensor([[[float(mu > 0)], [-1.0]]]))
    gradient = kernels.sample_kl_gradient(params, 'laplace', None, torch.ones(1), seed=0, step=0)
    torch.testing.assert_close(gradient, params.grad)


@pytest.mark.parametrize('value', [-30.0, 30.0])
def test_extreme_parameters_stay_finite(dist, value):
    params = torch.full((1, *kernels.family(dist).shape(4)), value, requires_grad=True)
    z, kl = kernels.sample_kl(params, dist, seed=0, step=0)
    assert torch.isfinite(z).all() and torch.isfinite(kl).all() and (kl > 0).all()
    (gradient,) = torch.autograd.grad(z.sum() + kl.sum(), params)
    assert torch.isfinite(gradient).all()


def test_standardise_keeps_the_codes_and_lowers_the_mean_kl(dist, random_params):
    family = kernels.family(dist)
    params = random_params(dist, n=200, d=3, dtype=torch.float64).cpu() * 0.7 + 0.4
    new, scale, shift = family.standardise(params, params)
    e = kernels.sample_prior(dist, (200, 3), seed=5, dtype=torch.float64)
    code, new_code = family.code(family.sample(params, e)), family.code(family.sample(new, e))
    torch.testing.assert_close(new_code * scale + shift, code)
    if dist == 'uniform':  # whose support is fixed
        assert torch.equal(new, params)
    else:
        assert family.kl(new).mean() < family.kl(params).mean()
    again, _, _ = family.standardise(new, new)
    torch.testing.assert_close(again, new)


def test_standardise_minimises_the_mean_kl_of_gaussians(random_params):
    # Shift and scale are all that can be chosen, so no nearby change does better.
    family = kernels.family('gaussian')
    params = random_params('gaussian', n=200, d=3, dtype=torch.float64).cpu() * 0.7 + 0.4
    new, _, _ = family.standardise(params, params)
    for shift, log_scale in ((0.02, 0.0), (-0.02, 0.0), (0.0, 0.02), (0.0, -0.02)):
        moved = torch.stack([new[:, 0] * math.exp(log_scale) + shift, new[:, 1] + log_scale], 1)
        assert family.kl(moved).mean() > family.kl(new).mean()
