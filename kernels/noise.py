"""Noise as a function of a counter: the generator Philox-4x32-10.

(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.)

Read `philox_4x32` first. The 64-bit seed is the key; the counter's four 32-bit words are, in this order,

    (block of four dimensions, draw, row, step)

So a random number depends on its place only: not on the batch, the device, the number of processes, or how
often the generator was called before.

The version for CPUs uses NumPy, because PyTorch lacks arithmetic on unsigned integers. It makes few calls:
the arrays are small, and between the large operations of a decoder the overhead of a call exceeds the time
of its arithmetic. The version in Triton computes the same words.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kernels.elementary import jit, tl

MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)  # for counter words 0 and 2
WEYL = np.array(
    [0x9E3779B9, 0xBB67AE85], np.uint64
)  # what a round adds to the key: golden ratio, sqrt(3) - 1
HALF, LOWER = np.uint64(32), np.uint64(2**32 - 1)  # half the bits of a 64-bit number; its lower half


@lru_cache(1)  # a program uses one seed
def round_keys(seed):
    """The keys of the ten rounds, uint64 [10, 2], in the upper 32 bits."""
    key = np.array([seed % 2**32, seed >> 32], np.uint64)
    return (key + np.arange(10, dtype=np.uint64)[:, None] * WEYL) << HALF


def philox_4x32(
    seed: int, c0: int | np.ndarray, c1: int | np.ndarray, c2: int | np.ndarray, c3: int | np.ndarray
) -> np.ndarray:
    """Four random 32-bit words for each counter (c0, c1, c2, c3).

    seed      the 64-bit key, in [0, 2^64).
    c0 ... c3 ints or int64 arrays that broadcast together to [...]; they count modulo 2^32.

    Returns uint32 [..., 4], the words of Random123's `philox4x32` and of `triton.language.philox`.
    """
    c0, c1, c2, c3 = (np.asarray(c).astype(np.uint64) & LOWER for c in (c0, c1, c2, c3))
    # Words 0 and 1 are kept as one 64-bit number, words 2 and 3 as another.
    first, second = c0 << HALF | c1, c2 << HALF | c3
    state = np.empty((2, *np.broadcast(first, second).shape), np.uint64)  # [2, ...]
    state[0], state[1] = first, second
    pair = (2,) + (1,) * (state.ndim - 1)  # the shape in which two values, one for each number, broadcast
    multipliers = MULTIPLIERS.reshape(pair)
    for key in round_keys(seed).reshape(-1, *pair):
        product = state >> HALF
        product *= multipliers  # the 64-bit products of words 0 and 2
        state <<= HALF
        state ^= key
        state ^= product[::-1]
    words = np.empty((*state.shape[1:], 4), np.uint32)
    words[..., 1], words[..., 3] = state  # uint32 keeps the lower half
    words[..., 0], words[..., 2] = state >> HALF
    return words


def uniform(
    words: np.ndarray, dtype: torch.dtype = torch.float32, device: str | torch.device = 'cpu'
) -> Tensor:
    """Uniforms in the open interval (0, 1) from random words, uint32 of any shape; a tensor of that shape.

    u = (word >> 9 + 1/2) * 2^-23 has 24 significant bits, so it is exact in float32, and lies between 2^-24
    and 1 - 2^-24.
    """
    return torch.from_numpy(words >> 9).to(device, dtype).add_(0.5).mul_(2.0**-23)


@jit
def philox_4x32_triton(k0, k1, c0, c1, c2, c3):
    """The same for uint32 tensors; k0 and k1 are the halves of the key."""
    for _ in tl.static_range(10):
        # The compiler makes one instruction of a 64-bit product, for both of its halves.
        product0, product2 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (product2 >> 32).to(tl.uint32) ^ c1 ^ k0,
            product2.to(tl.uint32),
            (product0 >> 32).to(tl.uint32) ^ c3 ^ k1,
            product0.to(tl.uint32),
        )
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@jit
def uniform_triton(word, dtype):
    """The same for a uint32 tensor."""
    return ((word >> 9).to(dtype) + 0.5) * 2.0**-23
