"""Elementary functions in Triton, written again where Triton's own are missing, inaccurate or slow.

Each function is straight-line code without branches, tables or local memory. The library's sine and cosine,
for example, reduce arbitrarily large angles, which uses local memory; the angles here are less than one
turn. The same text serves float32 and float64; a float64 tensor takes more terms of a series.

This file also imports triton, which exists for Linux only. Without it, `triton` is None, `no_triton` is the
error, and `jit` returns the functions unchanged; they are then never called.
"""

import math

try:
    import triton
    import triton.language as tl

    jit, constexpr, no_triton = triton.jit, tl.constexpr, None
except ImportError as error:
    triton, tl, no_triton = None, None, error

    def jit(value):
        return value

    constexpr = jit


INVERSE_FACTORIALS = constexpr(tuple(1 / math.factorial(k) for k in range(21)))
# The polynomial of degree 7 through the Chebyshev nodes of [-1/3, 1/3] for (log(1 + t) - t) / t^2. With it,
# log(1 + t) has a relative error below 1.2e-7, rounding included, also where the logarithm is nearly 0.
LOG_COEFFICIENTS = constexpr(
    (
        -0.49999985561484706,
        0.33333320168349617,
        -0.25004146193660076,
        0.20003780322455603,
        -0.16483017533211697,
        0.1411830990265524,
        -0.15040763723064413,
        0.13425749011418575,
    )
)


@jit
def series(y, first, stride, terms):
    """The sum of y^i / (first + stride * i)! for i = 0, ..., terms - 1, by Horner's rule."""
    # Two terms before the loop, so that the first step is a single multiply-add of constants.
    total = (
        y * INVERSE_FACTORIALS[first + stride * (terms - 1)]
        + INVERSE_FACTORIALS[first + stride * (terms - 2)]
    )
    for i in tl.static_range(2, terms):
        total = total * y + INVERSE_FACTORIALS[first + stride * (terms - 1 - i)]
    return total


@jit
def exp(x):
    """e^x, in float32 by the hardware's 2^x, with a relative error of about (1 + |x|) 1e-7."""
    if x.dtype == tl.float64:
        y = tl.exp(x)
    else:
        y = tl.exp2(x * 1.4426950408889634)  # log2(e)
    return y


@jit
def log(u):
    """log u for a normal number u > 0.

    With u = 2^k (1 + t) and t in [-1/3, 1/3), log u = k log 2 + log(1 + t).
    """
    if u.dtype == tl.float64:
        y = tl.log(u)
    else:
        bits = u.to(tl.int32, bitcast=True)
        k = (bits - 0x3F2AAAAB) & -0x800000  # 2^23 k: the exponent field of u / (2/3)
        t = (bits - k).to(tl.float32, bitcast=True) - 1.0
        p = t * LOG_COEFFICIENTS[7] + LOG_COEFFICIENTS[6]
        for i in tl.static_range(2, 8):
            p = p * t + LOG_COEFFICIENTS[7 - i]
        y = k.to(tl.float32) * (0.6931471805599453 * 2.0**-23) + (p * (t * t) + t)
    return y


@jit
def cos_sin(word, dtype):
    """Cosine and sine of the angle 2 pi u, where u = (word >> 9 + 1/2) 2^-23 is the uniform of a random word.

    The nearest multiple of a quarter turn is read from the word's bits. The rest is at most an eighth of a
    turn, where a short series is accurate.
    """
    w = (word >> 9) + (1 << 20)
    quarter = w >> 21  # 0 ... 4
    rest = ((w & 0x1FFFFF).to(dtype) + 0.5) * 2.0**-21 - 0.5  # quarter turns, in (-1/2, 1/2)
    angle = rest * 1.5707963267948966  # pi / 2
    y = -angle * angle
    terms: tl.constexpr = 10 if dtype == tl.float64 else 5
    s, c = angle * series(y, 1, 2, terms), series(y, 0, 2, terms)
    odd = (quarter & 1) != 0
    cosine, sine = tl.where(odd, s, c), tl.where(odd, c, s)
    # The signs in quarters 0, 1, 2, 3, 4: cosine + - - + +, sine + + - - +.
    return tl.where(((quarter + 1) & 2) != 0, -cosine, cosine), tl.where((quarter & 2) != 0, -sine, sine)


@jit
def h(x, exp_x):
    """exp(x) - 1 - x, given exp(x). Near 0, where the difference would lose all digits, by its series."""
    terms: tl.constexpr = 16 if x.dtype == tl.float64 else 7
    return tl.where(tl.abs(x) < 0.5, x * x * series(x, 2, 1, terms), exp_x - 1 - x)


@jit
def expm1(x, exp_x):
    """exp(x) - 1, given exp(x). Near 0 by its series, as in h."""
    terms: tl.constexpr = 17 if x.dtype == tl.float64 else 8
    return tl.where(tl.abs(x) < 0.5, x * series(x, 1, 1, terms), exp_x - 1)


# Whether TRITON_INTERPRET=1 is set: the functions above are then interpreted and run on a CPU, slowly.
INTERPRETED = triton is not None and not isinstance(exp, triton.JITFunction)
