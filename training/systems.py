"""The configurations of the five systems: their flags, besides those of training/config.py."""

from dataclasses import dataclass
from typing import ClassVar

import kernels
import networks
from networks import GAN_NETWORKS
from training.command import flag, fraction, positive, sizes, weight, whole_number
from training.config import Config, LatentConfig, describe_defaults, other_default
from training.data import ImageDataset
from training.errors import UserError


def check_prior(config: LatentConfig):
    """UserError: a mixture of Gaussians is no prior of that family."""
    if config.prior == 'learned' and not kernels.family(config.dist).location_scale:
        names = ', '.join(name for name, family in kernels.FAMILIES.items() if family.location_scale)
        raise UserError(
            f'expected --dist to be one of {names} with --prior learned, whose draws are any numbers, got '
            f'{config.dist}; leave out one or the other'
        )


@dataclass(frozen=True, kw_only=True)
class ADConfig(LatentConfig):
    """Train an auto-decoder (AD), grade it and draw its pictures."""

    system: ClassVar[str] = 'ad'
    beta: float = 1.0  # no flag: points have no KL
    latent_dim: int = other_default(Config, 'latent_dim', 128)
    latent_lr: float = flag(0.1, 'peak learning rate of the latents', positive)


@dataclass(frozen=True, kw_only=True)
class VADConfig(LatentConfig):
    """Train a variational auto-decoder (VAD), grade it and draw its pictures."""

    system: ClassVar[str] = 'vad'
    latent_dim: int | None = flag(
        None, f'latent dimensions an image ({describe_defaults("latent_dim")})', whole_number, metavar='D'
    )
    dist: str = flag(
        'gaussian',
        'family of the posteriors; gaussian-full has a full covariance: D (D + 3) / 2 numbers an image, '
        '1,890 for D = 60, and three times that while Adam trains them',
        choices=list(kernels.FAMILIES),
    )
    prior: str = flag(
        'standard',
        "of the latents: the family's own, N(0, 1) for Gaussians; or a mixture of Gaussians that is learned "
        'with the decoder: its draws look more like the images',
        choices=['standard', 'learned'],
    )
    latent_lr: float | None = flag(
        None, f'peak learning rate of the latents ({describe_defaults("latent_lr")})', positive
    )

    def __post_init__(self):
        super().__post_init__()
        check_prior(self)


@dataclass(frozen=True, kw_only=True)
class VAEConfig(LatentConfig):
    """Train a variational auto-encoder (VAE), grade it and draw its pictures."""

    system: ClassVar[str] = 'vae'
    latent_dim: int | None = other_default(VADConfig, 'latent_dim', None)
    dist: str = other_default(VADConfig, 'dist', 'gaussian')
    prior: str = other_default(VADConfig, 'prior', 'standard')
    encoder: str = flag(
        'conv',
        'what gives an image its latents; lstm and lstm-plain are those of the LSTM report, with a linear '
        'layer on the last state, and without one',
        choices=list(networks.ENCODERS),
    )
    importance_samples: int = flag(
        1,
        'samples of an image a step; several give the importance-weighted bound, which is tighter than the '
        'ELBO (IWAE; of incomplete images MIWAE); time grows with K',
        whole_number,
        metavar='K',
    )
    grid: bool = flag(
        False, 'insist on grid.png, the decoded codes in the plane, which --latent-dim 2 gives', compare=False
    )

    def __post_init__(self):
        super().__post_init__()
        check_prior(self)
        if self.grid and self.latent_dim != 2:
            raise UserError(
                f'expected --latent-dim 2 for --grid, whose codes lie in a plane, got '
                f'{self.latent_dim or "none"}; '
                f'samples.png and the t-SNE maps show codes of any size'
            )
        if self.importance_samples > 1 and self.beta != 1:
            raise UserError(
                f'expected --beta 1 with --importance-samples {self.importance_samples}, whose bound has no '
                f'weight of the KL, got {self.beta:g}; leave out one or the other'
            )


