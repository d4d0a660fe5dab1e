"""Data sets: names, classes, where they are looked for, and the rules that the images of each must follow.

The readers of the files are in training/sources.py and training/sources_arrays.py.
"""

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from training.binarise import toss_coins
from training.errors import UserError
from training.missing import SimulatedMask
from training.randomness import BINARISE, noise_key
from training.sources import (
    IDX,
    IMAGENETTE,
    Unavailable,
    download,
    find_idx,
    read_csv,
    read_digits,
    read_idx,
    read_imagenette,
    reason,
    take,
)
from training.sources_arrays import read_arrays, split_counts
from training.sources_pictures import find_pictures, read_pictures

# Names of the classes. 'digits' comes from scikit-learn; 'npy' is any images in a file of NumPy's, .npy or
# .npz, that --data-path names, 'pictures' the picture files in a folder; labels or folders in them make
# classes of their own.
DATASETS = {
    'fashion-mnist': 'T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot'.split(','),
    'mnist': list('0123456789'),
    'imagenette': [
        *('tench', 'springer', 'cassette player', 'chain saw', 'church', 'French horn'),
        *('garbage truck', 'gas pump', 'golf ball', 'parachute'),
    ],
    'digits': list('0123456789'),
    'npy': ['unlabelled'],
    'pictures': ['unlabelled'],
}
DEFAULT_DATASET = 'fashion-mnist'


def as_bytes(X: torch.Tensor) -> torch.Tensor:
    """Images of whole numbers as uint8, which read faster; others as they are."""
    return X if X.frac().any() else X.to(torch.uint8)


class ImageDataset(torch.utils.data.Dataset):
    """Images X [N, 28, 28] (in colour [N, 3, H, W]), float32 in 0-255, and labels y [N], int64. Item i is (i,
    X[i]), 0 where the value of a pixel is not known.

    name: in DATASETS. source: where the images come from, for the record. mapped: X is a tensor in a file,
    and stays one; only what is used comes into memory. observed: a mask of X, see training/missing.py; None:
    nothing is missing. known: X has the true values of the missing pixels too, because they were hidden to
    study what a model makes of the others. Only grades and pictures look at them. Where they are not known, X
    has 0 or NaN there. classes: names; None: those of DATASETS. grey: what the coins of a training step are
    tossed by, see training/binarise.py, in the shape of X; None: training sees X.
    """

    def __init__(
        self,
        X,
        y,
        name: str,
        source: str = '',
        mapped: bool = False,
        observed=None,
        known: bool = True,
        classes: list[str] | None = None,
        grey=None,
    ):
        self.X = X if mapped else torch.as_tensor(X, dtype=torch.float32)
        self.y = torch.as_tensor(y, dtype=torch.int64)
        self.name, self.source, self.mapped = name, source, mapped
        self.observed, self.known = observed, known
        self.classes, self.grey = classes or DATASETS[name], grey

    @property
    def labelled(self) -> bool:
        return len(self.classes) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return tuple(self.X.shape[1:])

    def part(self, which: slice) -> 'ImageDataset':
        """The images in a slice, as a data set."""
        observed = None if self.observed is None else self.observed[which]
        grey = None if self.grey is None else self.grey[which]
        place = self.name, self.source, self.mapped
        return ImageDataset(self.X[which], self.y[which], *place, observed, self.known, self.classes, grey)

    def complete(self) -> 'ImageDataset':
        """The images with what is under their missing pixels, which must be known: for grades."""
        return ImageDataset(self.X, self.y, self.name, self.source, self.mapped, classes=self.classes)

    def hide_pixels(self, kind: str, rate: float, seed: int, part: int) -> 'ImageDataset':
        """The same images, of which a share `rate` of the pixels counts as missing; see SimulatedMask."""
        observed = SimulatedMask(range(len(self)), self.shape, kind, rate, seed, part)
        place = self.name, self.source, self.mapped
        return ImageDataset(self.X, self.y, *place, observed, classes=self.classes, grey=self.grey)

    def binarised(self, part: int, dynamic: bool = False) -> 'ImageDataset':
        """The same images in black and white, see training/binarise.py. part: 0 for training images, 1 for
        test images. dynamic: training tosses the coins again."""
        binary = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        for index in torch.arange(len(self)).split(1000):  # random numbers take many times an image's memory
            coins = toss_coins(self.X[index].float() / 255, index, seed=noise_key(0, BINARISE), step=part)
            binary[index] = 255 * coins.to(torch.uint8)
        grey = (self.X if self.mapped else as_bytes(self.X)) if dynamic else None
        rest = self.observed, self.known, self.classes, grey
        return ImageDataset(binary, self.y, self.name, self.source, False, *rest)

    def missing_share(self) -> float | None:
        """The share of pixels that is missing, of at most 1,000 images; None: the images have no mask."""
        if self.observed is None:
            return None
        return round(1 - float(self.observed[torch.arange(min(len(self), 1000))].float().mean()), 2)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, i):
        x = self.X[i].float()
        return i, x if self.known else torch.where(self.observed[i], x, 0.0)

    def checksum(self) -> int:
        """CRC-32 of the images, and of their mask unless it is simulated: tells whether two data sets are the
        same."""
        crc = 0
        for start in range(0, len(self), 10_000):
            part = self.part(slice(start, start + 10_000))
            x = part.X
            if not self.known:
                observed = part.observed[torch.arange(len(part))]
                x = torch.where(observed, x, 0)
                crc = zlib.crc32(observed.contiguous().numpy(), crc)
            whole = x.to(torch.uint8)  # bytes if they suffice: the type of the file does not count
            x = whole if torch.equal(whole.to(x.dtype), x) else x.float()
            crc = zlib.crc32(x.contiguous().numpy(), crc)
        return crc


