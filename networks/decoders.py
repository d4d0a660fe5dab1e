"""The decoders, but for the mirror image of an encoder; networks/__init__.py says what a decoder is."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.shapes import SHAPE, channels_first, expect_shape


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


# Number of layers of the LSTM report's decoders -> channels, from 16 to 1, and kernels. A kernel k adds k - 1
# to height and width. The report gives channels and kernels of its six layers only; the others are ours.
CONVOLUTIONS = {
    4: ((16, 12, 8, 4, 1), (11, 9, 7, 3)),  # 2 -> 12, 20, 26, 28
    5: ((16, 13, 10, 6, 3, 1), (9, 7, 7, 5, 3)),  # 2 -> 10, 16, 22, 26, 28
    6: ((16, 13, 10, 7, 4, 2, 1), (9, 7, 5, 5, 3, 3)),  # 2 -> 10, 16, 20, 24, 26, 28
    8: ((16, 14, 12, 10, 8, 6, 4, 2, 1), (7, 5, 5, 5, 3, 3, 3, 3)),  # 2 -> 8, 12, 16, 20, 22, 24, 26, 28
}


class ConvDecoder(nn.Module):
    """The LSTM report's: 64 features as 16 x 2 x 2, and transposed convolutions without stride.

    name: in DECODERS. channels, kernels: see CONVOLUTIONS. slope: of the leaky ReLU; 0 makes it a ReLU.
    """

    lr = 2e-3

    def __init__(
        self,
        latent_dim: int,
        shape: tuple[int, ...],
        name: str,
        channels: tuple[int, ...],
        kernels: tuple[int, ...],
        slope: float,
        batch_norm: bool,
    ):
        super().__init__()
        expect_shape(shape, SHAPE, name)
        self.stem = nn.Linear(latent_dim, 64)  # the report's latent dimension is 64, and it has no such layer
        layers = []
        for c_in, c_out, kernel in zip(channels, channels[1:], kernels):
            # Batch normalisation subtracts the mean, and with it any bias.
            layers.append(nn.ConvTranspose2d(c_in, c_out, kernel, bias=not batch_norm))
            layers += [nn.BatchNorm2d(c_out)] if batch_norm else []
            layers.append(nn.LeakyReLU(slope))
        self.up = nn.Sequential(*layers[: -2 if batch_norm else -1])  # the last convolution gives the logits

    def forward(self, code: Tensor) -> Tensor:
        return self.up(self.stem(code).view(-1, 16, 2, 2)).squeeze(1)  # [B, 28, 28]


def conv_decoder(name: str, layers: int, slope: float = 0.01, batch_norm: bool = False) -> partial:
    """An entry of DECODERS: a ConvDecoder with that number of layers."""
    channels, kernels = CONVOLUTIONS[layers]
    options = dict(name=name, channels=channels, kernels=kernels, slope=slope, batch_norm=batch_norm)
    decoder = partial(ConvDecoder, **options)
    decoder.lr = ConvDecoder.lr
    return decoder


CONV_DECODERS = {
    'conv4': conv_decoder('conv4', 4),
    'conv4-relu': conv_decoder('conv4-relu', 4, slope=0.0),
    'conv4-leaky0.2': conv_decoder('conv4-leaky0.2', 4, slope=0.2),
    'conv4-batchnorm': conv_decoder('conv4-batchnorm', 4, batch_norm=True),
    'conv4-relu-batchnorm': conv_decoder('conv4-relu-batchnorm', 4, slope=0.0, batch_norm=True),
    'conv4-leaky0.2-batchnorm': conv_decoder('conv4-leaky0.2-batchnorm', 4, slope=0.2, batch_norm=True),
    'conv5': conv_decoder('conv5', 5),
    'conv6': conv_decoder('conv6', 6),
    'conv8': conv_decoder('conv8', 8),
}


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
