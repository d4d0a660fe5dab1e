"""Decoders, encoders, and the models that join them to latents.

An image's latents are K = P * D numbers: P parameters for each of D latent dimensions, the location first (P = 1 for
a point). In an auto-decoder they are a row of a table [N, K], a plain tensor that the training loop owns, so that the
same model serves the training table and the test table; in an auto-encoder they are what the encoder says.

Images have a shape, (28, 28) or another height and width for grey ones, (3, 64, 64) for coloured ones.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import kernels

SHAPE = (28, 28)  # of Fashion-MNIST's and MNIST's images
LEAK = 0.01  # gradient that a saturated pixel still lets through


def channels_first(shape):
    """(C, H, W) of images of that shape."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def expect_shape(shape, expected, decoder):
    if tuple(shape) != expected:
        raise ValueError(
            f'expected images of shape {expected} for decoder {decoder}, got {tuple(shape)}; '
            f'use --decoder groupnorm'
        )


class GroupNormDecoder(nn.Module):
    """The default: two linear layers to 64 x 7 x 7, two upsamplings, group normalisation (Wu and He, 2018).

    Group normalisation has no running statistics, so that training, inference and random samples are
    decoded alike, and it keeps random samples in the range that later layers know. Few channels at high resolution
    (8 at 28 x 28) make it fast on a CPU.
    """

    lr = 4e-3

    def __init__(self, latent_dim, shape):
        super().__init__()
        self.shape, (channels, height, width) = shape, channels_first(shape)
        if height % 4 or width % 4:
            raise ValueError(
                f'expected images whose height and width are multiples of 4 for decoder groupnorm, '
                f'got {height} x {width}; pad them, or use --decoder mlp'
            )
        self.stem = nn.Linear(latent_dim, 512)
        self.grid = nn.Linear(512, height // 4 * width // 4 * 64)
        self.norms = nn.ModuleList(nn.GroupNorm(c // 8, c) for c in (64, 32, 8))  # groups of 8 channels
        self.up14 = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)
        self.up28 = nn.ConvTranspose2d(32, 8, 4, stride=2, padding=1)
        self.out = nn.Conv2d(8, channels, 3, padding=1)
        # Channels last: the CPU's convolutions run in this layout, and are faster where they find it.
        self.to(memory_format=torch.channels_last)

    def forward(self, code):  # [B, D]
        height, width = self.shape[-2:]  # 28, 28, say
        x = self.grid(F.gelu(self.stem(code)))  # [B, 3136]
        x = x.view(-1, height // 4, width // 4, 64).permute(0, 3, 1, 2)  # [B, 64, 7, 7], channels last
        x = self.up14(F.gelu(self.norms[0](x)))  # [B, 32, 14, 14]
        x = self.up28(F.gelu(self.norms[1](x)))  # [B, 8, 28, 28]
        return self.out(F.gelu(self.norms[2](x))).view(-1, *self.shape)  # [B, 28, 28]


class DCGAN4x4Decoder(nn.Module):
    """Document 000's: a linear layer to 512 x 4 x 4 and the upsamplings of DCGAN (Radford et al., 2015) to
    32 x 32, then a 1 x 1 layer whose padding of 2 cuts the image to 28 x 28."""

    lr = 1e-3

    def __init__(self, latent_dim, shape):
        super().__init__()
        expect_shape(shape, SHAPE, 'dcgan4x4')
        self.stem = nn.Linear(latent_dim, 512 * 4 * 4)
        layers = []
        for c_in, c_out in ((512, 256), (256, 128), (128, 128)):  # 4 -> 8 -> 16 -> 32
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        self.up = nn.Sequential(
            *layers, nn.ConvTranspose2d(128, 1, 3, padding=1), nn.ConvTranspose2d(1, 1, 1, padding=2)
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, code):
        return self.up(self.stem(code).view(-1, 512, 4, 4)).squeeze(1)  # [B, 28, 28]


class DCGAN7x7Decoder(nn.Module):
    """Document 001's: a linear layer to 256 x 7 x 7 and two upsamplings to 28 x 28."""

    lr = 1e-3

    def __init__(self, latent_dim, shape):
        super().__init__()
        expect_shape(shape, SHAPE, 'dcgan7x7')
        self.stem = nn.Linear(latent_dim, 256 * 7 * 7)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(256, 128, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 1, 3, padding=1, bias=False),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, code):
        return self.up(F.relu(self.stem(code)).view(-1, 256, 7, 7)).squeeze(1)  # [B, 28, 28]


class MLPDecoder(nn.Module):
    """Document 003's for MNIST: three linear layers."""

    lr = 1e-3

    def __init__(self, latent_dim, shape):
        super().__init__()
        self.shape = shape
        self.stem = nn.Linear(latent_dim, 256)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, math.prod(shape)))

    def forward(self, code):
        return self.rest(self.stem(code)).view(-1, *self.shape)  # [B, *shape]


