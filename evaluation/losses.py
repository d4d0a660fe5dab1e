"""The course's reconstruction loss. It depends on the batch size: figures compare at 64 only."""

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from kernels.checks import describe
from training import ImageDataset

BATCH_SIZE = 64
PCA_IMAGES = 20_000  # that principal components are estimated from, at most


def reconstruction_loss(x: Tensor, x_rec: Tensor) -> Tensor:
    """The course's loss: |x - x_rec| (Frobenius) over the number of elements; a 0-d tensor.

    x, x_rec: images of one shape, 0-255. It falls with the batch size B as 1 / sqrt(B). ValueError: other
    shapes.
    """
    if x.shape != x_rec.shape:
        raise ValueError(
            f'expected images and reconstructions of one shape, got {list(x.shape)} and {list(x_rec.shape)}'
        )
    return torch.linalg.vector_norm(x - x_rec) / x.numel()


def check_arguments(opt: Any, latents: Any, epochs: Any) -> int:
    """Check these arguments of evaluate_model; returns epochs as an int. ValueError: one is wrong."""
    if not torch.is_tensor(latents) or latents.dim() != 2 or not latents.is_floating_point():
        raise ValueError(f'expected latents to be a floating-point tensor [N, K], got {describe(latents)}')
    try:
        passes = -1 if isinstance(epochs, bool) else operator.index(epochs)  # NumPy's integers too
    except TypeError:
        passes = -1
    if passes < 0:
        raise ValueError(f'expected epochs to be an integer of at least 0, got {epochs!r}')
    if passes == 0:
        return 0
    if not latents.requires_grad or not latents.is_leaf:
        came = 'the result of other operations' if latents.requires_grad else 'one without requires_grad'
        raise ValueError(
            f'expected latents to be a leaf tensor that requires a gradient, got {came}; '
            'use latents.detach().requires_grad_()'
        )
    if not hasattr(opt, 'zero_grad') or not hasattr(opt, 'step'):
        raise ValueError(f'expected opt to be an optimiser where epochs is not 0, got {type(opt).__name__}')
    groups = getattr(opt, 'param_groups', None)  # an optimiser of one's own may lack them
    if groups is not None and not any(x is latents for group in groups for x in group['params']):
        raise ValueError(
            'expected an opt that holds latents, got one that holds other tensors; make it of [latents]'
        )
    return passes


def batches(test_dl: DataLoader, latents: Tensor, device: torch.device | str) -> Iterator[tuple]:
    """For each batch (i [B], x [B, *shape]) of test_dl the latents of its images [B, K], and x on device.
    ValueError: an image has no latents."""
    for i, x in test_dl:
        if not torch.is_tensor(i) or i.is_floating_point():
            raise ValueError(
                f'expected test_dl to yield (i, x), i an integer tensor [B], got i as {describe(i)}'
            )
        # Loaders yield on the CPU. The host would have to wait for indices on a GPU.
        if i.device.type == 'cpu' and i.numel() and not 0 <= i.min() <= i.max() < len(latents):
            raise ValueError(
                f'expected latents to have a row for each image, got {len(latents)} rows and images '
                f'{int(i.min())} to {int(i.max())}'
            )
        yield latents[i.to(latents.device)], x.to(device)


def evaluate_model(
    model: nn.Module,
    test_dl: DataLoader,
    opt: torch.optim.Optimizer | None,
    latents: Tensor,
    epochs: int,
    device: torch.device | str,
) -> float:
    """The course's grade: fit latents for `epochs` passes over test_dl by opt, then the mean loss over
    batches.

    latents: leaf tensor [N, K] with a row for each image of the data set, the only thing that opt holds.
    test_dl yields (i [B], x [B, *shape] in 0-255). epochs may be 0; then opt is not used.

    ValueError: there are no images, an image has no latents, or an argument is not as described.
    """
    passes = check_arguments(opt, latents, epochs)
    model.eval()
    for _ in range(passes):
        for rows, x in batches(test_dl, latents, device):
            loss = reconstruction_loss(x, model(rows))
            opt.zero_grad()
            loss.backward(inputs=[latents])  # the decoder stays as it is
            opt.step()
    with torch.no_grad():
        losses = [reconstruction_loss(x, model(rows)).item() for rows, x in batches(test_dl, latents, device)]
    if not losses:
        raise ValueError('expected test_dl to have images, got none')
    return float(np.mean(losses))


def course_loss(model: nn.Module, dataset: ImageDataset, latents: Tensor) -> float:
    """reconstruction_loss of latents [N, K] as the course's evaluate_model returns it, in batches of 64."""
    model.calls = 0  # a variational model samples: the same samples at each grading
    loader = DataLoader(dataset, batch_size=BATCH_SIZE)
    loader = tqdm(loader, desc='losses', disable=None, leave=False, delay=2)  # of many images
    return evaluate_model(model, loader, None, latents, epochs=0, device=latents.device)


class AtMean(torch.nn.Module):
    """A model that decodes the posterior mean when it is called, instead of a sample."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        return self.model.decode(self.model.mean(latents))


def mean_loss(model: nn.Module, dataset: ImageDataset, latents: Tensor) -> float:
    """course_loss at the posterior means instead of samples."""
    return course_loss(AtMean(model), dataset, latents)


def pca_loss(train_set: ImageDataset, test_set: ImageDataset, size: int) -> float | None:
    """course_loss of the test images by so many principal components of the training images (the first
    PCA_IMAGES): what codes of that size should be better than. None: the truth is not known in full."""
    from sklearn.decomposition import PCA  # here: a second to import

    if not (train_set.known and test_set.known):
        return None
    x, x_test = (
        images.X.flatten(1).float().numpy() for images in (train_set.part(slice(PCA_IMAGES)), test_set)
    )
    pca = PCA(min(size, *x.shape), random_state=0).fit(x)  # x [n, 784] in 0-255
    decoded = torch.as_tensor(pca.inverse_transform(pca.transform(x_test))).clamp(0, 255)
    pairs = zip(torch.as_tensor(x_test).split(BATCH_SIZE), decoded.split(BATCH_SIZE))
    return float(torch.stack([reconstruction_loss(*pair) for pair in pairs]).mean())
