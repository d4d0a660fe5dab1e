"""The models: what the latents of an image are, and how they become an image.

An image's latents are K = P * D numbers: P parameters for each of D latent dimensions, the location first (P
= 1 for a point); for a Gaussian with a full covariance K = D (D + 3) / 2. An auto-decoder keeps them in a
tensor [N, K], one row an image, which belongs to the training loop and not to the model: the same model
serves the training latents and the test latents. In an auto-encoder they are the output of the encoder.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from networks import DECODERS, ENCODERS, GAN_NETWORKS, SHAPE, LearnedPrior, channels_first, choose

LEAK = 0.01  # gradient that a saturated pixel still lets through


class AutoDecoder(nn.Module):
    """Latent vectors to images: model(latents [B, D]) -> [B, 28, 28] in 0-255.

    decoder: a name in DECODERS. shape: of an image. options: for the decoder, where it has any.
    ValueError: there is no such decoder, or it cannot make images of that shape.
    """

    dist = None  # a point posterior
    bfloat16 = False  # whether the decoder computes in bfloat16
    masked = False  # whether the encoder, if there is one, also reads which pixels are observed

    def __init__(
        self, latent_dim: int, decoder: str = 'groupnorm', shape: tuple[int, ...] = SHAPE, **options
    ):
        super().__init__()
        self.latent_dim, self.shape = latent_dim, tuple(shape)
        self.params_shape = 1, latent_dim  # P, D
        self.encoder = None  # a module in the models that have one
        self.prior = None  # a module where it is learned
        self.decoder = choose(DECODERS, 'decoder', decoder)(latent_dim, self.shape, **options)
        # Added to the logits. It starts at the mean training image, which leaves the decoder the differences
        # between images: no seed starts on the plateau where all images are black.
        self.pixel_bias = nn.Parameter(torch.zeros(self.shape))
        # Affine map from code to decoder input, so that latents can be standardised after training.
        self.register_buffer('code_scale', torch.ones(latent_dim))
        self.register_buffer('code_shift', torch.zeros(latent_dim))

    def encode(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """The encoder's latents [B, K] of images [B, 28, 28] in 0-1, 0 where a pixel is missing.

        observed: bool [B, 28, 28], which pixels are; None: all. An encoder of masked images reads it too.
        """
        if self.masked:
            mask = torch.ones_like(x) if observed is None else observed.to(x.dtype)
            x = torch.stack([x, mask], 1).flatten(1, -3)  # [B, 2C, 28, 28]
        return self.encoder(x)

    @property
    def latent_size(self) -> int:
        """K, the numbers that are an image's latents."""
        return math.prod(self.params_shape)

    def params(self, latents: Tensor) -> Tensor:
        """Latents [B, K] as posterior parameters [B, P, D], or [B, K] where the family packs them."""
        return latents.view(len(latents), *self.params_shape)

    def code(self, z: Tensor) -> Tensor:
        """The code of z [B, D]: what the decoder reads, before code_scale and code_shift."""
        return z

    def logits(self, code: Tensor) -> Tensor:
        """Codes [B, D] -> logits of the images [B, 28, 28]."""
        with torch.autocast(code.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.decoder(code * self.code_scale + self.code_shift)
        return logits.to(code.dtype) + self.pixel_bias

    def render(self, code: Tensor) -> Tensor:
        """Codes [B, D] -> images [B, 28, 28] in 0-1."""
        logits = self.logits(code)
        # The second term is 0, but its gradient is LEAK. A sigmoid far out has no gradient of its own:
        # without the term, images that one bad step turns black would stay black.
        return torch.sigmoid(logits) + LEAK * (logits - logits.detach())

    def decode(self, z: Tensor) -> Tensor:
        """z [B, D] -> images [B, 28, 28] in 0-255."""
        return 255 * self.render(self.code(z))

    def mean(self, latents: Tensor) -> Tensor:
        """Latents [B, K] -> posterior mean of z [B, D]. The mean of a point is the point."""
        return latents

    def sample(
        self, params: Tensor, *, seed: int, step: int | Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """params [B, P, D] -> z [B, D] and KL [B] in nats. A point is its own sample, and has no KL.

        seed, step, index (int64 [B], the images' indices): what the noise is a function of.
        """
        return params[:, 0], params.new_zeros(len(params))

    def initialize(self, code: Tensor, spread: Tensor) -> Tensor:
        """Latents [N, K] whose locations are linear in code [N, D]; scales, if there are any, are spread
        [D]."""
        return code

    @torch.no_grad()
    def standardise(self, latents: Tensor, reference: Tensor) -> Tensor:
        """Shift and scale z so that the latents reference [N, K] fit the prior best on average.

        Returns latents [M, K] after that change. The decoder's input map is changed to match: no image
        changes.
        """
        shift, scale = reference.mean(0), reference.std(0, correction=0)
        scale = torch.where(scale > 1e-6, scale, 1.0)  # a latent that is equal for all images stays as it is
        self.absorb(scale, shift)
        return (latents - shift) / scale

    def absorb(self, scale: Tensor, shift: Tensor):
        """Change the decoder's input map so that a code c now gives the image that scale * c + shift gave."""
        self.code_shift += self.code_scale * shift
        self.code_scale *= scale

    def sample_prior(self, n: int, *, seed: int) -> Tensor:
        """n draws of z from the prior, [n, D]. An auto-decoder has no prior, but its standardised latents
        have mean 0 and variance 1: N(0, 1) stands in for one."""
        shape, device = (n, self.latent_dim), self.pixel_bias.device
        return kernels.sample_prior(self.dist or 'gaussian', shape, seed=seed, device=device)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decode(self.mean(latents))


class VariationalAutoDecoder(AutoDecoder):
    """Posterior parameters to images of sampled z: model(latents [B, K]) -> [B, 28, 28] in 0-255.

    Each call draws fresh noise, in train and eval mode alike; setting `calls` to 0 repeats the sequence.
    dist: a name in kernels.FAMILIES. learned_prior: whether the prior is learned, a mixture of Gaussians.
    ValueError: there is no such family or decoder.
    """

    def __init__(
        self,
        dist: str,
        latent_dim: int,
        decoder: str = 'groupnorm',
        shape: tuple[int, ...] = SHAPE,
        seed: int = 0,
        learned_prior: bool = False,
    ):
        super().__init__(latent_dim, decoder, shape)
        self.dist, self.seed, self.calls = dist, seed, 0
        self.params_shape = self.family.shape(latent_dim)
        self.prior = LearnedPrior(latent_dim) if learned_prior else None

    @property
    def family(self):
        """The kernels.Family of the posteriors. Its functions cannot be pickled: a model that stored it could
        not be pickled either."""
        return kernels.family(self.dist)

    def code(self, z: Tensor) -> Tensor:
        return self.family.code(z)

    def mean(self, latents: Tensor) -> Tensor:
        return self.family.mean(self.params(latents))

    def sample(
        self, params: Tensor, *, seed: int, step: int | Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        z, kl = kernels.sample_kl(params, self.dist, seed=seed, step=step, ids=index)
        return z, self.kl_to_prior(z, kl)

    def kl_to_prior(self, z: Tensor, kl: Tensor) -> Tensor:
        """KL to the family's prior p0 -> KL to the model's prior p, [B] each, in nats; z [B, D]: the samples.

        KL(q || p) = KL(q || p0) + E[log p0(z) - log p(z)], the second term by one sample.
        """
        return kl if self.prior is None else kl + self.log_standard_prior(z) - self.prior.log_density(z)

    def log_standard_prior(self, z: Tensor) -> Tensor:
        """z [..., D] -> log density of the family's own prior [...], in nats."""
        return self.family.log_density(z.new_zeros(self.params_shape), z).sum(-1)

    def log_prior(self, z: Tensor) -> Tensor:
        """z [..., D] -> log density of the model's prior [...], in nats."""
        return self.prior.log_density(z) if self.prior is not None else self.log_standard_prior(z)

    def initialize(self, code: Tensor, spread: Tensor) -> Tensor:
        return self.family.start(code, spread).flatten(1)

    @torch.no_grad()
    def standardise(self, latents: Tensor, reference: Tensor) -> Tensor:
        params, scale, shift = self.family.standardise(self.params(latents), self.params(reference))
        self.absorb(scale, shift)
        if self.prior is not None:
            self.prior.standardise(scale, shift)
        return params.flatten(1)

    def sample_prior(self, n: int, *, seed: int) -> Tensor:
        if self.prior is None:
            return super().sample_prior(n, seed=seed)
        shares = self.prior.logits.detach().softmax(0).cpu()
        generator = torch.Generator().manual_seed(seed)
        rows = shares.multinomial(n, replacement=True, generator=generator).to(self.pixel_bias.device)  # [n]
        # To the kernel the components are Gaussian posteriors. Each draw has noise of its own: ids.
        params, ids = self.prior.params.detach(), torch.arange(n, device=rows.device)
        z, _ = kernels.sample_kl(params, 'gaussian', seed=seed, step=0, rows=rows, ids=ids)
        return z

    def forward(self, latents: Tensor) -> Tensor:
        index = torch.arange(len(latents), device=latents.device)
        z, _ = self.sample(self.params(latents), seed=self.seed, step=self.calls, index=index)
        self.calls += 1
        return self.decode(z)


def with_posteriors(model: AutoDecoder, dist: str) -> VariationalAutoDecoder:
    """A variational auto-decoder that has the decoder of model, shared and not copied, and posteriors of the
    family dist."""
    other = VariationalAutoDecoder.__new__(VariationalAutoDecoder)
    nn.Module.__init__(other)
    other.dist, other.seed, other.calls = dist, 0, 0
    other.latent_dim, other.shape, other.bfloat16 = model.latent_dim, model.shape, model.bfloat16
    other.params_shape, other.encoder = other.family.shape(model.latent_dim), None
    other.prior = model.prior
    other.decoder, other.pixel_bias = model.decoder, model.pixel_bias
    other.register_buffer('code_scale', model.code_scale)
    other.register_buffer('code_shift', model.code_shift)
    return other.eval()


# ------------------------------------------------------------------------------ models with an encoder


def encoder_shape(shape: tuple[int, ...], masked: bool) -> tuple[int, ...]:
    """The shape of an encoder's input: of an image, or of an image and its mask as further channels."""
    channels, height, width = channels_first(shape)
    return (2 * channels, height, width) if masked else tuple(shape)


class Standardise(nn.BatchNorm1d):
    """Codes [B, D] to mean 0 and variance 1, so that draws of N(0, 1) resemble them: batch normalisation
    without weights.

    The last batch of an epoch may be a single image. It has no variance, and is normalised by the running
    one.
    """

    def __init__(self, latent_dim: int):
        super().__init__(latent_dim, affine=False)

    def forward(self, codes: Tensor) -> Tensor:
        if len(codes) > 1 or not self.training:
            return super().forward(codes)
        return F.batch_norm(codes, self.running_mean, self.running_var)


class AutoEncoder(AutoDecoder):
    """An auto-decoder whose latents come from an encoder.

    encoder: a name in ENCODERS. masked: whether it reads the masks of incomplete images. options:
    `architecture` and `dropout`, for encoder conv3 and decoder mirror only.
    """

    def __init__(
        self,
        encoder: str,
        latent_dim: int,
        decoder: str = 'groupnorm',
        shape: tuple[int, ...] = SHAPE,
        masked: bool = False,
        **options,
    ):
        super().__init__(latent_dim, decoder, shape, **options)
        self.masked, inputs = masked, encoder_shape(shape, masked)
        network = choose(ENCODERS, 'encoder', encoder)(latent_dim, inputs, **options)
        self.encoder = nn.Sequential(network, Standardise(latent_dim))


class VariationalAutoEncoder(VariationalAutoDecoder):
    """A variational auto-decoder whose posteriors come from an encoder: amortised inference."""

    def __init__(
        self,
        encoder: str,
        dist: str,
        latent_dim: int,
        decoder: str = 'groupnorm',
        shape: tuple[int, ...] = SHAPE,
        seed: int = 0,
        masked: bool = False,
        learned_prior: bool = False,
    ):
        super().__init__(dist, latent_dim, decoder, shape, seed, learned_prior)
        self.masked, inputs = masked, encoder_shape(shape, masked)
        self.encoder = choose(ENCODERS, 'encoder', encoder)(self.latent_size, inputs)


class GAN(nn.Module):
    """A generator, which makes images of z ~ N(0, 1), and a discriminator, which tells them from real ones.

    kind: a name in GAN_NETWORKS. shape: of an image. ValueError: there is no such kind, or not for that
    shape.
    """

    encoder = None  # a GAN has no latents of given images

    def __init__(self, kind: str, latent_dim: int, shape: tuple[int, ...] = SHAPE):
        super().__init__()
        self.latent_dim, self.shape = latent_dim, tuple(shape)
        self.generator, self.discriminator = choose(GAN_NETWORKS, 'model', kind)(latent_dim, self.shape)

    def sample_prior(self, n: int, *, seed: int, step: int = 0) -> Tensor:
        """n draws of z ~ N(0, 1), [n, D], a function of seed and step."""
        device = next(self.parameters()).device
        return kernels.sample_prior('gaussian', (n, self.latent_dim), seed=seed, step=step, device=device)

    def decode(self, z: Tensor) -> Tensor:
        """z [B, D] -> images [B, *shape] in 0-255."""
        return (255 / 2) * (1 + self.generator(z)).view(-1, *self.shape)