class Conv6Decoder(nn.Module):
    """Document 004's: 64 features as 16 x 2 x 2, and six transposed convolutions without stride to 28 x 28."""

    lr = 2e-3

    def __init__(self, latent_dim, shape):
        super().__init__()
        expect_shape(shape, SHAPE, 'conv6')
        self.stem = nn.Linear(
            latent_dim, 64
        )  # the document's latent dimension is 64, and it has no such layer
        layers = []
        for c_in, c_out, kernel in ((16, 13, 9), (13, 10, 7), (10, 7, 5), (7, 4, 5), (4, 2, 3), (2, 1, 3)):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, kernel),
                nn.LeakyReLU(0.01),
            ]  # 2 -> 10, 16, 20, 24, 26, 28
        self.up = nn.Sequential(*layers[:-1])

    def forward(self, code):
        return self.up(self.stem(code).view(-1, 16, 2, 2)).squeeze(1)  # [B, 28, 28]


class Conv64Decoder(nn.Module):
    """Document 003's for Imagenette: a linear layer and four transposed convolutions to 3 x 64 x 64."""

    lr = 1e-3

    def __init__(self, latent_dim, shape):
        super().__init__()
        expect_shape(shape, (3, 64, 64), 'conv64')
        self.stem = nn.Linear(latent_dim, 1024)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(1024, 128, 5, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 5, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 6, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 6, stride=2),
        )  # 1 -> 5, 13, 30, 64

    def forward(self, code):
        return self.up(self.stem(code)[:, :, None, None])  # [B, 3, 64, 64]


# ----------------------------------------------------------------------------------------------- encoders


class MLPEncoder(nn.Module):
    """Document 003's for MNIST: three linear layers."""

    def __init__(self, outputs, shape):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), 512),
            nn.ReLU(),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, outputs),
        )

    def forward(self, x):  # [B, *shape] in 0-1
        return self.layers(x)  # [B, K]


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 down to 4 x 4 or less, and a linear layer."""

    def __init__(self, outputs, shape):
        super().__init__()
        channels, height, width = channels_first(shape)
        self.channels, layers, c_out = channels, [], 32
        while max(height, width) > 4:
            layers += [
                nn.Conv2d(channels, c_out, 4, stride=2, padding=1),
                nn.GroupNorm(c_out // 8, c_out),
                nn.GELU(),
            ]
            channels, c_out, height, width = c_out, min(2 * c_out, 256), height // 2, width // 2
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(channels * height * width, 256),
            nn.GELU(),
            nn.Linear(256, outputs),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.layers(x.view(len(x), self.channels, *x.shape[-2:]))  # [B, K]


class LSTMEncoder(nn.Module):
    """Document 004's: the rows of an image as a sequence, one LSTM layer, and a linear layer on its last state."""

    def __init__(self, outputs, shape, hidden=128):
        super().__init__()
        channels, _, width = channels_first(shape)
        self.lstm = nn.LSTM(channels * width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x):
        rows = x.view(len(x), -1, *x.shape[-2:]).transpose(1, 2).flatten(2)  # [B, H, C * W]
        _, (state, _) = self.lstm(rows)  # [1, B, hidden]
        return self.head(state[0])  # [B, K]


# ------------------------------------------------------------------------------- an encoder and its mirror image

# Document 002's auto-encoder: three convolutions of kernel 3, stride 2 and padding 1 (28 -> 14, 7, 4), and two linear
# layers, the second of which gives the code. The widths are ours.
ARCHITECTURE = {
    'convolutions': [{'channels': c, 'kernel': 3, 'stride': 2, 'padding': 1} for c in (32, 64, 128)],
    'linear': [256],
}  # widths of the linear layers before the code's


