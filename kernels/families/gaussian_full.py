"""The Gaussian with a full covariance: z = mu + L e with e ~ N(0, I), prior N(0, I).

    L = diag(exp(s)) (I + T)        T strictly lower triangular

An image's params are K = 2 D + D (D - 1) / 2 numbers: mu, s, and T packed by rows, T_10, T_20, T_21, T_30,
... The first 2 D of them are those of the Gaussian that T = 0 makes: each dimension by itself. With sigma =
exp(s),

    z_i = mu_i + sigma_i (e_i + sum over j < i of T_ij e_j)
    KL = sum over i of 1/2 (mu_i^2 + h(2 s_i) + sigma_i^2 (sum over j < i of T_ij^2))

since log det L = sum of s: the diagonal of I + T is 1. A scale and a matrix of ones on the diagonal, started
near T = 0, are how Pyro and NumPyro parametrise it too.

The Triton kernels are in full.py.
"""

import math

import torch
from torch import Tensor

from kernels.families import gaussian
from kernels.families.family import Family, h


def unpack(params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """params [..., K] -> mu [..., D], s [..., D] and T [..., D, D]."""
    d = GAUSSIAN_FULL.latent_dim(params)
    mu, s, packed = params.split([d, d, d * (d - 1) // 2], -1)
    i, j = torch.tril_indices(d, d, -1, device=params.device)
    t = params.new_zeros(*params.shape[:-1], d, d)
    t[..., i, j] = packed
    return mu, s, t


def pack(mu: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """mu [..., D], s [..., D] and T [..., D, D], whose part below the diagonal is read -> params [..., K]."""
    d = mu.shape[-1]
    i, j = torch.tril_indices(d, d, -1, device=mu.device)
    return torch.cat([mu, s, t[..., i, j]], -1)


def scale_tril(s: Tensor, t: Tensor) -> Tensor:
    """L [..., D, D]."""
    return torch.exp(s).unsqueeze(-1) * (t + torch.eye(s.shape[-1], dtype=s.dtype, device=s.device))


def sample(params: Tensor, e: Tensor) -> Tensor:
    mu, s, t = unpack(params)
    return torch.addcmul(mu, torch.exp(s), e + (t @ e.unsqueeze(-1)).squeeze(-1))


def kl(params: Tensor) -> Tensor:
    mu, s, t = unpack(params)
    return 0.5 * (mu * mu + h(2 * s) + torch.exp(2 * s) * t.square().sum(-1))


def gradient(params: Tensor, e: Tensor, dz: Tensor, dkl: Tensor) -> Tensor:
    mu, s, t = unpack(params)
    sigma = torch.exp(s)
    # The first term is that of z, the second that of the KL.
    dt = (dz * sigma).unsqueeze(-1) * e.unsqueeze(-2) + (dkl * sigma * sigma).unsqueeze(-1) * t
    ds = dz * sigma * e + dkl * torch.expm1(2 * s) + (t * dt).sum(-1)
    return pack(torch.addcmul(dz, dkl, mu), ds, dt)


def mean(params: Tensor) -> Tensor:
    return params[..., : GAUSSIAN_FULL.latent_dim(params)]


def log_density(params: Tensor, z: Tensor) -> Tensor:
    mu, s, t = unpack(params)
    scaled = (z - mu) * torch.exp(-s)  # (I + T) e
    if z.dim() > params.dim():  # many z for each of the params: one system with many right-hand sides
        e = torch.linalg.solve_triangular(t, scaled.movedim(0, -1), upper=False, unitriangular=True).movedim(
            -1, 0
        )
    else:
        e = torch.linalg.solve_triangular(t, scaled.unsqueeze(-1), upper=False, unitriangular=True).squeeze(
            -1
        )
    return -0.5 * e * e - s - 0.5 * math.log(2 * math.pi)


def start(code: Tensor, spread: Tensor) -> Tensor:
    d = code.shape[-1]
    diagonal = gaussian.start(code, spread).flatten(1)  # [N, 2 D]
    return torch.cat([diagonal, diagonal.new_zeros(len(code), d * (d - 1) // 2)], 1)


def standardise(params: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d = GAUSSIAN_FULL.latent_dim(params)
    mu, s, packed = reference.split([d, d, d * (d - 1) // 2], -1)
    shift = mu.mean(0)  # [D]
    i, _ = torch.tril_indices(
        d, d, -1, device=params.device
    )  # row of each number of T; no [N, D, D] in memory
    squares = torch.zeros_like(mu).index_add_(1, i, packed.square())  # [N, D]
    variance = torch.exp(2 * s) * (1 + squares)  # [N, D], of each dimension
    scale = torch.sqrt(((mu - shift) ** 2 + variance).mean(0))  # [D]
    new = torch.cat(
        [(params[:, :d] - shift) / scale, params[:, d : 2 * d] - torch.log(scale), params[:, 2 * d :]], 1
    )
    return new, scale, shift  # T acts before the scale, and stays


def widen(params: Tensor, factor: float) -> Tensor:
    mu, log_diagonal, t = params.tensor_split([d := GAUSSIAN_FULL.latent_dim(params), 2 * d], -1)
    return torch.cat([mu, log_diagonal + math.log(factor), t], -1)


GAUSSIAN_FULL = Family(
    ('mu', 'log diagonal', 'T'),
    gaussian.noise,
    sample,
    kl,
    gradient,
    gaussian.noise_triton,
    None,  # its kernels are in full.py
    None,
    mean,
    log_density,
    quantile=torch.special.ndtri,
    code=lambda z: z,
    start=start,
    standardise=standardise,
    widen=widen,
    location_scale=True,
    packed=True,
)
