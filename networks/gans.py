"""The networks of the GANs: functions (latent_dim, shape) -> generator and discriminator.

The generator maps z [B, D] to images [B, C, H, W] in -1 to 1, the discriminator such images to logits [B, 1].
"""

import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from networks.decoders import upsample
from networks.shapes import channels_first


def linear_networks(latent_dim: int, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """The GAN report's: two linear layers each."""
    size, last = math.prod(shape), nn.Unflatten(1, channels_first(shape))
    up = [nn.Linear(latent_dim, 256), nn.LeakyReLU(0.01), nn.Linear(256, size), nn.Tanh(), last]
    down = [nn.Flatten(), nn.Linear(size, 128), nn.LeakyReLU(0.01), nn.Linear(128, 1)]
    return nn.Sequential(*up), nn.Sequential(*down)


def dcgan_networks(latent_dim: int, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """The AE report's kind: a linear layer to a small grid and transposed convolutions, and the mirror image
    of that.

    The grid is what is left of the images when they are halved until no side is above 8: 7 x 7 for 28 x 28.
    """
    channels, height, width = channels_first(shape)
    got = f'got {shape[-2]} x {shape[-1]}; use --model linear'
    widths = []  # channels of the layers, from the image inwards
    while max(height, width) > 8:
        if height % 2 or width % 2:
            raise ValueError(
                f'expected images whose height and width can be halved until they are at most 8 '
                f'for model dcgan, {got}'
            )
        widths.append(min(64 * 2 ** len(widths), 256))
        height, width = height // 2, width // 2
    if not widths:
        raise ValueError(f'expected images of more than 8 x 8 for model dcgan, {got}')
    top = widths[-1] * height * width
    up = [
        nn.Linear(latent_dim, top),
        nn.Unflatten(1, (widths[-1], height, width)),
        nn.BatchNorm2d(widths[-1]),
        nn.ReLU(),
    ]
    for c_in, c_out in zip(widths[:0:-1], widths[-2::-1]):
        up += upsample(c_in, c_out)
    up += [nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1), nn.Tanh()]
    # Spectral normalisation (Miyato et al., 2018) bounds how steeply the discriminator D rises from generated
    # to real images. Without it D is soon certain of a thousand images, and the generator's gradient
    # vanishes.
    down = []
    for c_in, c_out in zip([channels, *widths], widths):
        down += [spectral_norm(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
    down += [nn.Flatten(), spectral_norm(nn.Linear(top, 1))]
    networks = nn.Sequential(*up), nn.Sequential(*down)
    return tuple(network.to(memory_format=torch.channels_last) for network in networks)


GAN_NETWORKS = {'dcgan': dcgan_networks, 'linear': linear_networks}