def map_sizes(architecture, shape):
    """(C, H, W) of the image and of the map after each convolution.

    ValueError: a convolution that is wider than its padded input.
    """
    sizes = [channels_first(shape)]
    for i, layer in enumerate(architecture['convolutions']):
        kernel, stride, padding = layer['kernel'], layer['stride'], layer['padding']
        height, width = sizes[-1][1:]
        if min(height, width) + 2 * padding < kernel:
            raise ValueError(
                f'expected images that are large enough for all convolutions of the auto-encoder, got a map of '
                f'{height} x {width} for kernel {kernel} and padding {padding} of layer {i + 1}; use --encoder mlp'
            )
        sizes.append(
            (layer['channels'], *((side + 2 * padding - kernel) // stride + 1 for side in (height, width)))
        )
    return sizes


def group_norm(channels):
    """In groups of 8 channels, where they make whole groups; else in one."""
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)


class StackEncoder(nn.Module):
    """The convolutions and linear layers of an architecture, and a linear layer to the outputs.

    architecture: as ARCHITECTURE. dropout: of the hidden layers' outputs. ValueError: images too small for it.
    """

    def __init__(self, outputs, shape, architecture=ARCHITECTURE, dropout=0.0):
        super().__init__()
        sizes, layers = map_sizes(architecture, shape), []
        self.channels = sizes[0][0]
        for (c_in, *_), (c_out, *_), layer in zip(sizes, sizes[1:], architecture['convolutions']):
            layers += [
                nn.Conv2d(c_in, c_out, layer['kernel'], layer['stride'], layer['padding']),
                group_norm(c_out),
                nn.GELU(),
                nn.Dropout(dropout),
            ]
        layers.append(nn.Flatten())
        widths = [math.prod(sizes[-1]), *architecture['linear']]
        for n_in, n_out in zip(widths, widths[1:]):
            layers += [nn.Linear(n_in, n_out), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.layers(x.view(len(x), self.channels, *x.shape[-2:]))  # [B, K]


class MirrorDecoder(nn.Module):
    """The layers of StackEncoder in the opposite order, transposed: each gives a map of the size that its counterpart took.

    A stride maps several sizes to one; the output padding, the remainder of that division, tells which it was.
    """

    lr = 4e-3

    def __init__(self, latent_dim, shape, architecture=ARCHITECTURE, dropout=0.0):
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
            layers += [
                group_norm(c_in),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, output_padding=remainder),
            ]
        self.up = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)

    def forward(self, code):
        return self.up(self.linear(self.stem(code)).view(-1, *self.map)).view(-1, *self.shape)  # [B, *shape]


# An encoder is a module ENCODER(outputs, shape) that takes images [B, *shape] in 0-1 to their latents [B, K], K = outputs.
# A decoder is a module DECODER(latent_dim, shape) that takes codes [B, D] to logits [B, *shape], names its first linear
# layer `stem`, and knows the peak learning rate that suits it, `lr`. ValueError: it cannot make images of that shape.
# To add one, write it above and enter it here: the command line, the checkpoints and the tests read this table.
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


def choose(table, what, name):
    if name not in table:
        raise ValueError(f'expected {what} to be one of {", ".join(table)}, got {name!r}')
    return table[name]