def default_data_path() -> str:
    return os.environ.get('DATA_PATH') or 'dataset'


def read_folder(name: str, root: Path, n_train: int | str | None, n_test: int | str | None) -> tuple | None:
    """Training and test (X, y) of a data set in a folder: CSV, else idx or Imagenette; None: it has none."""
    files = [root / f'{name}_{part}.csv' for part in ('train', 'test')]
    if any(map(os.path.lexists, files)):  # also a link to a file that is gone: an error when it is read
        return read_csv(files[0], n_train), read_csv(files[1], n_test)
    if name in IDX:
        paths = find_idx(name, root)
        if not paths:
            return None
        X_train, y_train, X_test, y_test = (read_idx(path, dims) for path, dims in zip(paths, (3, 1, 3, 1)))
        return (X_train, y_train), (X_test, y_test)
    if not os.path.lexists(root / IMAGENETTE):
        return None
    return read_imagenette(root, 'train', n_train), read_imagenette(root, 'val', n_test)


def holds_files(folder: Path) -> bool:
    """Whether a folder has files in it that are not hidden; a killed download leaves hidden ones.

    OSError: it, or a folder in it, cannot be read.
    """

    def fail(error):  # else os.walk takes such a folder for an empty one
        raise error

    for _, folders, files in os.walk(folder, onerror=fail) if folder.exists() else ():
        folders[:] = [name for name in folders if name[0] != '.']  # os.walk goes into these alone
        if any(name[0] != '.' for name in files):
            return True
    return False


def find_images(
    root: Path, dataset: str | None, n_train: int | str | None, n_test: int | str | None
) -> tuple[str, str, tuple, tuple]:
    """Name and source of the data set, and its training and test (X, y): n_train and n_test of them, or more.

    See load_images.
    """
    if dataset == 'digits':
        return 'digits', 'scikit-learn digits', *read_digits()
    if root.exists() and not root.is_dir() or root.suffix == '.csv':
        raise UserError(
            f'expected a folder of data or a .npy or .npz file of images as --data-path, got {root}; name '
            f'the folder that holds the files, or write images with numpy.save'
        )
    name = dataset or DEFAULT_DATASET
    parts = read_folder(name, root, n_train, n_test)
    if parts is None:
        try:
            download(name, root)
            parts = read_folder(name, root, n_train, n_test)
        except Unavailable as error:
            files = f"as {name}_train.csv and {name}_test.csv or as torchvision's files"
            failed = f'downloading it failed ({error})'
            if dataset or holds_files(root):
                raise UserError(
                    f'expected {name} in {root} {files}, got neither, and {failed}; '
                    f'name the folder with --data-path'
                ) from None
            print(
                f"warning: no {name} in {root}, and {failed}: using scikit-learn's bundled digits instead; "
                f'name a folder that has it with --data-path',
                file=sys.stderr,
            )
            return 'digits', 'scikit-learn digits (fallback)', *read_digits()
    return name, str(root), *parts


def check_images(name: str, source: str, train: tuple, test: tuple):
    """The rules for the training and test (X, y) of every source. UserError: one is broken."""
    highest = len(DATASETS[name]) - 1
    for part, (X, y) in (('training', train), ('test', test)):
        images = f'{part} images of {name} in {source}'
        if len(X) != len(y):
            raise UserError(
                f'expected a label for each of the {len(X)} {images}, got {len(y)} labels; put images and '
                f'labels together that belong together'
            )
        if 0 in X.shape:
            raise UserError(
                f'expected one image or more, each of one pixel or more, as {images}, got '
                f'{list(X.shape)}; add images'
            )
        y = np.asarray(y)
        wrong = np.flatnonzero((y < 0) | (y > highest))
        if len(wrong):
            raise UserError(
                f'expected labels in 0-{highest} for the {images}, got {y[wrong[0]]} for image '
                f'{wrong[0] + 1}; correct the labels, or name the right data set with --dataset'
            )
    shapes = [' x '.join(map(str, X.shape[1:])) for X, _ in (train, test)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f'expected training and test images of one shape for {name} in {source}, got {shapes[0]} for '
            f'training and {shapes[1]} for testing; put files together that belong together'
        )


