"""Where data sets come from: one reader for each kind of file, and the download of those that are not there.

A reader gives images X and labels y; `data.load_images` checks these by the same rules whatever their
source. What is wrong inside a file is a UserError; an OSError (no permission, a folder in a file's place)
passes through. The readers of users' own images are in training/sources_arrays.py.
"""

import contextlib
import gzip
import io
import math
import os
import re
import socket
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.errors import UserError

DEFAULT_IMAGES = 1000  # as in the course: the first 1,000 of each set
# Data sets in MNIST's four files. A name here is torchvision's class, and the folder that it keeps them in.
IDX = {'fashion-mnist': 'FashionMNIST', 'mnist': 'MNIST'}
IMAGENETTE = 'imagenette2-160'  # torchvision's folder


class Unavailable(Exception):
    """A data set cannot be downloaded; the message says why."""


def reason(error: Exception) -> str:
    """The text of an error of another library, in one line and without the system's number for it."""
    return re.sub(r'\[Errno -?\d+\] ', '', ' '.join(str(error).split())) or type(error).__name__


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


# ------------------------------------------------------------------------------------- the course's CSV


def parse_csv(
    source: Path | list[str], dtype: type, skip: int = 0, n: int | None = None
) -> np.ndarray | None:
    """The first n rows of a CSV file or of lines of one, int32 [n, 785]; None: one of them is not a label in
    0-9 and 784 pixels in 0-255. dtype: float64 also takes 2.0 for 2, and is slower."""
    # latin-1 decodes every byte; those that belong to no number are found as such.
    options = dict(delimiter=',', quotechar='"', comments=None, encoding='latin-1', ndmin=2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a file without rows
        try:
            table = np.loadtxt(source, dtype, skiprows=skip, max_rows=n, **options)
        except ValueError:
            return None
    if not len(table) or table.shape[1] != 785 or table[:, 0].max() > 9:
        return None
    if not (table.min() >= 0 and table.max() <= 255):  # nor are comparisons with nan true
        return None
    whole = table.astype(np.int32, copy=False)
    return whole if np.array_equal(table, whole) else None


def explain_csv(path: Path, lines: list[tuple[int, str]]) -> UserError:
    """What is wrong with lines of a CSV file, with their numbers, that parse_csv does not take."""
    if not lines:
        return UserError(f'expected images in {path}, got a header and nothing below it; add rows of images')
    for number, text in lines:
        if parse_csv([text], np.float64) is not None:
            continue
        cells = text.strip().split(',')
        if len(cells) != 785:
            return UserError(
                f'expected 785 columns in line {number} of {path}, got {len(cells)}; complete or remove '
                f'that line'
            )
        for i, cell in enumerate(cells):
            alone = ['0'] * 785
            alone[i] = cell
            if parse_csv([','.join(alone)], np.float64) is None:
                what = 'pixels in 0-255' if i else 'labels in 0-9'
                return UserError(
                    f'expected {what}, whole numbers, in {path}, got {cell.strip()[:20]!r} in line {number}, '
                    f'column {i + 1}; correct or remove that line'
                )
    return UserError(f'expected quotation marks in pairs in each line of {path}, got one alone; remove it')


def read_csv(path: Path, n: int | str | None) -> tuple[np.ndarray, np.ndarray]:
    """The first n rows (None: 1,000; 'all') of one of the course's CSV files: X [n, 28, 28], y [n]."""
    if not os.path.lexists(path):
        raise UserError(
            f'expected the file {path} beside its other half, got no such file; add it, or remove the '
            f'other to use another source'
        )
    text = dict(encoding='utf-8-sig', errors='replace')  # sig: without the mark that Excel puts first
    with open(path, **text) as file:
        columns = [name.strip('"') for name in file.readline().strip().split(',')]
    if len(columns) != 785 or columns[0] != 'label':
        raise UserError(
            f'expected the header of {path} to be label,pixel1,...,pixel784 (785 columns), got '
            f'{len(columns)} columns starting with {columns[0][:20]!r}; put such a file there, saved as '
            f'UTF-8 text'
        )
    n = {'all': None, None: DEFAULT_IMAGES}.get(n, n)
    table = parse_csv(path, np.int32, 1, n)
    if table is None:  # perhaps lines of spaces, or 2.0 for 2
        with open(path, **text) as file:
            lines = [(number, row) for number, row in enumerate(file, 1) if number > 1 and row.strip()][:n]
        table = parse_csv([row for _, row in lines], np.float64)
        if table is None:
            raise explain_csv(path, lines)
    return table[:, 1:].reshape(-1, 28, 28), table[:, 0]


# --------------------------------------------------------------------------------------- MNIST's idx files


def find_idx(name: str, root: Path) -> list[Path] | None:
    """The images and labels for training, then those for testing, in torchvision's folder or straight in
    root, gzipped (.gz) or not. None: there are none. UserError: some are missing."""
    files = [f'{part}-{kind}-ubyte' for part in ('train', 't10k') for kind in ('images-idx3', 'labels-idx1')]
    for folder in (root / IDX[name] / 'raw', root):
        paths = {
            file: [p for p in (folder / file, folder / f'{file}.gz') if os.path.lexists(p)] for file in files
        }
        missing = [file for file in files if not paths[file]]
        if not missing:
            return [paths[file][0] for file in files]
        if len(missing) < len(files):
            raise UserError(
                f'expected the four files of {name} in {folder}, got no {" and no ".join(missing)}, with '
                f'.gz or without; add what is missing, or remove the others to use another source'
            )
    return None


def read_idx(path: Path, dims: int) -> np.ndarray:
    """An idx file of bytes, gzipped or not: uint8, its sizes as in the file's header. dims: how many.

    The format is two bytes 0, the type (8: bytes), the number of dimensions, their sizes as four bytes each
    with the highest first, and then the data.
    """
    data = path.read_bytes()
    if data[:2] == b'\x1f\x8b':  # gzip's mark
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(
                f'expected a whole gzip file in {path}, got: {reason(error)}; fetch the file again'
            ) from None
    expected = bytes([0, 0, 8, dims])
    if data[:4] != expected:
        raise UserError(
            f'expected an idx file of bytes with {dims} dimensions in {path}, which begins with '
            f'{expected.hex(" ")}, got {data[:4].hex(" ") or "an empty file"}; put the right file there'
        )
    start = 4 + 4 * dims
    sizes = [int.from_bytes(data[i : i + 4], 'big') for i in range(4, start, 4)]
    if len(data) != start + math.prod(sizes):
        raise UserError(
            f'expected {start + math.prod(sizes)} bytes in {path}, whose header says '
            f'{" x ".join(map(str, sizes))}, got {len(data)}; fetch the file again'
        )
    return np.frombuffer(bytearray(data), np.uint8, offset=start).reshape(sizes)  # a copy: PyTorch may write


# ------------------------------------------------------------------------------------------ Imagenette


def open_picture(path: str):
    """A picture by PIL. UserError: it is none."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert('RGB')
    except Exception as error:  # a damaged picture can raise many types
        raise UserError(
            f'expected a picture in {path}, got: {reason(error)}; put the right one there, or delete '
            f'{IMAGENETTE} to have it downloaded again'
        ) from None


def read_imagenette(root: Path, part: str, n: int | str | None) -> tuple[np.ndarray, np.ndarray]:
    """The first n images (None: 1,000; 'all') of a part, train or val: X [n, 3, 64, 64], from the middle of
    the pictures, y [n]. Their order mixes the classes, by which the files are sorted."""
    import torchvision  # here: it takes a second to import, and no other source needs it

    resize, crop = torchvision.transforms.Resize(64), torchvision.transforms.CenterCrop(64)
    transform = torchvision.transforms.Compose([resize, crop, torchvision.transforms.PILToTensor()])
    try:
        dataset = torchvision.datasets.Imagenette(
            root, part, '160px', transform=transform, loader=open_picture
        )
        got = f'{len(dataset.classes)} of them'
    except (KeyError, OSError) as error:  # another folder, none, or an empty one
        got = reason(error)
    if got != '10 of them':
        raise UserError(
            f"expected the folders of Imagenette's 10 classes in {root / IMAGENETTE / part}, got {got}; "
            f'delete {IMAGENETTE} to have it downloaded again'
        )
    n = take(n, len(dataset), f'imagenette ({"train" if part == "train" else "test"})')
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:n].tolist()
    images, labels = zip(*(dataset[i] for i in order))
    return torch.stack(images).numpy(), np.array(labels)


# ----------------------------------------------------------------------------------------- digits


def read_digits() -> tuple[tuple, tuple]:
    """scikit-learn's 1,797 digits, 8 x 8 in 0-16, resized to 28 x 28 in 0-255: training and test (X, y)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    X = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)
    X = F.interpolate(X, size=(28, 28), mode='bilinear', align_corners=False)[:, 0].round()
    return (X[:1000], digits.target[:1000]), (X[1000:], digits.target[1000:])


# ------------------------------------------------------------------------------------------- a download


def download(name: str, root: Path):
    """A data set from torchvision's servers, put into root; a terminal shows progress.

    Unavailable: that failed, and root is as it was.
    """
    import torchvision

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds: a network that does not answer must not stop the program for ever
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    try:
        # Into a folder of its own first, on the disk of root: what is not whole never comes into root.
        with quiet, tempfile.TemporaryDirectory(prefix='.download-', dir=existing) as folder:
            if name in IDX:
                getattr(torchvision.datasets, IDX[name])(folder, download=True)
            else:
                torchvision.datasets.Imagenette(folder, size='160px', download=True)
            for path in [path for path in Path(folder).rglob('*') if path.is_file()]:
                target = root / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
    except Exception as error:  # a download can raise many types
        raise Unavailable(reason(error)) from None
    finally:
        socket.setdefaulttimeout(timeout)
