"""Adam for rows of latents, and the learning rate of every optimiser here."""

import math

import torch
from torch import Tensor

import kernels
from training.schema import TensorOf


class RowAdam:
    """Adam (Kingma and Ba, 2015) for the rows of latents [N, K], each with its own count of steps.

    beta1, beta2: how slowly the means of the gradients and of their squares change.

    A step touches only the rows of the batch and their state. Its cost does not grow with N, and no row moves
    by the stale momentum of gradients from other steps.
    """

    def __init__(self, latents: Tensor, beta1: float, beta2: float):
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


def adam_schema(adam: torch.optim.Adam) -> dict:
    """What adam.state_dict() is after a step, see schema.check."""
    parameters = [x for group in adam.param_groups for x in group['params']]
    count = TensorOf(torch.float32, ())
    moments = ({'step': count, 'exp_avg': x, 'exp_avg_sq': x} for x in parameters)
    return {'state': dict(enumerate(moments)), 'param_groups': list}


def load_adam(adam: torch.optim.Adam, saved: dict):
    """Take the moments over; learning rates and other settings stay those of the configuration and of this
    machine."""
    adam.load_state_dict({'state': saved['state'], 'param_groups': adam.state_dict()['param_groups']})
