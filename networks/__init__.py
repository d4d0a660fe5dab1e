"""Decoders and encoders, the networks of the GANs, and a prior that is learned.

A decoder is a module DECODER(latent_dim, shape) that maps codes [B, D] to logits [B, *shape]. Its first
linear layer is called `stem`, and `lr` is the peak learning rate that suits it. An encoder is a module
ENCODER(outputs, shape) that maps images [B, *shape] in 0-1 to [B, outputs]. The shape of an image is (28,
28), or another (H, W) of grey images, or (3, H, W) of coloured ones. A network that cannot make or take
images of a shape raises a ValueError.

To add a network, write it in a file of this folder and enter it in DECODERS or ENCODERS: the command line,
the checkpoints and the tests read these tables. The reports whose networks these are: docs/documents.md.
"""

from typing import Any

from networks.decoders import (
    CONV_DECODERS,
    Conv64Decoder,
    DCGAN4x4Decoder,
    DCGAN7x7Decoder,
    GroupNormDecoder,
    MLPDecoder,
)
from networks.encoders import ConvEncoder, LSTMEncoder, MLPEncoder, PlainLSTMEncoder
from networks.gans import GAN_NETWORKS
from networks.mirror import ARCHITECTURE, MirrorDecoder, StackEncoder, map_sizes
from networks.prior import LearnedPrior
from networks.shapes import SHAPE, channels_first


def choose(table: dict, what: str, name: str) -> Any:
    """table[name]. ValueError: there is no such name."""
    if name not in table:
        raise ValueError(f'expected {what} to be one of {", ".join(table)}, got {name!r}')
    return table[name]


DECODERS = {
    'groupnorm': GroupNormDecoder,
    'dcgan4x4': DCGAN4x4Decoder,
    'dcgan7x7': DCGAN7x7Decoder,
    **CONV_DECODERS,
    'mlp': MLPDecoder,
    'conv64': Conv64Decoder,
    'mirror': MirrorDecoder,
}
ENCODERS = {
    'mlp': MLPEncoder,
    'conv': ConvEncoder,
    'lstm': LSTMEncoder,
    'lstm-plain': PlainLSTMEncoder,
    'conv3': StackEncoder,
}