@dataclass(frozen=True, kw_only=True)
class AEConfig(LatentConfig):
    """Train an auto-encoder (AE), grade it and draw its pictures."""

    system: ClassVar[str] = 'ae'
    beta: float = 1.0  # no flag: points have no KL
    latent_dim: int = other_default(Config, 'latent_dim', 8)
    encoder: str = other_default(VAEConfig, 'encoder', 'conv3')
    decoder: str = other_default(LatentConfig, 'decoder', 'mirror')
    weight_decay: float = flag(
        0.0, 'decoupled (AdamW): weights shrink by lr * W a step (default: 0)', weight, metavar='W'
    )
    dropout: float = flag(
        0.0,
        'share of hidden outputs dropped in training; for --encoder conv3 and --decoder mirror (default: 0)',
        fraction,
        metavar='P',
    )
    patience: int = flag(
        0,
        'hold out the last tenth of the training images, stop after E epochs in which their loss did not '
        'fall, and keep the best weights (default: no early stopping)',
        whole_number,
        metavar='E',
    )
    min_delta: float = flag(
        0.0, 'by how much it must fall to count, with --patience (default: 0)', weight, metavar='NATS'
    )
    prune: float = flag(
        0.0,
        "after half of the epochs set this share of each layer's weights, the smallest, to 0 for good "
        '(default: 0)',
        fraction,
        metavar='FRACTION',
    )
    sweep: tuple[int, ...] = flag(
        (),
        'a run for each of these latent sizes, in folders dNN of the run folder (runs/ae-sweep), and their '
        'losses beside those of PCA',
        sizes,
        compare=False,
        exclusive=True,
        metavar='D,D,...',
    )
    tune: int = flag(
        0,
        'try N configurations by their loss on held-out training images, the default one first, and train '
        'the best again on all; all in the run folder (runs/ae-tune). Replaces --latent-dim, --batch-size, '
        '--lr and --weight-decay; the same command with a larger N goes on',
        whole_number,
        compare=False,
        exclusive=True,
        metavar='N',
    )
    architecture: dict | None = None  # of encoder conv3 and decoder mirror: networks.ARCHITECTURE
    trial: int | None = None  # the trial of a search whose configuration this is

    def __post_init__(self):
        super().__post_init__()
        paired = self.encoder == 'conv3' and self.decoder == 'mirror'
        if paired and self.architecture is None:
            object.__setattr__(self, 'architecture', networks.ARCHITECTURE)
        if self.learn_obs_std and (self.patience or self.tune):
            raise UserError(
                'expected a number for --obs-std with --patience or --tune, whose losses would not compare, '
                'got auto; leave out one or the other'
            )
        if self.min_delta and not (self.patience or self.tune):
            raise UserError(
                'expected --min-delta together with --patience, got it alone; add --patience, or leave it out'
            )
        if not paired and (self.dropout or self.tune):
            raise UserError(
                f'expected --encoder conv3 and --decoder mirror for --dropout and --tune, got {self.encoder} '
                f'and {self.decoder}; leave out one or the other'
            )
        if self.prune and (self.encoder in ('lstm', 'lstm-plain') or self.epochs == 1):
            raise UserError(
                'expected an encoder of linear layers and convolutions and two epochs or more for --prune, '
                f'got {self.encoder} and {self.epochs or "the default"}; choose others, or leave it out'
            )

    def with_data(self, train_set: ImageDataset, test_set: ImageDataset) -> 'AEConfig':
        """As LatentConfig's. UserError: there are no images to hold out, or no losses to compare."""
        if self.sweep and train_set.observed is not None:
            raise UserError(
                'expected complete images for --sweep, whose losses are compared with those of PCA, got '
                'images with missing pixels; leave out one or the other'
            )
        if (self.patience or self.tune) and len(train_set) < 2:
            raise UserError(
                'expected two training images or more, to hold some out for --patience or --tune, got 1; use '
                'a larger --n-train'
            )
        return super().with_data(train_set, test_set)


@dataclass(frozen=True, kw_only=True)
class GANConfig(Config):
    """Train a generative adversarial network (GAN), grade its samples and draw its pictures."""

    system: ClassVar[str] = 'gan'
    most_epochs: ClassVar[int] = 50
    model: str = flag(
        'dcgan',
        'both networks; linear is that of the GAN report, of two linear layers each',
        choices=list(GAN_NETWORKS),
    )
    latent_dim: int = other_default(Config, 'latent_dim', 64)
    batch_size: int = other_default(Config, 'batch_size', 32)
    lr: float = flag(1e-3, 'peak learning rate of both players', positive)

    @property
    def name(self) -> str:
        return f'gan-{self.model}'
