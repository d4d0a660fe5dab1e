"""The uniform distribution: z = c + w e with e ~ U(-1, 1), the prior.

Every interval [c - w, c + w] lies inside [-1, 1], whatever the parameters a and s, since

    w = 1 / cosh(s)        c = (1 - w) tanh(a)

So the KL, -log w = log cosh(s), is finite, and nothing has to be clamped. For large |s| it is |s| - log 2:
then |s| is the logarithm of 1 / w, up to a constant.
"""

import math

import torch
from torch import Tensor

from kernels.elementary import constexpr, exp, expm1, jit, log, tl
from kernels.families.family import Family


def log_cosh_coefficients(n: int) -> tuple[float, ...]:
    """Of x^2, x^4, ..., x^2n in the series of log cosh(x), whose derivative is tanh(x)."""
    tanh = [1.0]  # coefficients of x, x^3, ...; those that follow from tanh' = 1 - tanh^2
    for k in range(1, n):
        tanh.append(-sum(a * b for a, b in zip(tanh, reversed(tanh))) / (2 * k + 1))
    return tuple(value / (2 * k + 2) for k, value in enumerate(tanh))


LOG_COSH = constexpr(log_cosh_coefficients(18))


def noise(u: Tensor) -> Tensor:
    return 2 * u - 1


def width(s: Tensor) -> tuple[Tensor, Tensor]:
    """w and 1 - w, each with all its digits."""
    y = torch.exp(-torch.abs(s))
    return 2 * y / (1 + y * y), torch.expm1(-torch.abs(s)).square() / (1 + y * y)


def mean(params: Tensor) -> Tensor:
    a, s = params.unbind(-2)
    return width(s)[1] * torch.tanh(a)


def sample(params: Tensor, e: Tensor) -> Tensor:
    return torch.addcmul(mean(params), width(params[..., 1, :])[0], e)


def kl(params: Tensor) -> Tensor:
    # log cosh(x) = log1p((e^x - 1)^2 / (2 e^x)), or, where that overflows, x + log((1 + e^-2x) / 2)
    x = torch.abs(params[..., 1, :])
    y = torch.exp(-x)
    near, far = x.clamp_max(1), x + torch.log((1 + y * y) / 2)
    return torch.where(x < 1, torch.log1p(torch.expm1(near).square() / (2 * torch.exp(near))), far)


def gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
    a, s = params.unbind(-2)
    (w, rest), tau, slope = width(s), torch.tanh(a), torch.tanh(s)  # slope: of the KL
    da = dz * rest * (1 - tau * tau)
    ds = slope * (dkl - dz * w * (e - tau))
    return torch.stack([da, ds], -2)


def log_density(params: Tensor, z: Tensor) -> Tensor:
    # The ends of the interval are as exact as z is.
    inside = torch.abs(z - mean(params)) <= width(params[..., 1, :])[0] + 2 * torch.finfo(z.dtype).eps
    return torch.where(inside, kl(params) - math.log(2), -math.inf)


@jit
def quantile_triton(word, dtype):
    """2 u - 1, exact."""
    return ((word >> 9).to(dtype) + (0.5 - 2.0**22)) * 2.0**-22


@jit
def noise_triton(w0, w1, w2, w3, dtype):
    return (
        quantile_triton(w0, dtype),
        quantile_triton(w1, dtype),
        quantile_triton(w2, dtype),
        quantile_triton(w3, dtype),
    )


@jit
def log_cosh(x, y):
    """log cosh(x) for x >= 0, given y = exp(-x). Near 0, where that is x^2 / 2, by its series."""
    terms: tl.constexpr = 18 if x.dtype == tl.float64 else 7
    square = x * x
    series = square * LOG_COSH[terms - 1] + LOG_COSH[terms - 2]
    for i in tl.static_range(2, terms):
        series = series * square + LOG_COSH[terms - 1 - i]
    return tl.where(x < 0.5, series * square, x + log(0.5 + 0.5 * y * y))


@jit
def sample_kl_triton(params, e):
    a, s = params
    x = tl.abs(s)
    y, v = exp(-x), exp(-2 * tl.abs(a))
    # w = 2 y / (1 + y^2), 1 - w = (1 - y)^2 / (1 + y^2) and |tanh(a)| = (1 - v) / (1 + v), by one division.
    centre = (1 - y) * (1 - y) * (1 - v)
    z = (tl.where(a < 0, -centre, centre) + 2 * y * (1 + v) * e) / ((1 + y * y) * (1 + v))
    return z, log_cosh(x, y)


@jit
def gradient_triton(params, e, dz, dkl):
    a, s = params
    x = tl.abs(s)
    y, v = exp(-x), exp(-2 * tl.abs(a))
    scale, tau = 1 / (1 + y * y), (1 - v) / (1 + v)
    slope = -expm1(-2 * x, y * y) * scale  # |tanh(s)|, with all its digits near 0
    slope = tl.where(s < 0, -slope, slope)
    da = dz * (1 - y) * (1 - y) * scale * (1 - tau * tau)
    return da, slope * (dkl - dz * (2 * y * scale) * (e - tl.where(a < 0, -tau, tau)))


def code(z: Tensor) -> Tensor:
    """z as a normal number, N(0, 1) under the prior: a decoder learns more from it than from z."""
    return torch.special.ndtri(0.5 + 0.4999 * z)  # z may be rounded to 1, whose code would be infinite


def start(code: Tensor, spread: Tensor) -> Tensor:
    # At the prior itself, s = 0, every gradient is 0: a dimension that started there would stay there.
    s = -torch.arccosh(1 / spread.clamp_max(0.9))
    # tanh(0.8 code) is nearly uniform in [-1, 1] where code is normal.
    return torch.stack([0.8 * code, s.expand_as(code)], -2)


def standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # No change: the prior's support is fixed, and a new image may need all of it.
    d = params.shape[-1]
    return params, params.new_ones(d), params.new_zeros(d)


UNIFORM = Family(
    ('location', 'width'),
    noise,
    sample,
    kl,
    gradient,
    noise_triton,
    sample_kl_triton,
    gradient_triton,
    mean,
    log_density,
    quantile=lambda u: 2 * u - 1,
    code=code,
    start=start,
    standardise=standardise,
)
