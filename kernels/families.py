"""The posterior families. To add one, write its three formulas and a row of FAMILIES; then a row in
tests/test_kernels.py.

A posterior q(z; params) has P parameters per latent dimension, params [..., P, D], the location first.
Every family is so parametrised that all parameters zero make it the prior p(z), and z is one line of
arithmetic on standard noise e ~ p that owns no parameters (the reparameterisation trick; Kingma and
Welling, "Auto-encoding variational Bayes", 2014).

All closed-form KL(q || p) here are sums of h(x) = exp(x) - 1 - x >= 0: for instance the Gaussian's
textbook form 1/2 (mu^2 + sigma^2 - 1 - log sigma^2) with s = log sigma is 1/2 (mu^2 + h(2s)).
`expm1` keeps the digits that exp(x) - 1 loses near the prior, where x is small.
"""
import math
from dataclasses import dataclass
from typing import Callable

import torch


def h(x):
    """exp(x) - 1 - x, elementwise: zero at zero, positive elsewhere."""
    return torch.expm1(x) - x


def gaussian_noise(u):
    """Box-Muller: uniforms u [4, ...] to independent N(0, 1) [4, ...], from words (0, 1) and (2, 3)."""
    radius = torch.sqrt(-2 * torch.log(u[0::2]))                                  # [2, ...]
    angle = 2 * math.pi * u[1::2]
    first, second = radius * torch.cos(angle), radius * torch.sin(angle)
    return torch.stack([first[0], second[0], first[1], second[1]])


def gaussian_sample(params, e):
    mu, s = params.unbind(-2)                                                     # s = log sigma
    return mu + torch.exp(s) * e


def gaussian_kl(params):
    mu, s = params.unbind(-2)
    return 0.5 * (mu * mu + h(2 * s))


def laplace_noise(u):
    """The Laplace(0, 1) quantile function at u. 1 - 2|u - 1/2| is never 0, since u is never 0 or 1."""
    return -torch.sign(u - 0.5) * torch.log1p(-2 * torch.abs(u - 0.5))


def laplace_sample(params, e):
    mu, s = params.unbind(-2)                                                     # s = log b
    return mu + torch.exp(s) * e


def laplace_kl(params):
    # KL(Laplace(mu, b) || Laplace(0, 1)) = E|z| - 1 - log b, where E|z| = |mu| + b exp(-|mu| / b)
    mu, s = params.unbind(-2)
    b = torch.exp(s)
    return h(s) + b * h(-torch.abs(mu) / b)


def exponential_noise(u):
    return -torch.log(u)


def exponential_sample(params, e):
    (k,) = params.unbind(-2)                                                      # k = log rate
    return e * torch.exp(-k)


def exponential_kl(params):
    # KL(Exp(rate) || Exp(1)) = log rate + 1 / rate - 1
    (k,) = params.unbind(-2)
    return h(-k)


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
    location, s = params.unbind(-2)                                               # [M, D] each
    reference_location, reference_s = reference.unbind(-2)                        # [N, D] each
    shift = reference_location.mean(0)                                            # [D]
    scale = dispersion(reference_location - shift, torch.exp(reference_s))        # [D]
    return torch.stack([(location - shift) / scale, s - torch.log(scale)], -2), scale, shift


def gaussian_standardise(params, reference):
    return location_scale_standardise(params, reference, lambda mu, sigma: torch.sqrt((mu ** 2 + sigma ** 2).mean(0)))


def laplace_standardise(params, reference):
    return location_scale_standardise(params, reference, lambda mu, b: (mu.abs() + b * torch.exp(-mu.abs() / b)).mean(0))


def exponential_standardise(params, reference):
    # z -> z / mean: only k moves, and the code of the old z is that of the new one plus a constant
    log_mean = torch.log(exponential_mean(reference).mean(0))                     # [D]
    return params + log_mean, torch.ones_like(log_mean), log_mean * (math.sqrt(6) / math.pi)


def exponential_start(code, spread):
    # The spread is not ours to choose. Locations of standard deviation 2 stand out from log z's noise of
    # pi / sqrt(6) = 1.28, and the constant makes E[exp(-k)], the mean of z, what the prior expects: 1.
    return (2 ** 2 / 2 - 2 * code).unsqueeze(-2)


@dataclass(frozen=True)
class Family:
    parameters: tuple[str, ...]   # names of the P parameters, in the order of params [..., P, D]
    noise: Callable               # uniforms [4, ...] -> e [4, ...], draws from the prior
    sample: Callable              # params [..., P, D], e [..., D] -> z [..., D]
    kl: Callable                  # params [..., P, D] -> KL(q || p) per dimension [..., D], in nats
    mean: Callable                # params [..., P, D] -> E[z] [..., D]
    # What a model needs to use the family well. A code is z as a decoder reads it, a real number of mean 0 and a
    # spread of about 1 under the prior.
    code: Callable                # z [..., D] -> code [..., D]
    start: Callable               # c [N, D] of mean 0 and variance 1, spread [D] -> params [N, P, D] whose locations are
                                  # linear in c; a family with a scale sets it to spread
    standardise: Callable         # params [M, P, D], reference [N, P, D] -> (params, scale [D], shift [D]): the affine
                                  # change of z that fits the reference posteriors to the prior (of their mean KL it
                                  # takes what a scale and a shift can take), with old code = scale * new code + shift


FAMILIES = {
    'gaussian': Family(
        ('mu', 'log sigma'), gaussian_noise, gaussian_sample, gaussian_kl, mean=lambda params: params[..., 0, :],
        code=lambda z: z, start=lambda code, spread: torch.stack([code, torch.log(spread).expand_as(code)], -2),
        standardise=gaussian_standardise),
    'laplace': Family(
        ('mu', 'log b'), laplace_noise, laplace_sample, laplace_kl, mean=lambda params: params[..., 0, :],
        # the prior's spread is sqrt(2)
        code=lambda z: z, start=lambda code, spread: torch.stack([2 ** 0.5 * code, torch.log(spread).expand_as(code)], -2),
        standardise=laplace_standardise),
    'exponential': Family(
        ('log rate',), exponential_noise, exponential_sample, exponential_kl, exponential_mean,
        code=exponential_code, start=exponential_start, standardise=exponential_standardise),
}


def family(dist):
    """The Family of that name. ValueError: no such family."""
    if dist not in FAMILIES:
        raise ValueError(f'expected dist to be one of {", ".join(FAMILIES)}, got {dist!r}')
    return FAMILIES[dist]
