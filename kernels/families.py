"""The posterior families. To add one, write its formulas, in PyTorch and beside them in Triton, and a row of
FAMILIES; then a row in tests/test_kernels.py.

A posterior q(z; params) has P parameters per latent dimension, params [..., P, D], the location first.
Every family is so parametrised that all parameters zero make it the prior p(z), and z is one line of
arithmetic on standard noise e ~ p that owns no parameters (the reparameterisation trick; Kingma and
Welling, "Auto-encoding variational Bayes", 2014).

All closed-form KL(q || p) here are sums of h(x) = exp(x) - 1 - x >= 0: for instance the Gaussian's
textbook form 1/2 (mu^2 + sigma^2 - 1 - log sigma^2) with s = log sigma is 1/2 (mu^2 + h(2s)).
`expm1` keeps the digits that exp(x) - 1 loses near the prior, where x is small. Its derivative is expm1(x), so
the gradients are sums of those.

The functions in Triton take the parameters of a tile as a tuple theta of P tensors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels.elementary import cos_sin, exp, expm1, jit, log, tl
from kernels.elementary import h as h_triton
from kernels.noise import uniform_triton


def h(x):
    """exp(x) - 1 - x, elementwise: zero at zero, positive elsewhere."""
    return torch.expm1(x) - x


def gaussian_noise(u):
    """Box-Muller: uniforms u [..., 4] to independent N(0, 1) [..., 4], from words (0, 1) and (2, 3)."""
    radius = torch.sqrt(-2 * torch.log(u[..., 0::2]))  # [..., 2]
    return torch.view_as_real(torch.polar(radius, 2 * math.pi * u[..., 1::2])).flatten(
        -2
    )  # cosine, sine, cosine, sine


def gaussian_sample(params, e):
    mu, s = params.unbind(-2)  # s = log sigma
    return torch.addcmul(mu, torch.exp(s), e)


def gaussian_kl(params):
    mu, s = params.unbind(-2)
    return 0.5 * torch.addcmul(h(2 * s), mu, mu)


def gaussian_gradient(params, e, dz, dkl):
    mu, s = params.unbind(-2)
    return torch.stack(
        [torch.addcmul(dz, dkl, mu), torch.addcmul(dz * torch.exp(s) * e, dkl, torch.expm1(2 * s))], -2
    )


@jit
def gaussian_noise_triton(w0, w1, w2, w3, dtype):
    cos0, sin0 = cos_sin(w1, dtype)
    cos1, sin1 = cos_sin(w3, dtype)
    radius0 = tl.sqrt(-2 * log(uniform_triton(w0, dtype)))
    radius1 = tl.sqrt(-2 * log(uniform_triton(w2, dtype)))
    return radius0 * cos0, radius0 * sin0, radius1 * cos1, radius1 * sin1


@jit
def gaussian_sample_kl_triton(theta, e):
    mu, s = theta
    sigma = exp(s)
    return mu + sigma * e, 0.5 * (mu * mu + h_triton(2 * s, sigma * sigma))


@jit
def gaussian_gradient_triton(theta, e, dz, dkl):
    mu, s = theta
    sigma = exp(s)
    return dz + dkl * mu, dz * sigma * e + dkl * expm1(2 * s, sigma * sigma)


def laplace_noise(u):
    """The Laplace(0, 1) quantile function at u. 1 - 2|u - 1/2| is never 0, since u is never 0 or 1."""
    t = u - 0.5
    return torch.copysign(torch.log1p(-2 * torch.abs(t)), t)


def laplace_sample(params, e):
    mu, s = params.unbind(-2)  # s = log b
    return torch.addcmul(mu, torch.exp(s), e)


def laplace_kl(params):
    # KL(Laplace(mu, b) || Laplace(0, 1)) = E|z| - 1 - log b, where E|z| = |mu| + b exp(-|mu| / b)
    mu, s = params.unbind(-2)
    b = torch.exp(s)
    return h(s) + b * h(-torch.abs(mu) / b)


def laplace_gradient(params, e, dz, dkl):
    mu, s = params.unbind(-2)
    b = torch.exp(s)
    a = torch.abs(mu) / b
    dmu = dz - dkl * torch.sign(mu) * torch.expm1(-a)  # smooth at 0, where it is dkl * mu / b
    ds = dz * b * e + dkl * (torch.expm1(s) + b * (torch.expm1(-a) + a * torch.exp(-a)))
    return torch.stack([dmu, ds], -2)


@jit
def laplace_quantile_triton(word, dtype):
    t = (word >> 9).to(dtype) + (0.5 - 2.0**22)  # (u - 1/2) 2^23
    e = log(1 - tl.abs(t) * 2.0**-22)  # exact up to the logarithm, so that log1p would gain nothing
    return tl.where(t < 0, e, -e)


@jit
def laplace_noise_triton(w0, w1, w2, w3, dtype):
    return (
        laplace_quantile_triton(w0, dtype),
        laplace_quantile_triton(w1, dtype),
        laplace_quantile_triton(w2, dtype),
        laplace_quantile_triton(w3, dtype),
    )


@jit
def laplace_sample_kl_triton(theta, e):
    mu, s = theta
    b = exp(s)
    a = tl.minimum(
        tl.abs(mu) * tl.minimum(exp(-s), 1e30), 1e30
    )  # not infinite, nor infinite times 0, for the narrowest b
    exp_a = exp(-a)
    # b h(-a) is |mu| - b (1 - exp(-a)), which does not overflow, where a is not small
    spread = tl.where(a < 0.5, b * h_triton(-a, exp_a), tl.abs(mu) + b * (exp_a - 1))
    return mu + b * e, h_triton(s, b) + spread


@jit
def laplace_gradient_triton(theta, e, dz, dkl):
    mu, s = theta
    b = exp(s)
    a = tl.minimum(tl.abs(mu) * tl.minimum(exp(-s), 1e30), 1e30)
    exp_a = exp(-a)
    slope = -expm1(-a, exp_a)
    dmu = dz + dkl * tl.where(mu < 0, -slope, slope)
    return dmu, dz * b * e + dkl * (expm1(s, b) + b * (a * exp_a - slope))


def exponential_noise(u):
    return -torch.log(u)


def exponential_sample(params, e):
    (k,) = params.unbind(-2)  # k = log rate
    return e * torch.exp(-k)


def exponential_kl(params):
    # KL(Exp(rate) || Exp(1)) = log rate + 1 / rate - 1
    (k,) = params.unbind(-2)
    return h(-k)


def exponential_gradient(params, e, dz, dkl):
    (k,) = params.unbind(-2)
    return (-dz * e * torch.exp(-k) - dkl * torch.expm1(-k)).unsqueeze(-2)


@jit
def exponential_noise_triton(w0, w1, w2, w3, dtype):
    return (
        -log(uniform_triton(w0, dtype)),
        -log(uniform_triton(w1, dtype)),
        -log(uniform_triton(w2, dtype)),
        -log(uniform_triton(w3, dtype)),
    )


@jit
def exponential_sample_kl_triton(theta, e):
    mean = exp(-theta[0])
    return e * mean, h_triton(-theta[0], mean)


@jit
def exponential_gradient_triton(theta, e, dz, dkl):
    mean = exp(-theta[0])
    return (-dz * e * mean - dkl * expm1(-theta[0], mean),)


def exponential_mean(params):
    (k,) = params.unbind(-2)
    return torch.exp(-k)


def exponential_code(z):
    """log z, standardised: under Exp(1) it has mean -0.5772 (minus Euler's constant) and spread pi / sqrt(6).

    An Exp(rate)'s spread equals its mean, so z itself says little; its logarithm is -k plus noise of one
    and the same spread for every k, which a decoder can read.
    """
    return (torch.log(z) + 0.5772156649) * (math.sqrt(6) / math.pi)


def location_scale_standardise(params, reference, dispersion):
    """standardise() for z = location + scale * e. dispersion(location [N, D], scale [N, D]) -> [D] is the scale
    of the best prior for posteriors around 0."""
    location, s = params.unbind(-2)  # [M, D] each
    reference_location, reference_s = reference.unbind(-2)  # [N, D] each
    shift = reference_location.mean(0)  # [D]
    scale = dispersion(reference_location - shift, torch.exp(reference_s))  # [D]
    return torch.stack([(location - shift) / scale, s - torch.log(scale)], -2), scale, shift


def gaussian_standardise(params, reference):
    return location_scale_standardise(
        params, reference, lambda mu, sigma: torch.sqrt((mu**2 + sigma**2).mean(0))
    )


def laplace_standardise(params, reference):
    return location_scale_standardise(
        params, reference, lambda mu, b: (mu.abs() + b * torch.exp(-mu.abs() / b)).mean(0)
    )


def exponential_standardise(params, reference):
    # z -> z / mean: only k moves, and the code of the old z is that of the new one plus a constant
    log_mean = torch.log(exponential_mean(reference).mean(0))  # [D]
    return params + log_mean, torch.ones_like(log_mean), log_mean * (math.sqrt(6) / math.pi)


def exponential_start(code, spread):
    # The spread is not ours to choose. Locations of standard deviation 2 stand out from log z's noise of
    # pi / sqrt(6) = 1.28, and the constant makes E[exp(-k)], the mean of z, what the prior expects: 1.
    return (2**2 / 2 - 2 * code).unsqueeze(-2)


@dataclass(frozen=True)
class Family:
    parameters: tuple[str, ...]  # names of the P parameters, in the order of params [..., P, D]
    noise: Callable  # uniforms [..., 4] -> e [..., 4], draws from the prior
    sample: Callable  # params [..., P, D], e [..., D] -> z [..., D]
    kl: Callable  # params [..., P, D] -> KL(q || p) per dimension [..., D], in nats
    gradient: (
        Callable  # params [..., P, D], e [..., D], dz [..., D], dkl [..., D or 1] -> gradient [..., P, D] of
    )
    # a loss with the gradients dz and dkl
    # The same in Triton, theta a tuple of P tensors: words w0 ... w3, dtype -> e0 ... e3; theta, e -> z, kl;
    # theta, e, dz, dkl -> P gradients.
    noise_triton: Callable
    sample_kl_triton: Callable
    gradient_triton: Callable
    mean: Callable  # params [..., P, D] -> E[z] [..., D]
    quantile: Callable  # u in (0, 1) [...] -> the number below which the prior has probability u [...]
    # What a model needs to use the family well. A code is z as a decoder reads it, a real number of mean 0 and a
    # spread of about 1 under the prior.
    code: Callable  # z [..., D] -> code [..., D]
    start: Callable  # c [N, D] of mean 0 and variance 1, spread [D] -> params [N, P, D] whose locations are
    # linear in c; a family with a scale sets it to spread
    standardise: (
        Callable  # params [M, P, D], reference [N, P, D] -> (params, scale [D], shift [D]): the affine
    )
    # change of z that fits the reference posteriors to the prior (of their mean KL it
    # takes what a scale and a shift can take), with old code = scale * new code + shift


FAMILIES = {
    'gaussian': Family(
        ('mu', 'log sigma'),
        gaussian_noise,
        gaussian_sample,
        gaussian_kl,
        gaussian_gradient,
        gaussian_noise_triton,
        gaussian_sample_kl_triton,
        gaussian_gradient_triton,
        mean=lambda params: params[..., 0, :],
        quantile=torch.special.ndtri,
        code=lambda z: z,
        start=lambda code, spread: torch.stack([code, torch.log(spread).expand_as(code)], -2),
        standardise=gaussian_standardise,
    ),
    'laplace': Family(
        ('mu', 'log b'),
        laplace_noise,
        laplace_sample,
        laplace_kl,
        laplace_gradient,
        laplace_noise_triton,
        laplace_sample_kl_triton,
        laplace_gradient_triton,
        mean=lambda params: params[..., 0, :],
        quantile=laplace_noise,
        # the prior's spread is sqrt(2)
        code=lambda z: z,
        start=lambda code, spread: torch.stack([2**0.5 * code, torch.log(spread).expand_as(code)], -2),
        standardise=laplace_standardise,
    ),
    'exponential': Family(
        ('log rate',),
        exponential_noise,
        exponential_sample,
        exponential_kl,
        exponential_gradient,
        exponential_noise_triton,
        exponential_sample_kl_triton,
        exponential_gradient_triton,
        exponential_mean,
        quantile=lambda u: -torch.log1p(-u),
        code=exponential_code,
        start=exponential_start,
        standardise=exponential_standardise,
    ),
}


def family(dist):
    """The Family of that name. ValueError: no such family."""
    if dist not in FAMILIES:
        raise ValueError(f'expected dist to be one of {", ".join(FAMILIES)}, got {dist!r}')
    return FAMILIES[dist]
