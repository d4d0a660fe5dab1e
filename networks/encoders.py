"""The encoders, but for the one that has a mirror image; networks/__init__.py says what an encoder is."""

import math

import torch
from torch import Tensor, nn

from networks.shapes import channels_first


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


class PlainLSTMEncoder(LSTMEncoder):
    """The LSTM report's without the linear layer: the last state, as long as the latents, is the output. Its
    numbers lie between -1 and 1."""

    def __init__(self, outputs: int, shape: tuple[int, ...]):
        super().__init__(outputs, shape, hidden=outputs)
        self.head = nn.Identity()
