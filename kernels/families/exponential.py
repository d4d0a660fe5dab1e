"""The exponential distribution: z = e / rate with e ~ Exp(1), the prior. Parameter k = log rate."""

import math

import torch
from torch import Tensor

from kernels.elementary import exp, expm1, jit, log, tl  # noqa: F401  (Triton's interpreter looks for tl)
from kernels.elementary import h as h_triton
from kernels.families.family import Family, h
from kernels.noise import uniform_triton


def noise(u: Tensor) -> Tensor:
    return -torch.log(u)


def sample(params: Tensor, e: Tensor) -> Tensor:
    (k,) = params.unbind(-2)  # k = log rate
    return e * torch.exp(-k)


def kl(params: Tensor) -> Tensor:
    # KL(Exp(rate) || Exp(1)) = log rate + 1 / rate - 1.
    (k,) = params.unbind(-2)
    return h(-k)


def gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
    (k,) = params.unbind(-2)
    return (-dz * e * torch.exp(-k) - dkl * torch.expm1(-k)).unsqueeze(-2)


@jit
def noise_triton(w0, w1, w2, w3, dtype):
    return (
        -log(uniform_triton(w0, dtype)),
        -log(uniform_triton(w1, dtype)),
        -log(uniform_triton(w2, dtype)),
        -log(uniform_triton(w3, dtype)),
    )


@jit
def sample_kl_triton(params, e):
    mean = exp(-params[0])
    return e * mean, h_triton(-params[0], mean)


@jit
def gradient_triton(params, e, dz, dkl):
    mean = exp(-params[0])
    return (-dz * e * mean - dkl * expm1(-params[0], mean),)


def mean(params: Tensor) -> Tensor:
    (k,) = params.unbind(-2)
    return torch.exp(-k)


def code(z: Tensor) -> Tensor:
    """log z, standardised: under Exp(1) its mean is -0.5772 (Euler's constant), its spread pi / sqrt(6).

    The spread of an Exp(rate) equals its mean, so z itself says little about the rate. Its logarithm is -k
    plus noise whose spread is the same for every k, which a decoder can read.
    """
    return (torch.log(z) + 0.5772156649) * (math.sqrt(6) / math.pi)


def start(code: Tensor, spread: Tensor) -> Tensor:
    # The family has no parameter for the spread. Locations of standard deviation 2 are larger than the noise
    # of log z, pi / sqrt(6) = 1.28. The constant makes E[exp(-k)], the mean of z, equal to the prior's, 1.
    return (2**2 / 2 - 2 * code).unsqueeze(-2)


def standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # z is divided by its mean. Only k changes; the code of the old z is that of the new z plus a constant.
    log_mean = torch.log(mean(reference).mean(0))  # [D]
    return params + log_mean, torch.ones_like(log_mean), log_mean * (math.sqrt(6) / math.pi)


EXPONENTIAL = Family(
    ('log rate',),
    noise,
    sample,
    kl,
    gradient,
    noise_triton,
    sample_kl_triton,
    gradient_triton,
    mean,
    log_density=lambda params, z: params[..., 0, :] - torch.exp(params[..., 0, :]) * z,
    quantile=lambda u: -torch.log1p(-u),
    code=code,
    start=start,
    standardise=standardise,
)
