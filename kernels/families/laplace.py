"""The Laplace distribution: z = mu + b e with e ~ Laplace(0, 1), the prior. Parameters mu and s = log b."""

import math

import torch
from torch import Tensor

from kernels.elementary import exp, expm1, jit, log, tl
from kernels.elementary import h as h_triton
from kernels.families.family import (
    Family,
    h,
    location_scale_sample,
    location_scale_standardise,
    location_scale_widen,
    standard,
)


def noise(u: Tensor) -> Tensor:
    """The quantile function of Laplace(0, 1) at u. Its logarithm is finite, since u is never 0 or 1."""
    t = u - 0.5
    return torch.copysign(torch.log1p(-2 * torch.abs(t)), t)


def ratio(mu: Tensor, s: Tensor) -> Tensor:
    """|mu| / b, kept finite: for the narrowest b, exp(-s) is infinite, and 0 times that is NaN."""
    return (torch.abs(mu) * torch.exp((-s).clamp_max(69))).clamp_max(1e30)  # exp(69) is about 1e30


def kl(params: Tensor) -> Tensor:
    # KL(Laplace(mu, b) || Laplace(0, 1)) = E|z| - 1 - log b, where E|z| = |mu| + b exp(-|mu| / b).
    mu, s = params.unbind(-2)  # s = log b
    b, a = torch.exp(s), ratio(mu, s)
    # b h(-a), in a form that does not overflow where a is large: |mu| - b (1 - exp(-a)).
    return h(s) + torch.where(a < 0.5, b * h(-a), torch.abs(mu) + b * torch.expm1(-a))


def gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
    mu, s = params.unbind(-2)
    b, a = torch.exp(s), ratio(mu, s)
    dmu = dz - dkl * torch.sign(mu) * torch.expm1(-a)  # continuous at mu = 0: dkl * mu / b near it
    ds = dz * b * e + dkl * (torch.expm1(s) + b * (torch.expm1(-a) + a * torch.exp(-a)))
    return torch.stack([dmu, ds], -2)


@jit
def quantile_triton(word, dtype):
    t = (word >> 9).to(dtype) + (0.5 - 2.0**22)  # (u - 1/2) 2^23
    e = log(1 - tl.abs(t) * 2.0**-22)  # the argument of the logarithm is exact, so log1p would not gain
    return tl.where(t < 0, e, -e)


@jit
def noise_triton(w0, w1, w2, w3, dtype):
    return (
        quantile_triton(w0, dtype),
        quantile_triton(w1, dtype),
        quantile_triton(w2, dtype),
        quantile_triton(w3, dtype),
    )


@jit
def minimum(x, limit):
    """The smaller of x and a number; NaN stays NaN, which the GPU's own minimum would drop."""
    return tl.minimum(x, limit, propagate_nan=tl.PropagateNan.ALL)


@jit
def ratio_triton(mu, s):
    return minimum(tl.abs(mu) * minimum(exp(-s), 1e30), 1e30)


@jit
def sample_kl_triton(params, e):
    mu, s = params
    b, a = exp(s), ratio_triton(mu, s)
    exp_a = exp(-a)
    spread = tl.where(a < 0.5, b * h_triton(-a, exp_a), tl.abs(mu) + b * (exp_a - 1))
    return mu + b * e, h_triton(s, b) + spread


@jit
def gradient_triton(params, e, dz, dkl):
    mu, s = params
    b, a = exp(s), ratio_triton(mu, s)
    exp_a = exp(-a)
    slope = -expm1(-a, exp_a)
    dmu = dz + dkl * tl.where(mu < 0, -slope, slope)
    return dmu, dz * b * e + dkl * (expm1(s, b) + b * (a * exp_a - slope))


def standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return location_scale_standardise(
        params, reference, lambda mu, b: (mu.abs() + b * torch.exp(-mu.abs() / b)).mean(0)
    )


LAPLACE = Family(
    ('mu', 'log b'),
    noise,
    location_scale_sample,
    kl,
    gradient,
    noise_triton,
    sample_kl_triton,
    gradient_triton,
    mean=lambda params: params[..., 0, :],
    log_density=lambda params, z: -standard(params, z).abs() - params[..., 1, :] - math.log(2),
    quantile=noise,
    code=lambda z: z,
    # 2**0.5 is the prior's standard deviation.
    start=lambda code, spread: torch.stack([2**0.5 * code, torch.log(spread).expand_as(code)], -2),
    standardise=standardise,
    widen=location_scale_widen,
    location_scale=True,
)
