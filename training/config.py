"""The configuration of a run: one frozen dataclass for each system.

It is made from the command line (training/command.py), saved to config.json and the checkpoint, and read from
there. A feature that is off has the value 0 or False. None means that the value follows from something else
(the data, the decoder, the machine), or, of `architecture` and `trial`, that there is none.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import networks
from training.batches import COPIES_PER_EPOCH, MANY, epoch_length, is_row
from training.binarise import BINARISE_KINDS
from training.command import count, flag, number_or_auto, positive, seed, share, weight, whole_number
from training.data import DATASETS, ImageDataset
from training.errors import UserError
from training.missing import MISSING_KINDS
from training.sources import DEFAULT_IMAGES

# Defaults by how many pixels are missing. For filling them in, exact reconstructions matter more than samples
# of the prior, unless so few pixels are observed that the latents fit these too closely. The start of the
# latents is worse, the fewer pixels it sees: they must move faster. (Points, which have no KL, have
# dimensions and a learning rate of their own.)
SPARSE = 0.85  # share of missing pixels, from which images are sparse
DEFAULTS = {
    'complete': {'obs_std': 0.08, 'latent_dim': 60, 'latent_lr': 0.1},
    'incomplete': {'obs_std': 0.03, 'latent_dim': 128, 'latent_lr': 0.3},
    'sparse': {'obs_std': 0.1, 'latent_dim': 128, 'latent_lr': 1.0},
}


def describe_defaults(name: str) -> str:
    """Of a flag of that name, for --help."""
    complete, incomplete, sparse = (f'{values[name]:g}' for values in DEFAULTS.values())
    where_sparse = '' if sparse == incomplete else f', or {sparse} from a share of {SPARSE}'
    return f'default: {complete}; where pixels are missing {incomplete}{where_sparse}'


def describe_lr() -> str:
    """The default peak learning rates, for --help. The variants of conv4, conv4-relu and so on, have its."""
    names = {}
    for name, decoder in networks.DECODERS.items():
        names.setdefault(decoder.lr, {})[name.partition('-')[0]] = None
    return '; '.join(f'{lr:g} for {", ".join(of_lr)}' for lr, of_lr in names.items())


SHOWN = 1_300_000  # images and copies that a training shows by default, at most: many need few epochs
THOUSAND = f'{DEFAULT_IMAGES}, or all if there are fewer'


def data_path_flag(default: str) -> Any:
    """--data-path. default: what is done without it, for --help; the value is None."""
    given = os.environ.get('DATA_PATH', 'not set').replace('%', '%%')  # argparse formats the help by %
    return flag(
        None,
        "folder of the data: the course's CSV files or torchvision's, or pictures, flat or in one folder for "
        'each class; data is downloaded into it if it has none of these; or IMAGES.npy, [N, H, W] or '
        '[N, H, W, 3], uint8, or floats in 0-255 with NaN for missing pixels; or IMAGES.npz: images, and '
        f'observed (bool) and labels if there are any (default: {default}; DATA_PATH is {given})',
        compare=False,
        metavar='DIR',
    )


def device_flag() -> Any:
    return flag(None, 'cpu, cuda or cuda:N (default: cuda if there is one)', compare=False)


def other_default(parent: type, name: str, default):
    """The flag of a parent class, with another default."""
    return flag(default, **parent.__dataclass_fields__[name].metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all systems have.

    Fields with compare=False say where a run is and how it is shown; the others say what it computes: a
    resumed run must have the same. The fields without a flag are filled in by with_data.
    """

    system: ClassVar[str]
    dist: ClassVar[str | None] = None
    prior: ClassVar[str] = 'standard'
    most_epochs: ClassVar[int] = 27  # by default
    # What only some systems have a flag for; off, or the usual, in the others.
    encoder: ClassVar[str | None] = None
    likelihood: ClassVar[str] = 'gaussian'
    binarise: ClassVar[str | None] = None
    learn_obs_std: ClassVar[bool] = False
    latent_lr: ClassVar[float] = 0.0
    weight_decay: ClassVar[float] = 0.0
    dropout: ClassVar[float] = 0.0
    prune: ClassVar[float] = 0.0
    patience: ClassVar[int] = 0
    min_delta: ClassVar[float] = 0.0
    missing: ClassVar[float] = 0.0
    eager: ClassVar[bool] = False

    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    device: str | None = device_flag()
    dataset: str | None = flag(
        None,
        'the data set, never replaced by another (default: fashion-mnist, or '
        "scikit-learn's digits where there is neither file nor network)",
        choices=list(DATASETS),
    )
    n_test: int | str | None = flag(
        None, f'how many test images, a number or "all" (default: {THOUSAND})', count, metavar='N'
    )
    n_train: int | str | None = flag(
        None, f'how many training images, a number or "all" (default: {THOUSAND})', count, metavar='N'
    )
    image_size: int | None = flag(
        None,
        'side in pixels of the squares that pictures are scaled and cut to (default: as they are)',
        whole_number,
        metavar='S',
    )
    latent_dim: int = flag(60, 'latent dimensions an image', whole_number, metavar='D')
    epochs: int | None = flag(
        None,
        'epochs; one shows every image once, and two shifted copies of it if there are at most '
        f'{MANY:,} images (default: 27, of a GAN 50, but no more than show {SHOWN / 1e6:g} million images)',
        whole_number,
        metavar='E',
    )
    batch_size: int = flag(64, 'images a step', whole_number, metavar='B')
    seed: int = flag(0, 'weights, order of the images and noise follow from it (default: 0)', seed)
    run_dir: Path | None = flag(
        None,
        'where the run goes (default: runs/<system>-<dist>, runs/<system>, or runs/gan-<model>)',
        Path,
        compare=False,
        metavar='DIR',
    )
    resume: bool = flag(False, 'go on from the last checkpoint in the run folder, exactly', compare=False)
    shape: tuple[int, ...] = ()  # of an image
    train_checksum: int = 0
    test_checksum: int = 0
    missing_share: float | None = None  # of the training images' pixels; None: all are complete
    n_classes: int = 0  # of the labels in a file of one's own; 0: those of DATASETS

    def __post_init__(self):
        if self.epochs is None and self.shape and isinstance(self.n_train, int):  # the images are known
            most = self.most_epochs * (1 + COPIES_PER_EPOCH if is_row(self.shape) else 1)  # as many steps
            epochs = max(1, min(most, SHOWN // epoch_length(self.n_train, self.shape)))
            object.__setattr__(self, 'epochs', epochs)  # the dataclass is frozen

    @property
    def name(self) -> str:
        """The default name of the run's folder."""
        return '-'.join(filter(None, (self.system, self.dist)))

    @property
    def incomplete(self) -> bool:
        """Whether training images have missing pixels."""
        return self.missing_share is not None

    def replace(self, **changes) -> 'Config':
        return dataclasses.replace(self, **changes)

    def with_data(self, train_set: ImageDataset, test_set: ImageDataset) -> 'Config':
        """The configuration with what is known once the images are there."""
        return self.replace(
            n_classes=len(train_set.classes) if train_set.classes != DATASETS[train_set.name] else 0,
            dataset=train_set.name,
            n_train=len(train_set),
            n_test=len(test_set),
            shape=train_set.shape,
            missing_share=train_set.missing_share(),
            train_checksum=train_set.checksum(),
            test_checksum=test_set.checksum(),
        )

    def to_dict(self) -> dict:
        """What the run computes, in plain values: for config.json, the checkpoint and results.json."""
        computed = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.compare
        }
        return {'system': self.system, 'dist': self.dist, **computed}


def parse_classes(wanted: tuple[str, str], names: list[str]) -> tuple[int, int]:
    """Class numbers for the two names or numbers of --interpolate. UserError: they name no two classes."""
    lower = [name.lower() for name in names]
    chosen = []
    for word in map(str, wanted):  # with_data has made numbers of them
        if word.lower() in lower:
            chosen.append(lower.index(word.lower()))
        elif word.isdecimal() and int(word) < len(names):
            chosen.append(int(word))
        else:
            raise UserError(f'expected --interpolate to name two of {", ".join(names)}, got {word!r}')
    if chosen[0] == chosen[1]:
        raise UserError(f'expected --interpolate to name two different classes, got {wanted[0]!r} twice')
    return tuple(chosen)


@dataclass(frozen=True, kw_only=True)
class LatentConfig(Config):
    """What the systems have whose images have latents: all but the GAN."""

    importance_samples: ClassVar[int] = 1

    lr: float | None = flag(None, f'peak learning rate of the decoder (default: {describe_lr()})', positive)
    beta: float = flag(1.0, 'weight of the KL; 1 is the ELBO', weight)
    obs_std: float | str | None = flag(
        None,
        'standard deviation of a pixel (0-1) given its latents, of the Gaussian likelihood; the larger, the '
        'more the KL matters; auto: its maximum-likelihood value, which training finds '
        f'({describe_defaults("obs_std")})',
        number_or_auto,
        metavar='STD',
    )
    learn_obs_std: bool = False  # --obs-std auto; obs_std is then what training starts with, and later finds
    likelihood: str = flag(
        'gaussian',
        'of a pixel given its latents; bernoulli, the cross-entropy, suits digits',
        choices=['gaussian', 'bernoulli'],
    )
    binarise: str | None = flag(
        None,
        'make each pixel white or black by a coin that shows white with its grey value as probability; '
        'static: the same coins for every seed; dynamic: in training, new ones in every step (default: grey '
        'images)',
        choices=list(BINARISE_KINDS),
    )
    missing: float = flag(
        0.0, 'hide this share of all pixels, to study incomplete data (default: 0)', share, metavar='RATE'
    )
    missing_kind: str = flag(
        'pixels', 'what --missing hides: pixels at random, or a block', choices=list(MISSING_KINDS)
    )
    bfloat16: bool = flag(
        False, 'the decoder in bfloat16, for processors that have it: 1.6 times as fast with dcgan7x7'
    )
    eager: bool = flag(
        False, 'on a GPU, launch the operations of a step one by one, not as a CUDA graph', compare=False
    )
    decoder: str = flag(
        'groupnorm',
        'dcgan4x4 and dcgan7x7 are those of the 4x4 and the 7x7 report, 13 and 4 times slower on a CPU; mlp '
        'and conv64 (for 3 x 64 x 64) of the GAN report, conv6 of the LSTM report, the other names with conv '
        'its variants: number of layers, slope of the leaky ReLU (0.01), batch normalisation',
        choices=list(networks.DECODERS),
    )
    interpolate: tuple[str | int, str | int] | None = flag(
        None,
        'classes of the two test images of interpolation.png, names or numbers (default: trouser dress, '
        'classes 1 and 3)',
        compare=False,
        nargs=2,
        metavar='CLASS',
    )

    def with_data(self, train_set: ImageDataset, test_set: ImageDataset) -> 'LatentConfig':
        """As Config's; also the class numbers of `interpolate`. UserError: there are no such classes."""
        classes = parse_classes(self.interpolate, train_set.classes) if self.interpolate else (1, 3)
        return super().with_data(train_set, test_set).replace(interpolate=classes)

    def __post_init__(self):
        super().__post_init__()
        if self.missing_kind != 'pixels' and not self.missing:
            raise UserError(
                f'expected --missing together with --missing-kind {self.missing_kind}, got none; add '
                f'--missing, or leave it out'
            )
        if self.obs_std == 'auto':
            object.__setattr__(self, 'learn_obs_std', True)
            object.__setattr__(self, 'obs_std', None)  # the default, to start with
        # Before the images are known, obs_std is what --obs-std says; then it can be the default.
        given = 'auto' if self.learn_obs_std else None if self.shape else self.obs_std
        if given and self.likelihood == 'bernoulli':
            raise UserError(
                f'expected --likelihood gaussian for --obs-std {given}, got bernoulli, which has no standard '
                f'deviation; leave out one or the other'
            )
        values = {'lr': networks.DECODERS[self.decoder].lr}
        if self.shape:  # the images are known
            values |= self.defaults_by_missing()
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def defaults_by_missing(self) -> dict[str, float]:
        """Those of DEFAULTS that are for these images. Without a KL none is for sparse ones."""
        if not self.incomplete:
            return DEFAULTS['complete']
        return DEFAULTS['sparse' if self.dist and self.missing_share >= SPARSE else 'incomplete']
