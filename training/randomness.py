"""Seeds. What is random here is a function of --seed and of a purpose: a resumed run repeats it."""

# What noise is used for: the high 32 bits of a Philox key. The low ones are --seed.
TRAIN, REFINE, INFER, GRADE, PRIOR, MISSING, IMPUTE, LIKELIHOOD, BINARISE, DENSITY = range(10)


def noise_key(seed: int, use: int) -> int:
    """The 64-bit key of the noise for one of the uses above."""
    return use << 32 | seed


def fold(number: int) -> int:
    """A number of up to 64 bits as one of 32, for PyTorch's CPU generator, which ignores the upper 32 bits of
    its seed.

    The upper bits move the lower ones: without that, seeds 4,096 apart would shuffle alike.
    """
    return (number ^ (number >> 32) * 0x9E3779B1) % 2**32
