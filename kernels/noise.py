"""Noise as a function: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

The 64-bit seed is the key. The counter's four 32-bit words are, in this order,

    (block of four dimensions, draw, row, step)

so that a number depends on what it is for, and on nothing else: not on the batch, the device, the number
of processes, or how often the generator was called before.
"""
import torch

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)   # for counter words 0 and 2
WEYL = (0x9E3779B9, 0xBB67AE85)          # what a round adds to the key: the golden ratio and sqrt(3) - 1
ROUNDS = 10


def philox_4x32(seed, c0, c1, c2, c3):
    """Four 32-bit random words for each counter.

    seed: int, the 64-bit key. c0 to c3: ints or int64 tensors that broadcast together, taken modulo 2^32.
    Returns int64 [4, ...] with values in [0, 2^32), the words of Random123's `philox4x32` and of
    `triton.language.philox`.
    """
    # Ints stay ints until a round mixes them into a tensor: as tensors of their own they would have to be copied to
    # the GPU at every call, which makes the host wait and cannot be part of a CUDA graph.
    c0, c1, c2, c3 = c0 & MASK, c1 & MASK, c2 & MASK, c3 & MASK
    k0, k1 = seed & MASK, seed >> 32
    for _ in range(ROUNDS):
        # int64 holds the 64-bit product as a bit pattern: a product above 2^63 turns negative, and the mask takes
        # the sign that the shift copied down off again.
        product0, product2 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (((product2 >> 32) & MASK) ^ c1 ^ k0, product2 & MASK,
                          ((product0 >> 32) & MASK) ^ c3 ^ k1, product0 & MASK)
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return torch.stack(torch.broadcast_tensors(*(torch.as_tensor(c) for c in (c0, c1, c2, c3))))


def uniform(words, dtype=torch.float32):
    """Uniforms in the open interval (0, 1) from 32-bit words, shape kept.

    u = (word >> 9 + 1/2) * 2^-23: 24 significant bits, so exact in float32, from 2^-24 to 1 - 2^-24.
    """
    return ((words >> 9).to(dtype) + 0.5) * 2.0 ** -23
