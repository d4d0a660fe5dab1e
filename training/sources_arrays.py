"""Users' own images, in files of NumPy's: .npy, mapped into memory, and .npz, with a mask and labels.

Both readers give all images of a file: X [N, H, W] or [N, 3, H, W], their labels, and their mask (see
training/missing.py). What is wrong inside a file is a UserError; an OSError (no permission) passes through.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.errors import UserError
from training.missing import NotNaN
from training.sources import DEFAULT_IMAGES

TYPES = ('uint8', 'float16', 'float32', 'float64')
MEMBERS = ('images', 'observed', 'labels')  # of an .npz file; others are not looked at
MAX_CLASSES = 1000
CHECKED = 1000  # images of a mapped file that are in memory at once while they are checked


def first_line(error: Exception) -> str:
    """The first line of an error of another library, without the system's number for it."""
    text = str(getattr(error, 'strerror', None) or error)
    return (text.splitlines() or [type(error).__name__])[0]


def check_images_array(array: np.ndarray, path: Path):
    """UserError: an array does not hold images, by its type and its shape."""
    image_axes = array.ndim == 3 or array.ndim == 4 and array.shape[3] in (1, 3)
    if array.dtype not in map(np.dtype, TYPES) or not image_axes or 0 in array.shape:
        raise UserError(
            f'expected images [N, H, W], [N, H, W, 1] or [N, H, W, 3] in {path}, uint8 or floats in 0-255, '
            f'got {array.dtype} {list(array.shape)}; convert them with numpy'
        )


def channels_second(x: Tensor) -> Tensor:
    """[N, H, W, 3] -> [N, 3, H, W] and [N, H, W, 1] -> [N, H, W], views."""
    if x.dim() == 3:
        return x
    return x.squeeze(3) if x.shape[3] == 1 else x.movedim(3, 1)


def check_values(X: Tensor, path: Path) -> int | None:
    """The first of the images X [N, *shape] with NaN; None: there is none. UserError: other numbers are
    outside 0-255, or all in 0-1."""
    if X.dtype == torch.uint8:
        return None
    with_nan, largest = None, 0.0
    for start in range(0, len(X), CHECKED):
        x = X[start : start + CHECKED].flatten(1)
        wrong = (x < 0) | (x > 255)  # infinities too, but not NaN
        if wrong.any():
            image, pixel = wrong.nonzero()[0]
            raise UserError(
                f'expected pixels in 0-255 in {path}, or NaN where one is missing, got {x[image, pixel]:g} '
                f'in image {start + int(image) + 1}; correct the images, or scale them with numpy'
            )
        nan = torch.isnan(x).any(1)  # [CHECKED]
        if with_nan is None and nan.any():
            with_nan = start + int(nan.nonzero()[0])
        largest = max(largest, float(torch.nan_to_num(x).max()))
    if 0 < largest <= 1:
        raise UserError(f'expected pixels in 0-255 in {path}, got all in 0-{largest:g}; multiply them by 255')
    return with_nan


