"""Adam for rows of latents, and the learning rate of every optimiser here."""

import math

import torch
from torch import Tensor

import kernels


class RowAdam:
    """Adam (Kingma and Ba, 2015) for the rows of latents [N, K], each with its own count of steps.

    A step touches only the rows of the batch and their state. Its cost does not grow with N, and no row moves
    by the stale momentum of gradients from other steps.
    """

    def __init__(self, latents: Tensor, beta1: float = 0.9, beta2: float = 0.999):
        self.latents, self.beta1, self.beta2 = latents, beta1, beta2
        self.m, self.v = torch.zeros_like(latents), torch.zeros_like(latents)
        self.count = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)

    def step(self, local_index: Tensor, gradient: Tensor, lr: float | Tensor):
        """local_index: int64 [B], each row at most once. gradient: [B, K]."""
        state = self.latents, self.m, self.v, self.count
        kernels.row_adam_(*state, local_index, gradient, lr=lr, beta1=self.beta1, beta2=self.beta2)

    def state_dict(self) -> dict[str, Tensor]:
        return {'m': self.m, 'v': self.v, 'count': self.count}


def one_cycle(step: int, steps: int, warm_up: float) -> float:
    """Factor of the learning rate at step 0 to steps - 1: a linear rise to 1 over the share warm_up of the
    steps, then a cosine to 0.01 at the last step."""
    progress = (step + 1) / steps
    if progress < warm_up:
        return progress / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))
