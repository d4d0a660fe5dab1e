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
    device = next((c.device for c in (c0, c1, c2, c3) if torch.is_tensor(c)), None)
    c0, c1, c2, c3 = torch.broadcast_tensors(*(torch.as_tensor(c, dtype=torch.int64, device=device) & MASK
                                               for c in (c0, c1, c2, c3)))
    # A round treats words 0 and 2 alike, and words 1 and 3: two tensors hold the pairs, so that each
    # operation serves both.
    even, odd = torch.stack([c0, c2]), torch.stack([c1, c3])                      # [2, ...]
    pair = [2] + [1] * c0.dim()
    multiplier = torch.tensor(MULTIPLIERS, device=even.device).view(pair)
    for i in range(ROUNDS):
        key = torch.tensor([(seed + i * WEYL[0]) & MASK, ((seed >> 32) + i * WEYL[1]) & MASK],
                           device=even.device).view(pair)
        # int64 holds the 64-bit product as a bit pattern: a product above 2^63 turns negative, and the
        # mask takes the sign that the shift copied down off again.
        product = even * multiplier
        even = ((product >> 32) & MASK).flip(0) ^ odd ^ key
        odd = (product & MASK).flip(0)
    return torch.stack([even[0], odd[0], even[1], odd[1]])


def uniform(words, dtype=torch.float32):
    """Uniforms in the open interval (0, 1) from 32-bit words, shape kept.

    u = (word >> 9 + 1/2) * 2^-23: 24 significant bits, so exact in float32, from 2^-24 to 1 - 2^-24.
    """
    return ((words >> 9).to(dtype) + 0.5) * 2.0 ** -23
