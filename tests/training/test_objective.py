import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    Exponential,
    Laplace,
    MultivariateNormal,
    Normal,
    Uniform,
)

import kernels
from kernels.families.gaussian_full import unpack
from models import VariationalAutoDecoder
from training.objective import ImportanceWeightedBound, NegativeELBO
from training.runs import build_model


@pytest.fixture
def reconstruction(digits, small_config):
    """reconstruction(likelihood): the first term for five images x; also the model, its z, and x."""

    def compute(likelihood):
        config = small_config('gaussian', 'conv', likelihood=likelihood)
        model, x = build_model(config), digits[0].X[:5] / 255
        params, noise = torch.zeros(5, 2, 8), dict(seed=0, step=0, index=torch.arange(5))
        term, _ = NegativeELBO(model, config)(params, x, None, **noise)
        z, _ = model.sample(params, **noise)
        return term, model, z, x

    return compute


def test_the_gaussian_likelihood_equals_torchs_up_to_its_constant(reconstruction):
    term, model, z, x = reconstruction('gaussian')
    expected = -Normal(model.render(model.code(z)), 0.1).log_prob(x) - math.log(0.1 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(term, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_the_bernoulli_likelihood_is_the_cross_entropy_of_pixels_between_0_and_1_too(reconstruction):
    term, model, z, x = reconstruction('bernoulli')
    continuous = ContinuousBernoulli(logits=model.logits(model.code(z)))
    expected = -continuous.log_prob(x) + continuous._cont_bern_log_norm()
    torch.testing.assert_close(term, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-3)


# ------------------------------------------------------------------------- the importance-weighted bound


class LinearModel(VariationalAutoDecoder):
    """p(x | z) = N(W z + b, obs_std^2), where each of four pixels depends on one of two dimensions of z: then
    the posterior is of the family that the model has, whichever pixels are observed."""

    def __init__(self):
        super().__init__('gaussian', 2, 'mlp', (2, 2))
        self.weight = torch.tensor([[0.5, 0.0], [-0.2, 0.0], [0.0, 0.3], [0.0, 0.4]], dtype=torch.float64)
        self.bias = torch.tensor([0.1, 0.5, 0.3, 0.7], dtype=torch.float64)

    def render(self, code):
        return (code @ self.weight.T + self.bias).view(-1, 2, 2)

    def posterior(self, x, observed, obs_std):
        """params [B, 2, 2] of the posteriors of images x [B, 2, 2]."""
        weight = observed.flatten(1)[:, :, None] * self.weight / obs_std**2  # [B, 4, 2]
        precision = 1 + (weight * self.weight).sum(1)
        mean = ((x.flatten(1) - self.bias)[:, :, None] * weight).sum(1) / precision
        return torch.stack([mean, -0.5 * precision.log()], 1)


@pytest.fixture
def linear(small_config):
    """linear(samples, n, observed): a model, the bound of so many samples, an image n times, its mask."""

    def make(samples, n, observed=(True, True, True, True)):
        config = small_config('gaussian', 'mlp', obs_std=0.2, latent_dim=2, importance_samples=samples)
        x = torch.tensor([[0.3, 0.6], [0.1, 0.9]], dtype=torch.float64).expand(n, 2, 2)
        observed = torch.tensor(observed).view(2, 2).expand(n, 2, 2)
        model = LinearModel()
        return model, ImportanceWeightedBound(model, config), x, observed

    return make


@pytest.mark.parametrize('samples', [1, 7])
@pytest.mark.parametrize('observed', [(True,) * 4, (True, False, True, True), (False, False, False, True)])
def test_the_bound_of_true_posteriors_is_the_likelihood_of_the_observed_pixels(linear, samples, observed):
    model, bound, x, mask = linear(samples, 20, observed)
    params = model.posterior(x, mask, 0.2)
    terms = bound(params, x, mask, seed=0, step=0, index=torch.arange(20))  # each image has other draws
    seen = mask[0].flatten()
    weight = model.weight[seen]
    covariance = weight @ weight.T + 0.2**2 * torch.eye(len(weight), dtype=torch.float64)
    density = MultivariateNormal(model.bias[seen], covariance).log_prob(x[0].flatten()[seen])
    constant = seen.sum() * math.log(0.2 * math.sqrt(2 * math.pi))  # that the reconstruction term lacks
    torch.testing.assert_close(sum(terms), -(density + constant).expand(20))


def test_the_bound_falls_with_the_number_of_samples_from_the_negative_elbo(linear):
    n, means = 4000, []
    for samples in (1, 4, 16):
        model, bound, x, mask = linear(samples, n)
        params = model.posterior(x, mask, 0.2) + 0.5  # not the true one
        noise = dict(seed=0, step=0, index=torch.arange(n))
        means.append(float(sum(bound(params, x, mask, **noise)).mean()))
    elbo = sum(NegativeELBO(model, bound.config)(params, x, mask, **noise))
    true = sum(
        bound(model.posterior(x, mask, 0.2)[:1], x[:1], mask[:1], seed=0, step=0, index=torch.arange(1))
    )
    assert means[0] > means[1] + 0.1 and means[1] > means[2] + 0.1 and means[2] > float(true)
    assert means[0] == pytest.approx(float(elbo.mean()), abs=4 * float(elbo.std()) / n**0.5)


def prior_and_posterior(dist, params):
    """The distributions of torch's, of params [B, P, D], or [B, K] with a full covariance."""
    if dist == 'gaussian-full':
        mu, s, t = unpack(params)
        scale = s.exp()[:, :, None] * (t + torch.eye(mu.shape[1]))
        return Normal(torch.zeros_like(mu), 1.0), MultivariateNormal(mu, scale_tril=scale)
    zero, one = torch.zeros_like(params[:, 0]), torch.ones_like(params[:, 0])
    if dist == 'exponential':
        return Exponential(one), Exponential(params[:, 0].exp())
    if dist == 'uniform':
        w = 1 / torch.cosh(params[:, 1])
        centre = (1 - w) * torch.tanh(params[:, 0])
        return Uniform(-one, one), Uniform(centre - w, centre + w)
    family = {'gaussian': Normal, 'laplace': Laplace}[dist]
    return family(zero, one), family(params[:, 0], params[:, 1].exp())


@pytest.mark.parametrize('incomplete', [False, True])
@pytest.mark.parametrize('likelihood', ['gaussian', 'bernoulli'])
@pytest.mark.parametrize('dist', kernels.FAMILIES)
def test_the_bound_and_its_gradient_equal_those_of_torchs_distributions(
    digits, small_config, dist, likelihood, incomplete
):
    options = dict(decoder='mlp', obs_std=1.0, likelihood=likelihood, importance_samples=3)
    config = small_config(dist, 'mlp', **options)
    model, x = build_model(config).double(), digits[0].X[:5].double() / 255
    generator, noise = torch.Generator().manual_seed(0), dict(seed=1, step=2)
    observed = torch.rand(x.shape, generator=generator) < 0.5 if incomplete else None
    shape = (5, *model.params_shape)
    params = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    index = torch.tensor([7, 3, 2, 90, 11])

    prior, posterior = prior_and_posterior(dist, params)
    log_weights, errors = [], []
    for draw in range(3):
        e, _ = kernels.sample_kl(torch.zeros_like(params), dist, **noise, ids=index, draw=draw)
        z = kernels.family(dist).sample(params, e)
        if likelihood == 'gaussian':
            log_p = Normal(model.render(model.code(z)), 1.0).log_prob(x) + 0.5 * math.log(2 * math.pi)
        else:
            log_p = Bernoulli(logits=model.logits(model.code(z)), validate_args=False).log_prob(x)
        log_p = (log_p * observed if incomplete else log_p).sum((1, 2))  # [B]
        errors.append(-log_p)
        log_q = posterior.log_prob(z)  # [B, D], or [B] where the dimensions depend on each other
        log_q = log_q if log_q.dim() == 1 else log_q.sum(1)
        log_weights.append(log_p + prior.log_prob(z).sum(1) - log_q)
    log_weights = torch.stack(log_weights)  # [K, B]
    expected = -log_weights.exp().mean(0).log()
    mean = (log_weights.softmax(0) * torch.stack(errors)).sum(0)

    terms = ImportanceWeightedBound(model, config)(params, x, observed, **noise, index=index)
    torch.testing.assert_close(terms[0], mean)
    torch.testing.assert_close(sum(terms), expected)
    weights = [params, *model.decoder.parameters(), model.pixel_bias]
    ours, theirs = (torch.autograd.grad(loss.sum(), weights) for loss in (sum(terms), expected))
    torch.testing.assert_close(ours, theirs)
