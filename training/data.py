"""Data sets: where images come from, and what is wrong with those that cannot be read."""

import contextlib
import io
import os
import socket
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.errors import UserError

# Names of the classes. To add a data set of torchvision's, enter it here and in TORCHVISION. 'digits' comes
# from scikit-learn; 'npy' is any images in a file of NumPy's that --data-path names.
DATASETS = {
    'fashion-mnist': 'T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot'.split(','),
    'mnist': list('0123456789'),
    'imagenette': [
        *('tench', 'springer', 'cassette player', 'chain saw', 'church', 'French horn'),
        *('garbage truck', 'gas pump', 'golf ball', 'parachute'),
    ],
    'digits': list('0123456789'),
    'npy': ['unlabelled'],
}
TORCHVISION = {'fashion-mnist': 'FashionMNIST', 'mnist': 'MNIST', 'imagenette': 'Imagenette'}  # its classes
DEFAULT_DATASET = 'fashion-mnist'
DEFAULT_IMAGES = 1000  # as in the course: the first 1,000 of each set


class ImageDataset(torch.utils.data.Dataset):
    """Images X [N, 28, 28] (in colour [N, 3, H, W]), float32 in 0-255, and labels y [N], int64. Item i is (i,
    X[i]).

    name: in DATASETS. source: where the images come from, for the record. mapped: X is a uint8 tensor in a
    file, and stays one; only what is used comes into memory.
    """

    def __init__(self, X, y, name: str, source: str = '', mapped: bool = False):
        self.X = X if mapped else torch.as_tensor(X, dtype=torch.float32)
        self.y = torch.as_tensor(y, dtype=torch.int64)
        self.name, self.source, self.mapped = name, source, mapped
        self.classes = DATASETS[name]

    @property
    def labelled(self) -> bool:
        return len(self.classes) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return tuple(self.X.shape[1:])

    def part(self, which: slice) -> 'ImageDataset':
        """The images in a slice, as a data set."""
        return ImageDataset(self.X[which], self.y[which], self.name, self.source, self.mapped)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, i):
        return i, self.X[i].float()

    def checksum(self) -> int:
        """CRC-32 of the images: tells whether two data sets are the same."""
        crc = 0
        for part in self.X.split(10_000):
            crc = zlib.crc32(part.to(torch.uint8).contiguous().numpy(), crc)
        return crc


def take(n: int | str | None, available: int, what: str) -> int:
    """How many of `available` images to use for a wish n: None (the course's 1,000), 'all', or a number."""
    if n is None:
        return min(DEFAULT_IMAGES, available)
    if n == 'all':
        return available
    if n > available:
        raise UserError(
            f'expected at most {available} images, all that {what} has, got {n}; ask for fewer, or for "all"'
        )
    return n


def read_csv(path: Path, n: int | str | None):
    """The first n rows (None: 1,000; 'all') of one of the course's CSV files: X [n, 28, 28], y [n]."""
    if not path.exists():
        raise UserError(
            f'expected the file {path} beside its other half, got no such file; add it, or remove the '
            f'other to use another source'
        )
    with open(path, encoding='utf-8', errors='replace') as file:
        columns = file.readline().strip().split(',')
    if len(columns) != 785 or columns[0].strip('"') != 'label':
        raise UserError(
            f'expected the header of {path} to be label,pixel1,...,pixel784 (785 columns), got '
            f'{len(columns)} columns starting with {columns[0][:20]!r}; is this the right file?'
        )
    limit = {'all': None, None: DEFAULT_IMAGES}.get(n, n)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of an empty file, an error below
            table = np.loadtxt(path, dtype=np.int32, delimiter=',', skiprows=1, max_rows=limit, ndmin=2)
    except ValueError as error:
        reason = str(error).split(';')[0]
        raise UserError(
            f'expected 785 whole numbers in every row of {path}, got: {reason}; the file is malformed or '
            f'truncated, fetch it again'
        ) from None
    if not len(table):
        raise UserError(f'expected images in {path}, got a header and nothing below it; fetch the file again')
    y, X = table[:, 0], table[:, 1:]
    if X.min() < 0 or X.max() > 255:
        row = int(np.argwhere((X < 0) | (X > 255))[0, 0])
        raise UserError(
            f'expected pixels in 0-255 in {path}, got {X.min()} to {X.max()} (first in row {row + 1}); '
            f'scale them, or fetch the file again'
        )
    if y.min() < 0 or y.max() > 9:
        raise UserError(f'expected labels in 0-9 in {path}, got {y.min()} to {y.max()}; fetch the file again')
    return X.reshape(-1, 28, 28), y


