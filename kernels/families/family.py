"""What a family of posteriors consists of, and what several families share."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Family:
    # Names of the P parameters, in the order of params [..., P, D]. (Those of a packed family, see below, are
    # [..., K], and so are they wherever it says [..., P, D] here.)
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
    # params [..., P, D], factor -> posteriors whose scale is factor times as large, if the family has one
    widen: Callable = lambda params, factor: params
    # Whether z = location + scale * e, where the location may be any number and e is symmetric around 0.
    location_scale: bool = False
    # Whether params are [..., K], K = D (D + 3) / 2: two numbers for each dimension, and one for each pair.
    packed: bool = False

    def shape(self, latent_dim: int) -> tuple[int, ...]:
        """The shape of one image's params: (P, D), or (K,)."""
        d = latent_dim
        return (d * (d + 3) // 2,) if self.packed else (len(self.parameters), d)

    def latent_dim(self, params: Tensor) -> int:
        """D of these params."""
        columns = params.shape[-1]
        return (math.isqrt(9 + 8 * int(columns)) - 3) // 2 if self.packed else columns


def h(x: Tensor) -> Tensor:
    """exp(x) - 1 - x for each element: zero at zero, positive elsewhere.

    In float64: near 0, where the result is x^2 / 2, the difference loses as many digits as x has zeros.
    """
    wide = x.double()
    return (torch.expm1(wide) - wide).to(x.dtype)


def location_scale_sample(params: Tensor, e: Tensor) -> Tensor:
    """z = mu + exp(s) e, for the Gaussian and the Laplace, where s is the logarithm of the scale."""
    mu, s = params.unbind(-2)
    return torch.addcmul(mu, torch.exp(s), e)


def location_scale_widen(params: Tensor, factor: float) -> Tensor:
    location, s = params.unbind(-2)
    return torch.stack([location, s + math.log(factor)], -2)


def standard(params: Tensor, z: Tensor) -> Tensor:
    """e of z = mu + exp(s) e."""
    mu, s = params.unbind(-2)
    return (z - mu) * torch.exp(-s)


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
