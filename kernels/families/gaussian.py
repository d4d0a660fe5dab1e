"""The Gaussian: z = mu + sigma e with e ~ N(0, 1), prior N(0, 1). Parameters mu and s = log sigma."""

import math

import torch
from torch import Tensor

from kernels.elementary import cos_sin, exp, expm1, jit, log, tl
from kernels.elementary import h as h_triton
from kernels.families.family import (
    Family,
    h,
    location_scale_sample,
    location_scale_standardise,
    location_scale_widen,
    standard,
)
from kernels.noise import uniform_triton


def noise(u: Tensor) -> Tensor:
    """Box and Muller's method: uniforms u [..., 4] to independent N(0, 1) [..., 4].

    Uniforms 0 and 1 are the radius and the angle of one pair of results, uniforms 2 and 3 those of the other.
    """
    radius, angle = torch.sqrt(-2 * torch.log(u[..., 0::2])), 2 * math.pi * u[..., 1::2]  # [..., 2]
    # radius * (cosine, sine) of each pair
    return torch.view_as_real(torch.polar(radius, angle)).flatten(-2)


def kl(params: Tensor) -> Tensor:
    mu, s = params.unbind(-2)  # s = log sigma
    return 0.5 * torch.addcmul(h(2 * s), mu, mu)


def gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
    mu, s = params.unbind(-2)
    dmu, ds = torch.addcmul(dz, dkl, mu), torch.addcmul(dz * torch.exp(s) * e, dkl, torch.expm1(2 * s))
    return torch.stack([dmu, ds], -2)


@jit
def noise_triton(w0, w1, w2, w3, dtype):
    cos0, sin0 = cos_sin(w1, dtype)
    cos1, sin1 = cos_sin(w3, dtype)
    radius0 = tl.sqrt(-2 * log(uniform_triton(w0, dtype)))
    radius1 = tl.sqrt(-2 * log(uniform_triton(w2, dtype)))
    return radius0 * cos0, radius0 * sin0, radius1 * cos1, radius1 * sin1


@jit
def sample_kl_triton(params, e):
    mu, s = params
    sigma = exp(s)
    return mu + sigma * e, 0.5 * (mu * mu + h_triton(2 * s, sigma * sigma))


@jit
def gradient_triton(params, e, dz, dkl):
    mu, s = params
    sigma = exp(s)
    return dz + dkl * mu, dz * sigma * e + dkl * expm1(2 * s, sigma * sigma)


def standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return location_scale_standardise(
        params, reference, lambda mu, sigma: torch.sqrt((mu**2 + sigma**2).mean(0))
    )


def start(code: Tensor, spread: Tensor) -> Tensor:
    return torch.stack([code, torch.log(spread).expand_as(code)], -2)


GAUSSIAN = Family(
    ('mu', 'log sigma'),
    noise,
    location_scale_sample,
    kl,
    gradient,
    noise_triton,
    sample_kl_triton,
    gradient_triton,
    mean=lambda params: params[..., 0, :],
    log_density=lambda params, z: (
        -0.5 * standard(params, z) ** 2 - params[..., 1, :] - 0.5 * math.log(2 * math.pi)
    ),
    quantile=torch.special.ndtri,
    code=lambda z: z,
    start=start,
    standardise=standardise,
    widen=location_scale_widen,
    location_scale=True,
)
