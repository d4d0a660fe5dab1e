"""The posterior families q(z; params): their noise, samples, KL to the prior, and gradients.

Each family is a file: read gaussian.py first. family.py says what a family consists of; FAMILIES, at the end
of this file, lists all of them.

A posterior has P parameters for each latent dimension, params [..., P, D], the location first (one that is
not independent from dimension to dimension has params [..., K]: see gaussian_full.py). All parameters zero
give the prior p(z). A sample z is a function of the parameters and of standard noise e ~ p
that does not depend on them (the reparameterisation trick; Kingma and Welling, "Auto-encoding variational
Bayes", 2014).

Every KL(q || p) here but the uniform's is a sum of h(x) = exp(x) - 1 - x >= 0. The Gaussian's textbook form,
for example, 1/2 (mu^2 + sigma^2 - 1 - log sigma^2) with s = log sigma, is 1/2 (mu^2 + h(2s)). Near the prior
x is small, and `expm1` keeps the digits that exp(x) - 1 would lose. The derivative of h is expm1, so the
gradients are sums of that.

The functions ..._triton compute the same for a tile in Triton. There, params is a tuple of P tensors, one
tensor for each parameter. To add a family, write a file with both versions, a row of FAMILIES, and a row of
`DISTRIBUTIONS` in tests/kernels/test_families.py.
"""

from kernels.families.exponential import EXPONENTIAL
from kernels.families.family import Family
from kernels.families.gaussian import GAUSSIAN
from kernels.families.gaussian_full import GAUSSIAN_FULL
from kernels.families.laplace import LAPLACE
from kernels.families.uniform import UNIFORM

FAMILIES = {
    'gaussian': GAUSSIAN,
    'laplace': LAPLACE,
    'exponential': EXPONENTIAL,
    'uniform': UNIFORM,
    'gaussian-full': GAUSSIAN_FULL,
}


def family(dist: str) -> Family:
    """The Family of this name. ValueError: there is none."""
    if not isinstance(dist, str) or dist not in FAMILIES:  # a list, for example, is in no dict
        raise ValueError(f'expected dist to be one of {", ".join(FAMILIES)}, got {dist!r}')
    return FAMILIES[dist]