def read_npy(path: Path, n_train, n_test) -> tuple[ImageDataset, ImageDataset]:
    """Images in a file of NumPy's, uint8 [N, H, W] or [N, H, W, C] with C 1 or 3, mapped: training and test
    ImageDataset.

    n_train, n_test: None: 1,000, or half of the images if they are fewer than 2,000; 'all': what the other
    leaves. Training images are the file's first, test images its last. UserError: not such a file, or fewer
    images.
    """
    try:
        # c, copy on write: PyTorch wants writable memory. What is written stays in memory, and nothing is.
        array = np.lib.format.open_memmap(path, 'c')
    except FileNotFoundError:
        raise UserError(
            f'expected images in {path}, got no such file; name the folder or the .npy file with --data-path'
        ) from None
    except ValueError as error:
        raise UserError(
            f'cannot read {path} as an array: {str(error).splitlines()[0]}; write it with numpy.save'
        ) from None
    image_axes = array.ndim == 3 or array.ndim == 4 and array.shape[3] in (1, 3)
    if array.dtype != np.uint8 or not image_axes or 0 in array.shape[1:]:
        raise UserError(
            f'expected uint8 images [N, H, W], [N, H, W, 1] or [N, H, W, 3] in {path}, got {array.dtype} '
            f'{list(array.shape)}; convert them with numpy'
        )
    if len(array) < 2:
        raise UserError(
            f'expected two images or more in {path}, one to train on and one to test with, got {len(array)}'
        )
    if n_train == n_test == 'all':
        raise UserError(
            f'expected a number of training or of test images, got "all" for both, which would share the '
            f'images of {path}; give --n-test a number'
        )
    half = min(DEFAULT_IMAGES, len(array) // 2)
    n_train, n_test = (half if n is None else n for n in (n_train, n_test))
    n_train = len(array) - n_test if n_train == 'all' else n_train
    n_test = len(array) - n_train if n_test == 'all' else n_test
    if min(n_train, n_test) < 1 or n_train + n_test > len(array):
        raise UserError(
            f'expected at most {len(array)} images for training and test together, all that {path} has, and '
            f'one of each at least, got {n_train} and {n_test}; ask for fewer'
        )
    X = torch.from_numpy(array)
    X = X.movedim(3, 1) if X.dim() == 4 else X  # [N, C, H, W]: a view
    X = X.squeeze(1) if X.dim() == 4 and X.shape[1] == 1 else X
    whole = ImageDataset(X, torch.zeros(len(X), dtype=torch.int64), 'npy', str(path), mapped=True)
    return whole.part(slice(n_train)), whole.part(slice(len(X) - n_test, None))


class Unavailable(Exception):
    """A data set is not on disk and cannot be downloaded; the message says why."""


def open_torchvision(name: str, root: Path, train: bool, download: bool):
    """torchvision's data set; of Imagenette images of 64 x 64 pixels, from the middle."""
    import torchvision  # here: it takes a second to import, and the course's files do not need it

    if name == 'imagenette':
        resize, crop = torchvision.transforms.Resize(64), torchvision.transforms.CenterCrop(64)
        transform = torchvision.transforms.Compose([resize, crop, torchvision.transforms.PILToTensor()])
        part = 'train' if train else 'val'
        return torchvision.datasets.Imagenette(root, part, '160px', download=download, transform=transform)
    return getattr(torchvision.datasets, TORCHVISION[name])(root, train=train, download=download)


def read_torchvision(name: str, root: Path, train: bool, n: int | str | None):
    """The first n images (None: 1,000; 'all') of torchvision's set under root, downloaded if they are not
    there: X [n, 28, 28] or [n, 3, 64, 64], y [n].

    Unavailable: they are not on disk and cannot be downloaded. UserError: they are broken, or fewer than n.
    """
    try:
        try:
            dataset = open_torchvision(name, root, train, download=False)
        except Exception as error:
            if 'not found' not in str(error):
                raise
            dataset = download(name, root, train)
        n = take(n, len(dataset), f'{name} ({"train" if train else "test"})')
        if name == 'imagenette':  # its files are sorted by class: an order that mixes the classes
            order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:n].tolist()
            images, labels = zip(*(dataset[i] for i in order))
            return torch.stack(images).numpy(), np.array(labels)
        return dataset.data[:n].numpy(), dataset.targets[:n].numpy()
    except (Unavailable, UserError):
        raise
    except Exception as error:  # a broken file can raise many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f'cannot read {name} under {root}: {reason}; the files are truncated or malformed, delete them '
            f'to fetch them again'
        ) from None


