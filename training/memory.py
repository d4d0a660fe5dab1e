"""Whether posteriors with a full covariance fit in memory."""

import math
import os

import torch

import kernels
from training.batches import copies
from training.config import Config
from training.distributed import launched
from training.errors import UserError


def available(device: torch.device) -> int:
    """Bytes of memory of the machine or the GPU."""
    if device.type == 'cuda':
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def check_latents(config: Config, images: int, device: torch.device):
    """UserError: this process's share of the latents of a run on so many images, with a full covariance, does
    not fit in memory."""
    own = math.ceil(images / launched())
    if config.dist == 'gaussian-full' and config.system == 'vad':  # with the two means of Adam
        check_full_covariance(config.latent_dim, own * (1 + copies(images, config.shape)), 3, device)
    elif config.dist == 'gaussian-full':
        check_full_covariance(config.latent_dim, own, 1, device)


def check_full_covariance(latent_dim: int, images: int, tensors: int, device: torch.device):
    """UserError: posteriors with a full covariance do not fit in memory.

    images: how many, with their copies. tensors: of the size of the latents; with Adam there are three.
    """
    (numbers,) = kernels.family('gaussian-full').shape(latent_dim)
    needed, there = 4 * numbers * images * tensors, available(device)
    if device.type == 'cpu':
        there //= launched()  # processes share the machine's memory
    if needed > there:
        raise UserError(
            f'expected posteriors that fit in memory, {there:,} bytes on {device}, got a full covariance of '
            f'{latent_dim} latent dimensions, which takes {needed:,} bytes: {numbers:,} numbers for each of '
            f'{images:,} images and copies, {tensors} times; use a smaller --latent-dim or fewer images'
        )