def read_npy(path: Path) -> tuple[Tensor, np.ndarray, NotNaN | None]:
    """The images of a .npy file, uint8 or floats in 0-255 in which NaN stands for a missing pixel: mapped X,
    labels 0, and the mask; None: nothing is missing.

    UserError: not such a file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of sizes that overflow, an error too
            # c, copy on write: PyTorch wants writable memory. What is written stays in memory, and nothing
            # is.
            array = np.lib.format.open_memmap(path, 'c')
    except OSError:
        raise
    except Exception as error:  # a damaged header can raise many types
        raise UserError(
            f'cannot read {path} as an array: {first_line(error)}; write it with numpy.save'
        ) from None
    check_images_array(array, path)
    X = channels_second(torch.from_numpy(array))
    observed = None if check_values(X, path) is None else NotNaN(X)
    return X, np.zeros(len(X), np.int64), observed


def read_members(path: Path) -> dict[str, np.ndarray]:
    """The arrays in an .npz file that are called as in MEMBERS. UserError: it is none, or has no images."""
    with open(path, 'rb') as stream, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of headers that Python 2 wrote
        try:
            file = np.lib.npyio.NpzFile(stream, allow_pickle=False)
            names = file.files
            members = {name: file[name] for name in MEMBERS if name in names}
            for name, array in members.items():
                if not isinstance(array, np.ndarray):  # bytes, which NumPy gives where a member is no array
                    raise ValueError(f'{name} is no array')
        except Exception as error:  # a damaged file can raise many types
            raise UserError(
                f'cannot read {path} as an .npz file: {first_line(error)}; write it with numpy.savez'
            ) from None
    if 'images' not in members:
        raise UserError(
            f'expected an array called images in {path}, got {", ".join(names)[:50] or "none"}; write it '
            f'with numpy.savez(file, images=..., observed=...)'
        )
    return members


def read_observed(observed: np.ndarray, images: np.ndarray, path: Path) -> Tensor:
    """The mask of an .npz file, in which a mask [N, H, W] of coloured images counts for all channels: bool
    [N, H, W] or [N, 3, H, W]. UserError: it is none."""
    if observed.dtype != bool or observed.shape not in (images.shape, images.shape[:3]):
        raise UserError(
            f'expected `observed` in {path} to be bool {list(images.shape[:3])}, or of the shape of the '
            f'images, got {observed.dtype} {list(observed.shape)}; convert it with numpy'
        )
    if observed.ndim < images.ndim:
        observed = np.broadcast_to(observed[..., None], images.shape).copy()  # PyTorch wants it writable
    return channels_second(torch.from_numpy(observed))


def read_labels(labels: np.ndarray, n: int, path: Path) -> np.ndarray:
    """The labels of the n images of an .npz file, int64 [n]. UserError: they are none."""
    got = f'{labels.dtype} {list(labels.shape)}'
    right = labels.shape == (n,) and np.issubdtype(labels.dtype, np.integer)
    if right:
        wrong = np.flatnonzero((labels < 0) | (labels >= MAX_CLASSES))
        if not len(wrong):
            return labels.astype(np.int64)
        got = f'{labels[wrong[0]]} for image {wrong[0] + 1}'
    raise UserError(
        f'expected `labels` in {path} to be whole numbers in 0-{MAX_CLASSES - 1}, one for each of the {n} '
        f'images, got {got}; correct them, or leave them out'
    )


def read_npz(path: Path) -> tuple[Tensor, np.ndarray, Tensor | None]:
    """The images of an .npz file, uint8 or floats in 0-255: X, their labels (0 if it has none), and their
    mask; None: nothing is missing.

    A pixel is missing where `observed` says so; without `observed`, where it is NaN. X is 0 there: what the
    file has under a missing pixel is not read. UserError: not such a file.
    """
    members = read_members(path)
    images, observed = members['images'], None
    check_images_array(images, path)
    X = channels_second(torch.from_numpy(images))
    if 'observed' in members:
        observed = read_observed(members['observed'], images, path)
        X = torch.where(observed, X, 0)
    with_nan = check_values(X, path)
    if with_nan is not None and observed is not None:
        raise UserError(
            f'expected numbers under all observed pixels in {path}, got NaN in image {with_nan + 1}; set '
            f'`observed` to False there'
        )
    if with_nan is not None:
        observed = ~torch.isnan(X)
        X = torch.where(observed, X, 0)
    labels = read_labels(members.get('labels', np.zeros(len(X), int)), len(X), path)
    return X, labels, None if observed is None or observed.all() else observed


def read_arrays(path: Path) -> tuple[Tensor, np.ndarray, Tensor | NotNaN | None]:
    """All images of a .npy or an .npz file, labels and mask, see read_npy and read_npz."""
    if not path.is_file():
        got = 'a folder' if path.is_dir() else 'no such file'
        raise UserError(
            f'expected images in the file {path}, got {got}; name the folder, or the .npy or .npz file, with '
            f'--data-path'
        )
    return read_npz(path) if path.suffix == '.npz' else read_npy(path)


def split_counts(n: int, n_train: int | str | None, n_test: int | str | None, path: Path) -> tuple[int, int]:
    """How many of the n images of a file are for training, its first, and for testing, its last.

    n_train, n_test: None: 1,000, or half of the images if they are fewer than 2,000; 'all': what the other
    leaves. UserError: there are fewer images.
    """
    if n < 2:
        raise UserError(
            f'expected two images or more in {path}, one to train on and one to test with, got {n}; add '
            f'images'
        )
    if n_train == n_test == 'all':
        raise UserError(
            f'expected a number of training or of test images, got "all" for both, which would share the '
            f'images of {path}; give --n-test a number'
        )
    half = min(DEFAULT_IMAGES, n // 2)
    n_train, n_test = (half if wish is None else wish for wish in (n_train, n_test))
    n_train = n - n_test if n_train == 'all' else n_train
    n_test = n - n_train if n_test == 'all' else n_test
    if min(n_train, n_test) < 1 or n_train + n_test > n:
        raise UserError(
            f'expected at most {n} images for training and test together, all that {path} has, and one of '
            f'each at least, got {n_train} and {n_test}; ask for fewer'
        )
    return n_train, n_test
