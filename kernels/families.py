"""The posterior families q(z; params): their noise, samples, KL to the prior, and gradients.

Read one family from top to bottom, the Gaussian for example; the table FAMILIES at the end lists all of them.

A posterior has P parameters for each latent dimension, params [..., P, D], the location first. All
parameters zero give the prior p(z). A sample z is a function of the parameters and of standard noise e ~ p
that does not depend on them (the reparameterisation trick; Kingma and Welling, "Auto-encoding variational
Bayes", 2014).

Every closed-form KL(q || p) here is a sum of h(x) = exp(x) - 1 - x >= 0. The Gaussian's textbook form, for
example, 1/2 (mu^2 + sigma^2 - 1 - log sigma^2) with s = log sigma, is 1/2 (mu^2 + h(2s)). Near the prior x
is small, and `expm1` keeps the digits that exp(x) - 1 would lose. The derivative of h is expm1, so the
gradients are sums of that.

The functions ..._triton compute the same for a tile in Triton. There, params is a tuple of P tensors, one
tensor for each parameter. To add a family, write both versions and a row of FAMILIES, and a row of
`DISTRIBUTIONS` in tests/kernels/test_families.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.elementary import cos_sin, exp, expm1, jit, log, tl
from kernels.elementary import h as h_triton
from kernels.noise import uniform_triton


def h(x: Tensor) -> Tensor:
    """exp(x) - 1 - x for each element: zero at zero, positive elsewhere."""
    return torch.expm1(x) - x


def location_scale_sample(params: Tensor, e: Tensor) -> Tensor:
    """z = mu + exp(s) e, for the Gaussian and the Laplace, where s is the logarithm of the scale."""
    mu, s = params.unbind(-2)
    return torch.addcmul(mu, torch.exp(s), e)


def standard(params: Tensor, z: Tensor) -> Tensor:
    """e of z = mu + exp(s) e."""
    mu, s = params.unbind(-2)
    return (z - mu) * torch.exp(-s)


# ---------------------------------------------------------------------------------------- gaussian


def gaussian_noise(u: Tensor) -> Tensor:
    """Box and Muller's method: uniforms u [..., 4] to independent N(0, 1) [..., 4].

    Uniforms 0 and 1 are the radius and the angle of one pair of results, uniforms 2 and 3 those of the other.
    """
    radius, angle = torch.sqrt(-2 * torch.log(u[..., 0::2])), 2 * math.pi * u[..., 1::2]  # [..., 2]
    # radius * (cosine, sine) of each pair
    return torch.view_as_real(torch.polar(radius, angle)).flatten(-2)


def gaussian_kl(params: Tensor) -> Tensor:
    mu, s = params.unbind(-2)  # s = log sigma
    return 0.5 * torch.addcmul(h(2 * s), mu, mu)


def gaussian_gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
    mu, s = params.unbind(-2)
    dmu, ds = torch.addcmul(dz, dkl, mu), torch.addcmul(dz * torch.exp(s) * e, dkl, torch.expm1(2 * s))
    return torch.stack([dmu, ds], -2)


@jit
def gaussian_noise_triton(w0, w1, w2, w3, dtype):
    cos0, sin0 = cos_sin(w1, dtype)
    cos1, sin1 = cos_sin(w3, dtype)
    radius0 = tl.sqrt(-2 * log(uniform_triton(w0, dtype)))
    radius1 = tl.sqrt(-2 * log(uniform_triton(w2, dtype)))
    return radius0 * cos0, radius0 * sin0, radius1 * cos1, radius1 * sin1


@jit
def gaussian_sample_kl_triton(params, e):
    mu, s = params
    sigma = exp(s)
    return mu + sigma * e, 0.5 * (mu * mu + h_triton(2 * s, sigma * sigma))


@jit
def gaussian_gradient_triton(params, e, dz, dkl):
    mu, s = params
    sigma = exp(s)
    return dz + dkl * mu, dz * sigma * e + dkl * expm1(2 * s, sigma * sigma)


# ----------------------------------------------------------------------------------------- laplace


def laplace_noise(u: Tensor) -> Tensor:
    """The quantile function of Laplace(0, 1) at u. Its logarithm is finite, since u is never 0 or 1."""
    t = u - 0.5
    return torch.copysign(torch.log1p(-2 * torch.abs(t)), t)


def laplace_kl(params: Tensor) -> Tensor:
    # KL(Laplace(mu, b) || Laplace(0, 1)) = E|z| - 1 - log b, where E|z| = |mu| + b exp(-|mu| / b).
    mu, s = params.unbind(-2)  # s = log b
    b = torch.exp(s)
    return h(s) + b * h(-torch.abs(mu) / b)


def laplace_gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
    mu, s = params.unbind(-2)
    b = torch.exp(s)
    a = torch.abs(mu) / b
    dmu = dz - dkl * torch.sign(mu) * torch.expm1(-a)  # continuous at mu = 0: dkl * mu / b near it
    ds = dz * b * e + dkl * (torch.expm1(s) + b * (torch.expm1(-a) + a * torch.exp(-a)))
    return torch.stack([dmu, ds], -2)


@jit
def laplace_quantile_triton(word, dtype):
    t = (word >> 9).to(dtype) + (0.5 - 2.0**22)  # (u - 1/2) 2^23
    e = log(1 - tl.abs(t) * 2.0**-22)  # the argument of the logarithm is exact, so log1p would not gain
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
def laplace_sample_kl_triton(params, e):
    mu, s = params
    b = exp(s)
    # |mu| / b, kept finite: for the narrowest b, exp(-s) is infinite, and 0 times that is NaN.
    a = tl.minimum(tl.abs(mu) * tl.minimum(exp(-s), 1e30), 1e30)
    exp_a = exp(-a)
    # b h(-a) in a form that does not overflow where a is large: |mu| - b (1 - exp(-a)).
    spread = tl.where(a < 0.5, b * h_triton(-a, exp_a), tl.abs(mu) + b * (exp_a - 1))
    return mu + b * e, h_triton(s, b) + spread


@jit
def laplace_gradient_triton(params, e, dz, dkl):
    mu, s = params
    b = exp(s)
    a = tl.minimum(tl.abs(mu) * tl.minimum(exp(-s), 1e30), 1e30)
    exp_a = exp(-a)
    slope = -expm1(-a, exp_a)
    dmu = dz + dkl * tl.where(mu < 0, -slope, slope)
    return dmu, dz * b * e + dkl * (expm1(s, b) + b * (a * exp_a - slope))


# ------------------------------------------------------------------------------------- exponential


def exponential_noise(u: Tensor) -> Tensor:
    return -torch.log(u)


def exponential_sample(params: Tensor, e: Tensor) -> Tensor:
    (k,) = params.unbind(-2)  # k = log rate
    return e * torch.exp(-k)


def exponential_kl(params: Tensor) -> Tensor:
    # KL(Exp(rate) || Exp(1)) = log rate + 1 / rate - 1.
    (k,) = params.unbind(-2)
    return h(-k)


def exponential_gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
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
def exponential_sample_kl_triton(params, e):
    mean = exp(-params[0])
    return e * mean, h_triton(-params[0], mean)


@jit
def exponential_gradient_triton(params, e, dz, dkl):
    mean = exp(-params[0])
    return (-dz * e * mean - dkl * expm1(-params[0], mean),)


def exponential_mean(params: Tensor) -> Tensor:
    (k,) = params.unbind(-2)
    return torch.exp(-k)


def exponential_code(z: Tensor) -> Tensor:
    """log z, standardised: under Exp(1) its mean is -0.5772 (Euler's constant), its spread pi / sqrt(6).

    The spread of an Exp(rate) equals its mean, so z itself says little about the rate. Its logarithm is -k
    plus noise whose spread is the same for every k, which a decoder can read.
    """
    return (torch.log(z) + 0.5772156649) * (math.sqrt(6) / math.pi)


def exponential_start(code: Tensor, spread: Tensor) -> Tensor:
    # The family has no parameter for the spread. Locations of standard deviation 2 are larger than the noise
    # of log z, pi / sqrt(6) = 1.28. The constant makes E[exp(-k)], the mean of z, equal to the prior's, 1.
    return (2**2 / 2 - 2 * code).unsqueeze(-2)


# ---------------------------------------------------------- the change of z that fits the prior best


def location_scale_standardise(
    params: Tensor, reference: Tensor, dispersion: Callable
) -> tuple[Tensor, Tensor, Tensor]:
    """`Family.standardise` for z = location + scale * e.

    dispersion(location [N, D], scale [N, D]) -> [D] is the scale of the best prior for posteriors around 0.
    """
    location, s = params.unbind(-2)  # [M, D] each
    reference_location, reference_s = reference.unbind(-2)  # [N, D] each
    shift = reference_location.mean(0)  # [D]
    scale = dispersion(reference_location - shift, torch.exp(reference_s))  # [D]
    return torch.stack([(location - shift) / scale, s - torch.log(scale)], -2), scale, shift


def gaussian_standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return location_scale_standardise(
        params, reference, lambda mu, sigma: torch.sqrt((mu**2 + sigma**2).mean(0))
    )


def laplace_standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return location_scale_standardise(
        params, reference, lambda mu, b: (mu.abs() + b * torch.exp(-mu.abs() / b)).mean(0)
    )


def exponential_standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # z is divided by its mean. Only k changes; the code of the old z is that of the new z plus a constant.
    log_mean = torch.log(exponential_mean(reference).mean(0))  # [D]
    return params + log_mean, torch.ones_like(log_mean), log_mean * (math.sqrt(6) / math.pi)


# ------------------------------------------------------------------------------ the table of families


@dataclass(frozen=True)
class Family:
    # Names of the P parameters, in the order of params [..., P, D].
    parameters: tuple[str, ...]
    # uniforms [..., 4] -> e [..., 4], draws from the prior
    noise: Callable
    # params [..., P, D], e [..., D] -> z [..., D]
    sample: Callable
    # params [..., P, D] -> KL(q || p) of each dimension [..., D], in nats
    kl: Callable
    # params [..., P, D], e [..., D], dz [..., D], dkl [..., D or 1] -> the gradient in params [..., P, D] of
    # a loss whose gradients in z and in the KL are dz and dkl
    gradient: Callable
    # The same in Triton, with params as a tuple of P tensors.
    noise_triton: Callable  # words w0, w1, w2, w3, dtype -> e0, e1, e2, e3
    sample_kl_triton: Callable  # params, e -> z, kl
    gradient_triton: Callable  # params, e, dz, dkl -> P gradients
    # params [..., P, D] -> E[z] [..., D]
    mean: Callable
    # params [..., P, D], z [..., D] -> log q(z) of each dimension [..., D]; with params 0, log p(z)
    log_density: Callable
    # u in (0, 1) [...] -> the number below which the prior has probability u [...]
    quantile: Callable
    # z [..., D] -> code [..., D]: z as a decoder reads it, a real number of mean 0 and spread of about 1
    # under the prior
    code: Callable
    # c [N, D] of mean 0 and variance 1, spread [D] -> params [N, P, D] whose locations are linear in c and
    # whose scale, if the family has one, is spread
    start: Callable
    # params [M, P, D], reference [N, P, D] -> (params, scale [D], shift [D]): the affine change of z that
    # minimises the mean KL of the posteriors in reference. The code of the old z is scale * (code of the new
    # z) + shift.
    standardise: Callable


FAMILIES = {
    'gaussian': Family(
        ('mu', 'log sigma'),
        gaussian_noise,
        location_scale_sample,
        gaussian_kl,
        gaussian_gradient,
        gaussian_noise_triton,
        gaussian_sample_kl_triton,
        gaussian_gradient_triton,
        mean=lambda params: params[..., 0, :],
        log_density=lambda params, z: (
            -0.5 * standard(params, z) ** 2 - params[..., 1, :] - 0.5 * math.log(2 * math.pi)
        ),
        quantile=torch.special.ndtri,
        code=lambda z: z,
        start=lambda code, spread: torch.stack([code, torch.log(spread).expand_as(code)], -2),
        standardise=gaussian_standardise,
    ),
    'laplace': Family(
        ('mu', 'log b'),
        laplace_noise,
        location_scale_sample,
        laplace_kl,
        laplace_gradient,
        laplace_noise_triton,
        laplace_sample_kl_triton,
        laplace_gradient_triton,
        mean=lambda params: params[..., 0, :],
        log_density=lambda params, z: -standard(params, z).abs() - params[..., 1, :] - math.log(2),
        quantile=laplace_noise,
        code=lambda z: z,
        # 2**0.5 is the prior's standard deviation.
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
        log_density=lambda params, z: params[..., 0, :] - torch.exp(params[..., 0, :]) * z,
        quantile=lambda u: -torch.log1p(-u),
        code=exponential_code,
        start=exponential_start,
        standardise=exponential_standardise,
    ),
}


def family(dist: str) -> Family:
    """The Family of this name. ValueError: there is none."""
    if not isinstance(dist, str) or dist not in FAMILIES:  # a list, for example, is in no dict
        raise ValueError(f'expected dist to be one of {", ".join(FAMILIES)}, got {dist!r}')
    return FAMILIES[dist]