class AutoDecoder(nn.Module):
    """Latent vectors to images: model(latents [B, D]) -> [B, 28, 28] in 0-255.

    decoder: a name in DECODERS. shape: of an image. options: for the decoder, where it has any. ValueError: no such
    decoder, or not for that shape.
    """

    dist = None
    params_per_dim = 1  # P
    bfloat16 = False  # the decoder's arithmetic

    def __init__(self, latent_dim, decoder='groupnorm', shape=SHAPE, **options):
        super().__init__()
        self.latent_dim, self.shape = latent_dim, tuple(shape)
        self.encoder = None  # a module in the models that have one
        self.decoder = choose(DECODERS, 'decoder', decoder)(latent_dim, self.shape, **options)
        # Added to the logits. Started at the mean training image, it leaves the decoder the differences
        # between images, and no seed starts on the plateau where all images are black.
        self.pixel_bias = nn.Parameter(torch.zeros(self.shape))
        # Affine map from code to decoder input, so that latents can be standardised after training.
        self.register_buffer('code_scale', torch.ones(latent_dim))
        self.register_buffer('code_shift', torch.zeros(latent_dim))

    def params(self, latents):
        """Table rows [B, P * D] as posterior parameters [B, P, D]."""
        return latents.view(len(latents), self.params_per_dim, self.latent_dim)

    def code(self, z):
        """Latent variables z as the decoder reads them, before code_scale and code_shift."""
        return z

    def code_logits(self, code):
        """Codes [B, D] -> logits of the images [B, 28, 28]."""
        with torch.autocast(code.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.decoder(code * self.code_scale + self.code_shift)
        return logits.to(code.dtype) + self.pixel_bias

    def logits(self, z):
        """z [B, D] -> logits of the images [B, 28, 28]."""
        return self.code_logits(self.code(z))

    def render_code(self, code):
        """Codes [B, D] -> images [B, 28, 28] in 0-1."""
        logits = self.code_logits(code)
        # The added term is 0, but its gradient is LEAK: a sigmoid driven far out has none of its own, and images
        # that one bad step turns black would stay black.
        return torch.sigmoid(logits) + LEAK * (logits - logits.detach())

    def render(self, z):
        """z [B, D] -> images [B, 28, 28] in 0-1."""
        return self.render_code(self.code(z))

    def decode(self, z):
        """z [B, D] -> images [B, 28, 28] in 0-255."""
        return 255 * self.render(z)

    def mean(self, latents):
        """Posterior mean of z for table rows [B, K]: [B, D]. For a point posterior, the row itself."""
        return latents

    def sample(self, params, *, seed, step, ids):
        """z [B, D] and KL [B] in nats for params [B, P, D]; a point is its own sample, at no KL."""
        return params[:, 0], params.new_zeros(len(params))

    def start(self, code, spread):
        """Table [N, K] whose locations are linear in code [N, D], and whose scales, where there are any, are spread [D]."""
        return code

    @torch.no_grad()
    def standardise(self, latents, reference):
        """Shift and scale z so that the rows reference [N, K] fit the prior best on average.

        Returns the latents [M, K] after that change. The decoder's input absorbs it: every image stays what it was.
        """
        shift, scale = reference.mean(0), reference.std(0, correction=0)
        scale = torch.where(
            scale > 1e-6, scale, 1.0
        )  # a latent that is the same for all images stays as it is
        self.absorb(scale, shift)
        return (latents - shift) / scale

    def absorb(self, scale, shift):
        self.code_shift += self.code_scale * shift
        self.code_scale *= scale

    def sample_prior(self, n, *, seed):
        """n draws of z from the prior, [n, D]. An auto-decoder has none, but once standardised its latents
        have mean 0 and variance 1, so the normal distribution stands in."""
        return kernels.sample_prior(
            self.dist or 'gaussian', (n, self.latent_dim), seed=seed, device=self.pixel_bias.device
        )

    def forward(self, latents):
        return self.decode(self.mean(latents))


class VariationalAutoDecoder(AutoDecoder):
    """Rows of posterior parameters to images of sampled latents: model(latents [B, P * D]) -> [B, 28, 28] in 0-255.

    Each call draws fresh noise, in train and eval mode alike; setting `calls` to 0 repeats the sequence.
    dist: a name in kernels.FAMILIES. ValueError: no such family or decoder.
    """

    def __init__(self, dist, latent_dim, decoder='groupnorm', shape=SHAPE, seed=0):
        super().__init__(latent_dim, decoder, shape)
        self.dist, self.family, self.seed, self.calls = dist, kernels.family(dist), seed, 0
        self.params_per_dim = len(self.family.parameters)

    def code(self, z):
        return self.family.code(z)

    def mean(self, latents):
        return self.family.mean(self.params(latents))

    def sample(self, params, *, seed, step, ids):
        return kernels.sample_kl(params, self.dist, seed=seed, step=step, ids=ids)

    def start(self, code, spread):
        return self.family.start(code, spread).flatten(1)

    @torch.no_grad()
    def standardise(self, latents, reference):
        params, scale, shift = self.family.standardise(self.params(latents), self.params(reference))
        self.absorb(scale, shift)
        return params.flatten(1)

    def forward(self, latents):
        ids = torch.arange(len(latents), device=latents.device)
        z, _ = self.sample(self.params(latents), seed=self.seed, step=self.calls, ids=ids)
        self.calls += 1
        return self.decode(z)


# ------------------------------------------------------------------------------------- models with an encoder


class Standardise(nn.BatchNorm1d):
    """Codes [B, D] of mean 0 and variance 1, so that draws of N(0, 1) resemble them: batch normalisation without weights.
    A batch of one image, which the last of an epoch may be, has no variance, and takes the running one."""

    def __init__(self, latent_dim):
        super().__init__(latent_dim, affine=False)

    def forward(self, codes):
        if len(codes) > 1 or not self.training:
            return super().forward(codes)
        return F.batch_norm(codes, self.running_mean, self.running_var)


class AutoEncoder(AutoDecoder):
    """An auto-decoder whose latents come from an encoder.

    encoder: a name in ENCODERS. options: `architecture` and `dropout`, for encoder conv3 and decoder mirror only.
    """

    def __init__(self, encoder, latent_dim, decoder='groupnorm', shape=SHAPE, **options):
        super().__init__(latent_dim, decoder, shape, **options)
        self.encoder = nn.Sequential(
            choose(ENCODERS, 'encoder', encoder)(latent_dim, self.shape, **options), Standardise(latent_dim)
        )


class VariationalAutoEncoder(VariationalAutoDecoder):
    """A variational auto-decoder whose posteriors come from an encoder: amortised inference."""

    def __init__(self, encoder, dist, latent_dim, decoder='groupnorm', shape=SHAPE, seed=0):
        super().__init__(dist, latent_dim, decoder, shape, seed)
        self.encoder = choose(ENCODERS, 'encoder', encoder)(latent_dim * self.params_per_dim, self.shape)
