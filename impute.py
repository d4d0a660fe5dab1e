"""Fill in missing pixels with a trained run.

Usage:
    python train_vad.py --data-path images.npz --run-dir runs/mine      images, observed
    python impute.py runs/mine --data-path images.npz --out completed.npz
"""

from dataclasses import dataclass
from pathlib import Path

from evaluation import draw_imputed
from imputation import impute
from training import (
    ImageDataset,
    TrainedRun,
    UserError,
    device_flag,
    find_data,
    flag,
    load_file,
    load_pictures,
    load_run,
    load_split,
    parse_flags,
    run_command,
    whole_number,
    write_arrays,
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fill in the missing pixels of images with a trained run: their conditional mean, its standard
    deviation and several imputations. Observed pixels come back as they are. Beside the file, imputed.png
    shows some."""

    run: Path = flag(None, 'the run folder', Path, positional=True, metavar='RUN')
    data_path: str | None = flag(
        None,
        'the images: FILE.npz with `images` and `observed`, a float FILE.npy in which NaN is a missing '
        "pixel, or a folder of pictures, whose transparent pixels are missing (default: the run's own test "
        'images)',
        metavar='FILE',
    )
    out: Path = flag(
        None,
        'where the result goes: `mean` and `std`, float32 in 0-255, [N, H, W] or [N, H, W, 3], and `draws`, '
        'uint8 [M, N, ...]',
        Path,
        required=True,
        metavar='FILE.npz',
    )
    draws: int = flag(5, 'how many imputations, draws of the missing pixels', whole_number, metavar='M')
    device: str | None = device_flag()


def check_out(out: Path):
    """UserError: no .npz file can be written there."""
    if out.suffix != '.npz' or out.is_dir() or not out.resolve().parent.is_dir():
        raise UserError(
            f'expected --out to name a .npz file in an existing folder, got {out}; make the folder, or name '
            f'another'
        )


def check_apart(out: Path, place: Path, dataset: ImageDataset):
    """UserError: the result would replace the images, or lie among pictures, of which imputed.png would be
    one."""
    out, place = out.resolve(), place.resolve()
    if out == place or dataset.name == 'pictures' and out.is_relative_to(place):
        raise UserError(
            f'expected --out to name a file apart from the images, which are in {place}, got {out}; name '
            f'another'
        )


def find_images(trained: TrainedRun, options: Options) -> ImageDataset:
    """The images to complete. UserError: there are none that the run's model can complete."""
    if trained.config.system == 'gan':
        raise UserError(
            f'expected a run whose images have latents, got the GAN in {options.run}; use a run of '
            f'train_vad.py, train_ad.py, train_vae.py or train_ae.py'
        )
    if options.data_path and Path(options.data_path).is_dir():
        place, shape = options.data_path, trained.model.shape
        size = shape[-2:] if trained.config.image_size else None
        dataset = load_pictures(Path(place), size, channels=3 if len(shape) == 3 else 1)
    elif options.data_path:
        dataset, place = load_file(Path(options.data_path)), options.data_path
    else:
        place = find_data(options.run, None)
        _, dataset = load_split(trained.config.replace(data_path=place))
        if dataset.checksum() != trained.config.test_checksum:
            raise UserError(
                f'expected the test images that {options.run} was trained with in {place}, got others; put '
                f'them there, or name the images to complete with --data-path'
            )
    if dataset.shape != trained.model.shape:
        raise UserError(
            f'expected images of shape {trained.model.shape}, as {options.run} was trained on, got '
            f'{dataset.shape} in {place}; name other images, or another run'
        )
    if dataset.observed is None:
        raise UserError(
            f'expected images with missing pixels, got complete ones in {place}; mark what is missing by '
            f'`observed` in a .npz file, by NaN in a .npy file of floats or by transparent pixels in '
            f'pictures, and name it with --data-path'
        )
    check_apart(options.out, Path(place), dataset)
    return dataset


def main():
    options = parse_flags(Options)
    check_out(options.out)
    trained = load_run(options.run, options.device)
    dataset = find_images(trained, options)
    completed = impute(trained, dataset, options.draws)
    arrays = {name: getattr(completed, name) for name in ('mean', 'std', 'draws')}
    if len(dataset.shape) == 3:  # in files the channels come last
        arrays = {name: array.movedim(-3, -1) for name, array in arrays.items()}
    write_arrays(options.out, **{name: array.numpy() for name, array in arrays.items()})
    picture = options.out.with_name('imputed.png')
    draw_imputed(picture, dataset, completed)
    print(f'{len(dataset)} images completed: {options.out}; some of them: {picture}')
    if dataset.known:
        print(', '.join(f'{name} {value:.4f}' for name, value in completed.grades.items()))


if __name__ == '__main__':
    run_command(main)
