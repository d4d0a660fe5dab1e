"""Binary images: each pixel is made white or black by a coin that shows white with its grey value as
probability. Such images have a Bernoulli likelihood (Salakhutdinov and Murray, "On the quantitative analysis
of deep belief networks", 2008).

Static: the coins of an image are tossed once, the same for every seed. Dynamic: each step of training tosses
them again, so that a decoder does not learn the coins by heart; test images are static all the same.
"""

import torch
from torch import Tensor

import kernels

BINARISE_KINDS = 'static', 'dynamic'


def toss_coins(grey: Tensor, index: Tensor, *, seed: int, step: int | Tensor) -> Tensor:
    """Images grey [B, *shape] in 0-1 -> images of the same shape whose pixels are 0 or 1.

    seed: a key of noise. step, and index (int64 [B]) of the images: what the coins are a function of.
    """
    prior = torch.zeros(1, 2, grey[0].numel(), device=grey.device)  # the parameters of U(-1, 1)
    rows = torch.zeros_like(index)
    u, _ = kernels.sample_kl(prior, 'uniform', seed=seed, step=step, rows=rows, ids=index)  # [B, F]
    return ((u.view_as(grey) + 1) / 2 < grey).to(grey.dtype)
