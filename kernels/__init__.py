"""Sampling from posteriors with their KL, and an Adam for rows of latents: Triton kernels beside PyTorch.

    z, kl = sample_kl(params, 'laplace', seed=0, step=7, rows=rows)

Files, in the order in which to read them:

    families/       the posterior families: noise, samples, KL and gradients; the place to add a family
    noise.py        the random numbers, a function of a counter
    sampling.py     sampling with KL: the PyTorch reference, the operators, the functions for callers
    fused.py        the two Triton kernels that compute the same
    full.py         those for Gaussians with a full covariance
    elementary.py   elementary functions for them
    adam.py         Adam for rows of latents: reference, kernel, functions for callers
    checks.py       all checks of arguments
    command.py      Ctrl-C and errors of the two commands
    benchmark.py    python -m kernels.benchmark: how fast the kernels are
    compiled.py     python -m kernels.compiled: what the compiler made of them
"""

from kernels import command  # first: Ctrl-C during the imports below
from kernels.adam import row_adam_, row_adam_reference_, row_adam_triton_
from kernels.families import FAMILIES, family
from kernels.noise import philox_4x32, uniform
from kernels.sampling import (
    sample_kl,
    sample_kl_gradient,
    sample_kl_reference,
    sample_kl_triton,
    sample_prior,
)

__all__ = [
    'FAMILIES',
    'family',
    'philox_4x32',
    'uniform',
    'sample_kl',
    'sample_kl_gradient',
    'sample_kl_reference',
    'sample_kl_triton',
    'sample_prior',
    'row_adam_',
    'row_adam_reference_',
    'row_adam_triton_',
]