def download(name: str, root: Path, train: bool):
    """torchvision's data set, downloaded into root; a terminal shows progress. Unavailable: it failed."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds: a network that does not answer must not stop the program for ever
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet:
            return open_torchvision(name, root, train, download=True)
    except Exception as error:  # a download can raise many types too
        raise Unavailable(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    finally:
        socket.setdefaulttimeout(timeout)


def read_digits():
    """scikit-learn's 1,797 digits, 8 x 8 in 0-16, resized to 28 x 28 in 0-255: training and test (X, y)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    X = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)
    X = F.interpolate(X, size=(28, 28), mode='bilinear', align_corners=False)[:, 0].round()
    return (X[:1000], digits.target[:1000]), (X[1000:], digits.target[1000:])


def default_data_path() -> str:
    return os.environ.get('DATA_PATH') or 'dataset'


def load_images(
    data_path: str | Path | None,
    dataset: str | None = None,
    n_train: int | str | None = None,
    n_test: int | str | None = None,
) -> tuple[ImageDataset, ImageDataset]:
    """Training and test images.

    data_path: a folder, or a .npy file of images (see read_npy); None: the environment variable DATA_PATH, or
        the folder dataset.
    dataset: a name in DATASETS, never replaced; None: fashion-mnist, or digits if that cannot be had.
    n_train, n_test: how many images; None: 1,000 or what there is; 'all'.
    UserError: there are no such data, or they are broken.
    """
    root = Path(data_path or default_data_path())
    if root.suffix == '.npy' or dataset == 'npy':
        if root.suffix != '.npy' or dataset not in (None, 'npy'):
            raise UserError(
                f'expected --dataset npy with a .npy file as --data-path, got {dataset} with {root}; '
                f'leave one of them out'
            )
        return read_npy(root, n_train, n_test)
    name, source = dataset or DEFAULT_DATASET, str(root)
    files = [root / f'{name}_{part}.csv' for part in ('train', 'test')]
    if name == 'digits':
        (train, test), source = read_digits(), 'scikit-learn digits'
    elif any(file.exists() for file in files):
        train, test = read_csv(files[0], n_train), read_csv(files[1], n_test)
    else:
        try:
            train = read_torchvision(name, root, True, n_train)
            test = read_torchvision(name, root, False, n_test)
        except Unavailable as error:
            failed = f'downloading it failed ({error})'
            if dataset:
                raise UserError(
                    f"expected {name} in {root} as {files[0].name} and {files[1].name} or as torchvision's "
                    'files, '
                    f'got neither, and {failed}; name the folder with --data-path'
                ) from None
            print(
                f"warning: no {name} in {root}, and {failed}: using scikit-learn's bundled digits instead; "
                f'name a folder that has it with --data-path',
                file=sys.stderr,
            )
            name, (train, test), source = 'digits', read_digits(), 'scikit-learn digits (fallback)'
    n_train, n_test = (
        take(n_train, len(train[0]), f'{name} (train)'),
        take(n_test, len(test[0]), f'{name} (test)'),
    )
    return (
        ImageDataset(train[0][:n_train], train[1][:n_train], name, source),
        ImageDataset(test[0][:n_test], test[1][:n_test], name, source),
    )