def load_file(path: Path) -> ImageDataset:
    """All images of a .npy or an .npz file, see read_npy and read_npz; labels make classes '0', '1', ...

    UserError: there is no such file, or it is broken. An OSError (no permission) passes through.
    """
    X, y, observed = read_arrays(path)
    place = 'npy', str(path), path.suffix == '.npy'
    classes = [str(label) for label in range(int(y.max()) + 1)] if y.any() else None
    return ImageDataset(X, y, *place, observed, known=observed is None, classes=classes)


def split(
    images: ImageDataset, n_train: int | str | None, n_test: int | str | None, root: Path
) -> tuple[ImageDataset, ImageDataset]:
    """The first images for training, and the last ones for testing, see split_counts."""
    n_train, n_test = split_counts(len(images), n_train, n_test, root)
    return images.part(slice(n_train)), images.part(slice(len(images) - n_test, None))


def load_pictures(
    root: Path, size: tuple[int, int] | None = None, channels: int | None = None, shuffled: bool = False
) -> ImageDataset:
    """All pictures of a folder, see read_pictures. shuffled: in a random order, always the same; by name the
    first class would come first."""
    X, y, observed, classes = read_pictures(root, size, channels)
    if shuffled:
        order = np.random.default_rng(0).permutation(len(X))
        X, y, observed = X[order], y[order], None if observed is None else observed[order]
    classes = classes if classes and len(classes) > 1 else None
    return ImageDataset(
        X, y, 'pictures', str(root), observed=observed, known=observed is None, classes=classes
    )


def is_folder_of_pictures(root: Path, dataset: str | None) -> bool:
    """Whether --data-path names one: --dataset says so, or nothing else is in it."""
    if dataset is not None:
        return dataset == 'pictures'
    others = DEFAULT_DATASET, root, None, None
    return root.is_dir() and bool(find_pictures(root)) and read_folder(*others) is None


def load_images(
    data_path: str | Path | None,
    dataset: str | None = None,
    n_train: int | str | None = None,
    n_test: int | str | None = None,
    image_size: int | None = None,
) -> tuple[ImageDataset, ImageDataset]:
    """Training and test images.

    data_path: a folder, or a file of images, .npy or .npz, whose first images are for training and whose last
        for testing (see load_file and split_counts); None: the environment variable DATA_PATH, or the folder
        dataset. A folder without the data set gets it by a download, unless it has pictures (load_pictures).
    dataset: a name in DATASETS, never replaced; None: fashion-mnist, or digits if that cannot be had and the
        folder is empty or absent.
    n_train, n_test: how many images; None: 1,000 or what there is; 'all'.
    image_size: height and width that pictures are scaled and cut to; None: they are as they are.
    UserError: there are no such data, or they are broken.
    """
    root = Path(data_path or default_data_path())
    try:
        try:
            root.stat()
        except FileNotFoundError:  # fine, unless a link leads there
            if root.is_symlink():
                raise
        is_file = root.suffix in ('.npy', '.npz')
        if dataset != 'digits' and (is_file or dataset == 'npy'):
            if not is_file or dataset not in (None, 'npy'):
                raise UserError(
                    f'expected --dataset npy with a .npy or .npz file as --data-path, got {dataset} with '
                    f'{root}; leave one of them out'
                )
            return split(load_file(root), n_train, n_test, root)
        if is_folder_of_pictures(root, dataset):
            size = (image_size, image_size) if image_size else None
            return split(load_pictures(root, size, shuffled=True), n_train, n_test, root)
        name, source, train, test = find_images(root, dataset, n_train, n_test)
    except OSError as error:
        path, got = error.filename or root, error.strerror or reason(error)
        if os.path.islink(path) and not os.path.exists(path):
            got = f'a symbolic link to {os.readlink(path)}, which is not there'
        raise UserError(
            f'expected data that can be read in {path}, got: {got}; mend that, or name other data with '
            f'--data-path'
        ) from None
    check_images(name, source, train, test)
    n_train = take(n_train, len(train[0]), f'{name} (train)')
    n_test = take(n_test, len(test[0]), f'{name} (test)')
    return (
        ImageDataset(train[0][:n_train], train[1][:n_train], name, source),
        ImageDataset(test[0][:n_test], test[1][:n_test], name, source),
    )
