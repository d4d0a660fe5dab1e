"""The course's reconstruction loss. It depends on the batch size: figures compare at 64 only."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training import ImageDataset

BATCH_SIZE = 64


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
    """
    model.eval()
    for _ in range(epochs):
        for i, x in test_dl:
            loss = reconstruction_loss(x.to(device), model(latents[i.to(latents.device)]))
            opt.zero_grad()
            loss.backward(inputs=[latents])  # the decoder stays as it is
            opt.step()
    with torch.no_grad():
        losses = [
            reconstruction_loss(x.to(device), model(latents[i.to(latents.device)])).item() for i, x in test_dl
        ]
    return float(np.mean(losses))


def course_loss(model: nn.Module, dataset: ImageDataset, latents: Tensor) -> float:
    """reconstruction_loss of latents [N, K] as the course's evaluate_model returns it, in batches of 64."""
    model.calls = 0  # a variational model samples: the same samples at each grading
    loader = DataLoader(dataset, batch_size=BATCH_SIZE)
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
