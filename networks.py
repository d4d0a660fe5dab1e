"""Decoders and encoders.

A decoder is a module DECODER(latent_dim, shape) that maps codes [B, D] to logits [B, *shape]. Its first
linear layer is called `stem`, and `lr` is the peak learning rate that suits it. An encoder is a module
ENCODER(outputs, shape) that maps images [B, *shape] in 0-1 to [B, outputs]. The shape of an image is (28,
28), or another (H, W) of grey images, or (3, H, W) of coloured ones. A network that cannot make or take
images of a shape raises a ValueError.

To add a network, write it here and enter it in DECODERS or ENCODERS: the command line, the checkpoints and
the tests read these tables. The reports whose networks these are: docs/documents.md.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (28, 28)  # of the images of Fashion-MNIST and MNIST


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) of images of that shape."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def choose(table: dict, what: str, name: str) -> Any:
    """table[name]. ValueError: there is no such name."""
    if name not in table:
        raise ValueError(f'expected {what} to be one of {", ".join(table)}, got {name!r}')
    return table[name]


def expect_shape(shape: tuple[int, ...], expected: tuple[int, ...], decoder: str):
    if tuple(shape) != expected:
        got = f'got {tuple(shape)}; use --decoder groupnorm or mlp'
        raise ValueError(f'expected images of shape {expected} for decoder {decoder}, {got}')


# -------------------------------------------------------------------------------------------- decoders


class GroupNormDecoder(nn.Module):
    """The default: two linear layers to 64 x 7 x 7, two upsamplings, group normalisation (Wu and He, 2018).

    Group normalisation has no running statistics: training, inference and random samples are decoded alike,
    and random samples stay in the range that later layers were trained on. Few channels at high resolution (8
    at 28 x 28) make the decoder fast on a CPU.
    """

    lr = 4e-3

    def __init__(self, latent_dim: int, shape: tuple[int, ...]):
        super().__init__()
        self.shape, (channels, height, width) = shape, channels_first(shape)
        if height % 4 or width % 4:
            got = f'got {height} x {width}; use --decoder mlp, or pad them'
            raise ValueError(
                f'expected images whose height and width are multiples of 4 for decoder groupnorm, {got}'
            )
        self.stem = nn.Linear(latent_dim, 512)
        self.grid = nn.Linear(512, height // 4 * width // 4 * 64)
        self.norms = nn.ModuleList(nn.GroupNorm(c // 8, c) for c in (64, 32, 8))  # groups of 8 channels
        self.up14 = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)
        self.up28 = nn.ConvTranspose2d(32, 8, 4, stride=2, padding=1)
        self.out = nn.Conv2d(8, channels, 3, padding=1)
        # Channels last is the layout in which a CPU's convolutions run: they need not convert their input.
        self.to(memory_format=torch.channels_last)

    def forward(self, code: Tensor) -> Tensor:  # [B, D]
        height, width = self.shape[-2:]
        x = self.grid(F.gelu(self.stem(code)))  # [B, 3136]
        x = x.view(-1, height // 4, width // 4, 64).permute(0, 3, 1, 2)  # [B, 64, 7, 7], channels last
        x = self.up14(F.gelu(self.norms[0](x)))  # [B, 32, 14, 14]
        x = self.up28(F.gelu(self.norms[1](x)))  # [B, 8, 28, 28]
        return self.out(F.gelu(self.norms[2](x))).view(-1, *self.shape)  # [B, 28, 28]


def upsample(c_in: int, c_out: int) -> list[nn.Module]:
    """DCGAN's layer (Radford et al., 2015): twice the height and width."""
    return [
        nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    ]


class DCGAN4x4Decoder(nn.Module):
    """The 4x4 report's: a linear layer to 512 x 4 x 4 and DCGAN's upsamplings to 32 x 32; the padding of the
    last, 1 x 1 layer cuts the image to 28 x 28."""

    lr = 1e-3

    def __init__(self, latent_dim: int, shape: tuple[int, ...]):
        super().__init__()
        expect_shape(shape, SHAPE, 'dcgan4x4')
        self.stem = nn.Linear(latent_dim, 512 * 4 * 4)
        self.up = nn.Sequential(
            *upsample(512, 256),  # 4 -> 8
            *upsample(256, 128),  # -> 16
            *upsample(128, 128),  # -> 32
            nn.ConvTranspose2d(128, 1, 3, padding=1),
            nn.ConvTranspose2d(1, 1, 1, padding=2),  # -> 28
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, code: Tensor) -> Tensor:
        return self.up(self.stem(code).view(-1, 512, 4, 4)).squeeze(1)  # [B, 28, 28]


class DCGAN7x7Decoder(nn.Module):
    """The 7x7 report's: a linear layer to 256 x 7 x 7 and two upsamplings to 28 x 28."""

    lr = 1e-3

    def __init__(self, latent_dim: int, shape: tuple[int, ...]):
        super().__init__()
        expect_shape(shape, SHAPE, 'dcgan7x7')
        self.stem = nn.Linear(latent_dim, 256 * 7 * 7)
        layers = [*upsample(256, 128), *upsample(128, 64)]  # 7 -> 14 -> 28
        self.up = nn.Sequential(*layers, nn.ConvTranspose2d(64, 1, 3, padding=1, bias=False))
        self.to(memory_format=torch.channels_last)

    def forward(self, code: Tensor) -> Tensor:
        return self.up(F.relu(self.stem(code)).view(-1, 256, 7, 7)).squeeze(1)  # [B, 28, 28]


