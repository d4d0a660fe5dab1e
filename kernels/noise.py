"""Noise as a function: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

The 64-bit seed is the key. The counter's four 32-bit words are, in this order,

    (block of four dimensions, draw, row, step)

so that a number depends on what it is for, and on nothing else: not on the batch, the device, the number
of processes, or how often the generator was called before.

In NumPy, which has the unsigned integers that PyTorch lacks and starts an operation in a third of the time, and
beside it in Triton.
"""
import numpy as np
import torch

from kernels.elementary import jit, tl

MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)   # for counter words 0 and 2
WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)   # what a round adds to the key: the golden ratio, sqrt(3) - 1
ROUNDS = np.arange(10, dtype=np.uint64)
HALF, LOWER = np.uint64(32), np.uint64(2 ** 32 - 1)   # of 64 bits


def philox_4x32(seed, c0, c1, c2, c3):
    """Four 32-bit random words for each counter.

    seed: int, the 64-bit key. c0 to c3: ints or int64 tensors that broadcast together, taken modulo 2^32.
    Returns int64 [..., 4] with values in [0, 2^32) on the tensors' device, the words of Random123's `philox4x32` and
    of `triton.language.philox`. (On a GPU the counters are copied to the host and the words back.)
    """
    device = next((c.device for c in (c0, c1, c2, c3) if torch.is_tensor(c)), None)
    c0, c1, c2, c3 = (c.cpu().numpy().astype(np.uint64) & LOWER if torch.is_tensor(c) else np.uint64(c % 2 ** 32)
                      for c in (c0, c1, c2, c3))
    # Words 0 and 1 as one 64-bit number, words 2 and 3 as another.
    first, second = c0 << HALF | c1, c2 << HALF | c3
    state = np.empty((2, *np.broadcast_shapes(first.shape, second.shape)), np.uint64)   # [2, ...]
    state[0], state[1] = first, second
    pair = (2,) + (1,) * (state.ndim - 1)                                         # to broadcast what each of the two has
    multipliers = MULTIPLIERS.reshape(pair)
    keys = (np.array([seed % 2 ** 32, seed >> 32], np.uint64) + ROUNDS[:, None] * WEYL) << HALF   # [10, 2]
    for key in keys.reshape(-1, *pair):
        product = state >> HALF
        product *= multipliers                                                    # of words 0 and 2, 64 bits
        state <<= HALF
        state ^= key
        state ^= product[::-1]
    # The halves of state: [2, ..., lower and upper] on a little-endian machine, which is every one that runs PyTorch.
    words = np.moveaxis(state.view(np.uint32).reshape(*state.shape, 2)[..., ::-1], 0, -2)   # [..., 2, 2]
    return torch.from_numpy(words.astype(np.int64, order='C')).flatten(-2).to(device)


def uniform(words, dtype=torch.float32):
    """Uniforms in the open interval (0, 1) from 32-bit words, shape kept.

    u = (word >> 9 + 1/2) * 2^-23: 24 significant bits, so exact in float32, from 2^-24 to 1 - 2^-24.
    """
    return ((words >> 9).to(dtype) + 0.5) * 2.0 ** -23


@jit
def philox_4x32_triton(k0, k1, c0, c1, c2, c3):
    """The same for uint32 tensors, k0 and k1 the key. The two halves of a 64-bit product are one instruction."""
    for _ in tl.static_range(10):
        product0, product2 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1, c2, c3 = ((product2 >> 32).to(tl.uint32) ^ c1 ^ k0, product2.to(tl.uint32),
                          (product0 >> 32).to(tl.uint32) ^ c3 ^ k1, product0.to(tl.uint32))
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@jit
def uniform_triton(word, dtype):
    return ((word >> 9).to(dtype) + 0.5) * 2.0 ** -23
