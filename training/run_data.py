"""The images of a run: where they are, and what of them its configuration asks for."""

import contextlib
from pathlib import Path

import torch

from training.command import pick_device
from training.config import Config
from training.data import ImageDataset, default_data_path, load_images
from training.distributed import main_first
from training.errors import UserError
from training.files import read_json
from training.memory import check_latents


def load_split(config: Config) -> tuple[ImageDataset, ImageDataset]:
    """The training and the test images of a configuration, binarised or with pixels hidden if it says so.

    UserError: see load_images; or the system or --missing wants complete images.
    """
    wanted = config.dataset, config.n_train, config.n_test, config.image_size
    train_set, test_set = load_images(config.data_path, *wanted)
    incomplete = f'images in {train_set.source} with missing pixels'
    if config.system == 'gan' and train_set.observed is not None:
        raise UserError(
            f'expected complete images for a GAN, which cannot leave pixels out, got {incomplete}; train '
            f'another system, or use other images'
        )
    if config.binarise:
        train_set, test_set = train_set.binarised(0, config.binarise == 'dynamic'), test_set.binarised(1)
    if config.missing and train_set.observed is not None:
        raise UserError(
            f'expected complete images for --missing, which hides pixels of them, got {incomplete}; '
            f'leave --missing out'
        )
    if config.missing:
        hidden = config.missing_kind, config.missing, config.seed
        train_set, test_set = train_set.hide_pixels(*hidden, 0), test_set.hide_pixels(*hidden, 1)
    return train_set, test_set


def check_observed(train_set: ImageDataset, hidden: float | None):
    """UserError: nothing is observed in any training image. hidden: --missing."""
    observed, batches = train_set.observed, torch.arange(len(train_set)).split(1000)
    if observed is not None and not any(observed[index].any() for index in batches):
        raise UserError(
            f'expected observed pixels in the {len(train_set)} training images of {train_set.source}, '
            f'got none; '
            + (
                f'choose a --missing below {hidden:g}'
                if hidden
                else 'put images with observed pixels first: the first images of a file are for training'
            )
        )


def load_data(config: Config) -> tuple[Config, ImageDataset, ImageDataset]:
    """The run's configuration with what is known of its images, its training images, its test images.

    With several processes the main one goes first, and downloads what is missing. UserError: see load_images;
    or pixels are missing where they must not be, or all; or the latents do not fit in memory.
    """

    def load():
        train_set, test_set = load_split(config)
        if config.image_size and train_set.name != 'pictures':
            raise UserError(
                f'expected a folder of pictures for --image-size, got {train_set.source}; leave it out'
            )
        check_observed(train_set, config.missing)
        known = config.with_data(train_set, test_set)
        check_latents(known, len(train_set), pick_device(config.device))
        return known, train_set, test_set

    return main_first(load)


def find_data(folder: Path, given: str | None) -> str:
    """Where a finished run's data are: `given`, or where it was trained from, or if that is gone or not known
    DATA_PATH."""
    recorded = None
    with contextlib.suppress(UserError):
        recorded = read_json(folder / 'config.json').get('data_path')
    known = isinstance(recorded, str) and Path(recorded).exists()
    return given or (recorded if known else default_data_path())
