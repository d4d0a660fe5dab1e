"""Missing pixels: which pixels of an image are observed.

What lies under a missing pixel must never be read. `Images` (batches.py) sees to that: it is where training
and inference get their images from, and its missing pixels are 0.

A mask is a bool tensor [N, *shape], True where a pixel is observed, or one of the two classes below, which
make the rows that they are asked for: mask[slice] is a mask again, mask[index] a tensor.
"""

import math

import numpy as np
import torch
from torch import Tensor

import kernels
from training.randomness import MISSING, noise_key


def random_pixels(images: np.ndarray, shape: tuple[int, ...], rate: float, key: int, part: int) -> Tensor:
    """bool [B, H, W]: each pixel is missing with the probability `rate`, independently of the others."""
    height, width = shape[-2:]
    blocks = np.arange(math.ceil(height * width / 4))  # a counter gives four numbers
    words = kernels.philox_4x32(key, blocks, 0, images[:, None], part)  # [B, blocks, 4]
    u = kernels.uniform(words).flatten(1)[:, : height * width]
    return (u >= rate).view(-1, height, width)


def random_blocks(images: np.ndarray, shape: tuple[int, ...], rate: float, key: int, part: int) -> Tensor:
    """bool [B, H, W]: the share `rate` of the pixels is missing, in one rectangle of the image's proportions
    at a random place; 14 x 14 of 28 x 28 at a rate of 0.25."""
    sides = [max(1, round(side * math.sqrt(rate))) for side in shape[-2:]]
    u = kernels.uniform(kernels.philox_4x32(key, 0, 1, images, part))  # [B, 4]
    inside = []
    for axis, (side, length) in enumerate(zip(shape[-2:], sides)):
        first = (u[:, axis, None] * (side - length + 1)).long()  # [B, 1]
        place = torch.arange(side)
        inside.append((first <= place) & (place < first + length))  # [B, side]
    return ~(inside[0][:, :, None] & inside[1][:, None, :])


MISSING_KINDS = {'pixels': random_pixels, 'blocks': random_blocks}


class SimulatedMask:
    """Pixels hidden to study incomplete data; in a coloured image, all channels of a pixel.

    An image's mask is a function of (seed, part, image) alone: Philox numbers whose counter is the image and
    the pixel. part: 0 for training images, 1 for test images. images: their places in the data set.
    """

    def __init__(self, images: range, shape: tuple[int, ...], kind: str, rate: float, seed: int, part: int):
        self.images, self.shape = images, tuple(shape)
        self.kind, self.rate, self.seed, self.part = kind, rate, seed, part

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which):
        if isinstance(which, slice):
            return SimulatedMask(self.images[which], self.shape, self.kind, self.rate, self.seed, self.part)
        images = self.images.start + which.cpu().numpy() * self.images.step
        key = noise_key(self.seed, MISSING)
        mask = MISSING_KINDS[self.kind](images, self.shape, self.rate, key, self.part)  # [B, H, W]
        return mask if len(self.shape) == 2 else mask[:, None].expand(-1, *self.shape)


class NotNaN:
    """The mask of images X [N, *shape] in a file in which NaN stands for a missing pixel."""

    def __init__(self, X: Tensor):
        self.X = X

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, which):
        return NotNaN(self.X[which]) if isinstance(which, slice) else ~torch.isnan(self.X[which])