class MLPDecoder(nn.Module):
    """The GAN report's for MNIST: three linear layers."""

    lr = 1e-3

    def __init__(self, latent_dim: int, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape
        self.stem = nn.Linear(latent_dim, 256)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, math.prod(shape)))

    def forward(self, code: Tensor) -> Tensor:
        return self.rest(self.stem(code)).view(-1, *self.shape)  # [B, *shape]


class Conv6Decoder(nn.Module):
    """The LSTM report's: 64 features as 16 x 2 x 2, and six transposed convolutions without stride."""

    lr = 2e-3

    def __init__(self, latent_dim: int, shape: tuple[int, ...]):
        super().__init__()
        expect_shape(shape, SHAPE, 'conv6')
        self.stem = nn.Linear(latent_dim, 64)  # the report's latent dimension is 64, and it has no such layer
        layers = []
        for c_in, c_out, kernel in ((16, 13, 9), (13, 10, 7), (10, 7, 5), (7, 4, 5), (4, 2, 3), (2, 1, 3)):
            # 2 -> 10, 16, 20, 24, 26, 28.
            layers += [nn.ConvTranspose2d(c_in, c_out, kernel), nn.LeakyReLU(0.01)]
        self.up = nn.Sequential(*layers[:-1])

    def forward(self, code: Tensor) -> Tensor:
        return self.up(self.stem(code).view(-1, 16, 2, 2)).squeeze(1)  # [B, 28, 28]


class Conv64Decoder(nn.Module):
    """The GAN report's for Imagenette: a linear layer and four transposed convolutions to 3 x 64 x 64."""

    lr = 1e-3

    def __init__(self, latent_dim: int, shape: tuple[int, ...]):
        super().__init__()
        expect_shape(shape, (3, 64, 64), 'conv64')
        self.stem = nn.Linear(latent_dim, 1024)
        layers = []
        for c_in, c_out, kernel in ((1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6)):
            layers += [nn.ConvTranspose2d(c_in, c_out, kernel, stride=2), nn.ReLU()]  # 1 -> 5, 13, 30, 64
        self.up = nn.Sequential(*layers[:-1])

    def forward(self, code: Tensor) -> Tensor:
        return self.up(self.stem(code)[:, :, None, None])  # [B, 3, 64, 64]


# -------------------------------------------------------------------------------------------- encoders


class MLPEncoder(nn.Module):
    """The GAN report's for MNIST: three linear layers."""

    def __init__(self, outputs: int, shape: tuple[int, ...]):
        super().__init__()
        hidden = [nn.Linear(math.prod(shape), 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, outputs))

    def forward(self, x: Tensor) -> Tensor:  # [B, *shape] in 0-1
        return self.layers(x)  # [B, outputs]


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 down to 4 x 4 or less, and a linear layer."""

    def __init__(self, outputs: int, shape: tuple[int, ...]):
        super().__init__()
        channels, height, width = channels_first(shape)
        self.channels, layers, c_out = channels, [], 32
        while max(height, width) > 4:
            if min(height, width) < 2:
                raise ValueError(
                    'expected images whose height and width can both be halved until neither is above 4 '
                    f'for encoder conv, got {shape[-2]} x {shape[-1]}; use --encoder mlp'
                )
            layers += [
                nn.Conv2d(channels, c_out, 4, stride=2, padding=1),
                nn.GroupNorm(c_out // 8, c_out),
                nn.GELU(),
            ]
            channels, c_out, height, width = c_out, min(2 * c_out, 256), height // 2, width // 2
        head = [nn.Linear(channels * height * width, 256), nn.GELU(), nn.Linear(256, outputs)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), *head)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.view(len(x), self.channels, *x.shape[-2:]))  # [B, outputs]


class LSTMEncoder(nn.Module):
    """The LSTM report's: an image's rows as a sequence, one LSTM layer, a linear layer on its last state."""

    def __init__(self, outputs: int, shape: tuple[int, ...], hidden: int = 128):
        super().__init__()
        channels, _, width = channels_first(shape)
        self.lstm = nn.LSTM(channels * width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(len(x), -1, *x.shape[-2:]).transpose(1, 2).flatten(2)  # [B, H, C * W]
        _, (state, _) = self.lstm(rows)  # [1, B, hidden]
        return self.head(state[0])  # [B, outputs]


# ------------------------------------------------------------------- an encoder and its mirror image


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


DECODERS = {
    'groupnorm': GroupNormDecoder,
    'dcgan4x4': DCGAN4x4Decoder,
    'dcgan7x7': DCGAN7x7Decoder,
    'conv6': Conv6Decoder,
    'mlp': MLPDecoder,
    'conv64': Conv64Decoder,
    'mirror': MirrorDecoder,
}
ENCODERS = {'mlp': MLPEncoder, 'conv': ConvEncoder, 'lstm': LSTMEncoder, 'conv3': StackEncoder}
