"""An encoder and its mirror image, a decoder, of any architecture."""

import math

import torch
from torch import Tensor, nn

from networks.shapes import channels_first

# The AE report's auto-encoder: three convolutions of kernel 3, stride 2 and padding 1 (28 -> 14, 7, 4), and
# two linear layers, the second of which gives the code. The widths are ours.
ARCHITECTURE = {
    'convolutions': [{'channels': c, 'kernel': 3, 'stride': 2, 'padding': 1} for c in (32, 64, 128)],
    'linear': [256],  # widths of the linear layers before the code's
}


def map_sizes(architecture: dict, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """(C, H, W) of the image and of the map after each convolution.

    ValueError: a convolution is wider than its padded input.
    """
    sizes = [channels_first(shape)]
    for i, layer in enumerate(architecture['convolutions']):
        kernel, stride, padding = layer['kernel'], layer['stride'], layer['padding']
        height, width = sizes[-1][1:]
        if min(height, width) + 2 * padding < kernel:
            where = f'for kernel {kernel} and padding {padding} of layer {i + 1}; use --encoder mlp'
            raise ValueError(
                f'expected images that are large enough for all convolutions of the auto-encoder, '
                f'got a map of {height} x {width} {where}'
            )
        sizes.append(
            (layer['channels'], *((side + 2 * padding - kernel) // stride + 1 for side in (height, width)))
        )
    return sizes


def group_norm(channels: int) -> nn.GroupNorm:
    """In groups of 8 channels, where they divide into such groups; else in one group."""
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)


class StackEncoder(nn.Module):
    """The convolutions and linear layers of an architecture, and a linear layer to the outputs.

    architecture: as ARCHITECTURE. dropout: of the hidden layers' outputs. ValueError: the images are too
    small for it.
    """

    def __init__(
        self, outputs: int, shape: tuple[int, ...], architecture: dict = ARCHITECTURE, dropout: float = 0.0
    ):
        super().__init__()
        sizes, layers = map_sizes(architecture, shape), []
        self.channels = sizes[0][0]
        for (c_in, *_), (c_out, *_), layer in zip(sizes, sizes[1:], architecture['convolutions']):
            convolution = nn.Conv2d(c_in, c_out, layer['kernel'], layer['stride'], layer['padding'])
            layers += [convolution, group_norm(c_out), nn.GELU(), nn.Dropout(dropout)]
        layers.append(nn.Flatten())
        widths = [math.prod(sizes[-1]), *architecture['linear']]
        for n_in, n_out in zip(widths, widths[1:]):
            layers += [nn.Linear(n_in, n_out), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.view(len(x), self.channels, *x.shape[-2:]))  # [B, outputs]


class MirrorDecoder(nn.Module):
    """The layers of StackEncoder in the opposite order, transposed: each gives a map of the size that its
    counterpart took.

    A convolution with a stride maps several input sizes to one output size. The output padding, the remainder
    of that division, tells the transposed one which size it was.
    """

    lr = 4e-3

    def __init__(
        self, latent_dim: int, shape: tuple[int, ...], architecture: dict = ARCHITECTURE, dropout: float = 0.0
    ):
        super().__init__()
        sizes = map_sizes(architecture, shape)
        self.shape, self.map = shape, sizes[-1]
        widths, layers = [*architecture['linear'][::-1], math.prod(sizes[-1])], []
        self.stem = nn.Linear(latent_dim, widths[0])
        for n_in, n_out in zip(widths, widths[1:]):
            layers += [nn.GELU(), nn.Dropout(dropout), nn.Linear(n_in, n_out)]
        self.linear, layers = nn.Sequential(*layers), []
        for (c_in, *_), (c_out, *target), layer in zip(
            sizes[:0:-1], sizes[-2::-1], architecture['convolutions'][::-1]
        ):
            kernel, stride, padding = layer['kernel'], layer['stride'], layer['padding']
            remainder = [(side + 2 * padding - kernel) % stride for side in target]
            convolution = nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, output_padding=remainder)
            layers += [group_norm(c_in), nn.GELU(), nn.Dropout(dropout), convolution]
        self.up = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)

    def forward(self, code: Tensor) -> Tensor:
        return self.up(self.linear(self.stem(code)).view(-1, *self.map)).view(-1, *self.shape)  # [B, *shape]
