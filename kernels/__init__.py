"""Sampling from the posteriors, with their KL: one interface, whatever runs below it.

    z, kl = sample_kl(params, 'laplace', seed=0, step=7, ids=rows)

`noise.py` holds the counter-based random numbers, `families.py` the posterior families (a new one is
added there and nowhere else), `fused.py` the two Triton kernels with `elementary.py` below them, and
`sampling.py` the functions that callers use, with their PyTorch twin. `adam.py` has the optimiser of such a table's rows.
"""

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
