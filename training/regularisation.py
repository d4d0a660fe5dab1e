"""Early stopping and pruning, which the AE report used besides dropout and weight decay."""

import math

import torch.nn as nn
from torch.nn.utils import prune

from training.data import ImageDataset


def held_out(n: int) -> int:
    """How many of n training images --patience holds out."""
    return max(1, n // 10)


def hold_out(dataset: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """The images to train on, and the last tenth, held out."""
    n = len(dataset) - held_out(len(dataset))
    return dataset.part(slice(n)), dataset.part(slice(n, None))


class EarlyStopping:
    """Keeps the weights of the best epoch; says when `patience` epochs have not been better by more than
    min_delta nats.

    patience 0: no early stopping.
    """

    def __init__(self, patience: int, min_delta: float):
        self.patience, self.min_delta = patience, min_delta
        self.best = {'epoch': 0, 'loss': math.inf}  # epoch 0: none yet

    def update(self, epoch: int, validation_loss: float, model: nn.Module):
        """Compare the epoch's loss with the best one."""
        if validation_loss < self.best['loss'] - self.min_delta:
            weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            self.best = {'epoch': epoch, 'loss': validation_loss, 'model': weights}

    def should_stop(self, epoch: int) -> bool:
        """Whether training ends after that many epochs."""
        return bool(self.best['epoch']) and epoch - self.best['epoch'] >= self.patience

    def restore(self, model: nn.Module):
        """Give the model the weights of the best epoch, if there is one."""
        if self.best['epoch']:
            model.load_state_dict(self.best['model'])


def prunable(model: nn.Module) -> list[nn.Module]:
    return [
        module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]


def prune_weights(model: nn.Module, share: float):
    """Set that share of the weights of every layer, the smallest, to 0, and keep them there.

    PyTorch's parameter is then `weight_orig`, which the optimiser moves, and `weight` its product with
    `weight_mask`. Layer by layer: wide layers have smaller weights, which matter all the same.
    """
    for module in prunable(model):
        # Scores in the plain layout: PyTorch's choice of the smallest cannot read channels-last weights.
        scores = module.weight.detach().abs().contiguous()
        prune.l1_unstructured(module, 'weight', share, scores)


def make_pruning_permanent(model: nn.Module):
    """Pruned weights as plain zeros: what a checkpoint of the trained model has."""
    for module in prunable(model):
        if prune.is_pruned(module):
            prune.remove(module, 'weight')


def zero_weights(model: nn.Module) -> float:
    """Share of the weights of linear layers and convolutions that are 0; biases do not count."""
    weights = [module.weight for module in prunable(model)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
