"""Images as a trainer reads them: in shuffled batches, with shifted copies.

A thousand images are few: a decoder that never saw the same coat one pixel lower overfits. So training also
shows copies of the images, shifted by one pixel, which have latents of their own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.binarise import toss_coins
from training.data import ImageDataset, as_bytes
from training.randomness import BINARISE, fold, noise_key

# Rows and columns of padding that are cut off at the top left; 1, 1 is the image itself.
SHIFTS = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
COPIES_PER_EPOCH = 2  # of each image's 4 shifted copies, on average; the image itself comes every epoch
MANY = 20_000  # images, beyond which there are no copies, which take two thirds of the time


def is_row(shape: tuple[int, ...]) -> bool:
    """Whether an image is a single row or column: a table's. Shifted across it, nothing of it would be left,
    and shifted along it, a feature would take the place of another."""
    return min(shape[-2:]) == 1


def copies(n: int, shape: tuple[int, ...]) -> int:
    """How many shifted copies each of n images of that shape has."""
    return 0 if n > MANY or is_row(shape) else len(SHIFTS) - 1


def epoch_length(n: int, shape: tuple[int, ...]) -> int:
    """How many images and copies an epoch of n images shows."""
    return n * (1 + min(COPIES_PER_EPOCH, copies(n, shape)))


def epoch_order(n: int, copies: int, seed: int, epoch: int) -> Tensor:
    """The indices of one epoch, shuffled: every image once, and COPIES_PER_EPOCH * n of the copies, of which
    each has so many. int64 [3n], or [n] without copies."""
    generator = torch.Generator().manual_seed(fold(seed << 20 | epoch))
    shifted = n + torch.randperm(copies * n, generator=generator)[: COPIES_PER_EPOCH * n]
    index = torch.cat([torch.arange(n), shifted])
    return index[torch.randperm(len(index), generator=generator)]


class Images:
    """A data set and its shifted copies; on the device, or, of a mapped data set, in its file.

    An image's index is copy * total + its place in the data set, whichever process owns it. Its local index,
    copy * n + its place in the share of this process, is where this process has it. With one process the two
    are equal.

    share: the slice of the data set that this process owns. n: how many images these are. total: of all
    processes. copies: how many each image has.
    """

    def __init__(self, dataset: ImageDataset, device: torch.device | str, share: slice = slice(None)):
        own = dataset.part(share)
        self.X, self.observed = own.X, own.observed  # [n, 28, 28] or [n, C, H, W]; the mask, or None
        self.grey = None if own.grey is None else own.grey.to(device)  # what coins are tossed by
        if not own.mapped:
            self.X = as_bytes(own.X).to(device)
            if self.observed is not None:
                parts = torch.arange(len(own)).split(5000)  # random numbers take ten times a mask's memory
                self.observed = torch.cat([self.observed[part] for part in parts]).to(device)
        self.device = torch.device(device)
        self.shifts = torch.tensor(SHIFTS, device=device)
        self.n, self.total, self.first = len(own), len(dataset), share.start or 0
        self.copies = copies(self.total, dataset.shape)

    def __len__(self) -> int:
        return self.n * (1 + self.copies)

    def local_index(self, index: Tensor) -> Tensor:
        """int64 [B] -> int64 [B]."""
        return index // self.total * self.n + index % self.total - self.first

    def __getitem__(self, local_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """int64 [B] -> images [B, 28, 28] (or [B, C, H, W]), float32 in 0-1, 0 where a pixel is missing; and
        which pixels are observed, bool [B, 28, 28]; None: all of all images."""
        return self.read(self.X, local_index)

    def in_training(
        self, index: Tensor, local_index: Tensor, seed: int, step: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As [local_index], for a step of training: where the images are binarised dynamically, by new coins.

        index: of the same images, int64 [B]. seed: the run's.
        """
        if self.grey is None:
            return self[local_index]
        grey, observed = self.read(self.grey, local_index)
        return toss_coins(grey, index, seed=noise_key(seed, BINARISE), step=step), observed

    def read(self, X: Tensor, local_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """As [local_index], of the images X."""
        place = (local_index % self.n).to(X.device)
        x = self.shift(X[place].to(self.device), local_index).float() / 255
        if self.observed is None:
            return x, None
        # Pixels that come into a copy from outside the image were not observed either.
        observed = self.shift(self.observed[place].to(self.device), local_index)
        return torch.where(observed, x, 0.0), observed

    def shift(self, x: Tensor, local_index: Tensor) -> Tensor:
        """x [B, 28, 28] as in the copies with local_index: shifted, with 0 in the places that become free."""
        height, width = x.shape[-2:]
        x = F.pad(x, (1, 1, 1, 1))  # [B, 30, 30]
        windows = x.unfold(-2, height, 1).unfold(-2, width, 1)  # [B, 3, 3, 28, 28], a view
        top, left = self.shifts[local_index // self.n].unbind(1)
        return windows[torch.arange(len(x), device=self.device), ..., top, left, :, :]

    def shift_back(self, x: Tensor, copy: int) -> Tensor:
        """What shift made of images as their copies of that number, x [..., 28, 28], in its old place; 0 in
        the row or column that was shifted out."""
        height, width = x.shape[-2:]
        top, left = (2 - padding for padding in SHIFTS[copy])
        return F.pad(x, (1, 1, 1, 1))[..., top : top + height, left : left + width]

    def own(self) -> Tensor:
        """The local indices of the images themselves, without copies: int64 [n]."""
        return torch.arange(self.n, device=self.device)

    def epoch(self, seed: int, epoch: int, batch_size: int) -> list[tuple[Tensor, int]]:
        """The batches of an epoch: of each the indices of this process's images, int64 [B], and the size of
        the whole."""
        order = epoch_order(self.total, self.copies, seed, epoch)
        batch = torch.arange(len(order)) // batch_size
        image = order % self.total - self.first  # where this process would have it
        own = (0 <= image) & (image < self.n)
        sizes = batch.bincount().tolist()
        own_sizes = batch[own].bincount(minlength=len(sizes)).tolist()
        return list(zip(order[own].to(self.device).split(own_sizes), sizes))  # one transfer
