"""Users' own images as picture files in a folder, flat or in one folder for each class."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from training.errors import UserError

SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.gif', '.webp', '.tif', '.tiff'}
GREY = '1', 'L', 'LA', 'I', 'I;16', 'I;16B', 'I;16L', 'F'  # PIL's modes of pictures without colour


def find_pictures(root: Path) -> list[Path]:
    """The picture files in a folder, by name; if there are none, those in the folders in it, one a class."""
    for pattern in ('*', '*/*'):
        found = [path for path in root.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file()]
        found = [path for path in found if not any(part[0] == '.' for part in path.relative_to(root).parts)]
        if found:
            return sorted(found)
    return []


def read_picture(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """A picture as uint8 [H, W, 2] (grey and opacity) or [H, W, 4] (red, green, blue and opacity).

    size: height and width that it is scaled to, and cut to at its longer side; None: as it is. Any exception
    of PIL's: it is broken.
    """
    with Image.open(path) as picture:
        picture = ImageOps.exif_transpose(picture)  # as the camera was held
        if picture.mode[0] == 'I':  # 16 bits
            picture = Image.fromarray((np.asarray(picture) // 256).clip(0, 255).astype(np.uint8))
        picture = picture.convert('LA' if picture.mode in GREY else 'RGBA')
        if size:
            picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
        return np.asarray(picture)


def describe(array: np.ndarray) -> str:
    return f'{array.shape[0]} x {array.shape[1]}'


def read_pictures(
    root: Path, size: tuple[int, int] | None = None, channels: int | None = None
) -> tuple[Tensor, np.ndarray, Tensor | None, list[str] | None]:
    """All pictures of a folder: X uint8 [N, H, W], or [N, 3, H, W] if one is in colour; labels int64 [N];
    which pixels are observed, bool of the same shape, where a pixel that is more than half transparent is
    missing (None: all are); and the names of the classes (None: the folder is flat).

    size: see read_picture. channels: 1 or 3, whatever the pictures have; None: as above. A broken picture is
    named on standard error, and left out. UserError: there are no pictures, all are broken, or they differ in
    size.
    """
    paths = find_pictures(root)
    arrays, kept = [], []
    for path in tqdm(paths, desc='pictures', disable=None, leave=False, delay=2):
        try:
            arrays.append(read_picture(path, size))
            kept.append(path)
        except Exception as error:  # PIL raises many types
            reason = ' '.join(str(error).split()) or type(error).__name__
            print(f'warning: cannot read the picture {path}: {reason}; left out', file=sys.stderr)
    if not kept:
        got = f'{len(paths)} that cannot be read' if paths else 'none'
        raise UserError(
            f'expected pictures ({", ".join(sorted(SUFFIXES))}) in {root}, or in one folder for each class '
            f'in it, got {got}; name a folder that has some'
        )
    other = next((i for i, array in enumerate(arrays) if array.shape[:2] != arrays[0].shape[:2]), None)
    if other is not None:
        raise UserError(
            f'expected pictures of one size in {root}, got {describe(arrays[0])} pixels in {kept[0].name} '
            f'and {describe(arrays[other])} in {kept[other].name}; scale them all with --image-size'
        )
    colour = channels == 3 if channels else any(array.shape[2] == 4 for array in arrays)
    X = torch.stack([to_channels(array, colour) for array in arrays])  # [N, H, W] or [N, 3, H, W]
    opaque = torch.stack([torch.from_numpy(array[..., -1] >= 128) for array in arrays])  # [N, H, W]
    observed = None
    if not opaque.all():
        observed = opaque[:, None].expand_as(X).clone() if colour else opaque
        X = torch.where(observed, X, 0)
    if kept[0].parent == root:
        return X, np.zeros(len(X), np.int64), observed, None
    classes = sorted({path.parent.name for path in kept})
    labels = np.array([classes.index(path.parent.name) for path in kept])
    return X, labels, observed, classes


def to_channels(array: np.ndarray, colour: bool) -> Tensor:
    """What read_picture gave, without opacity: [3, H, W] if colour, else [H, W]."""
    values = array[..., :-1]  # [H, W, 1 or 3]
    if colour:
        return torch.from_numpy(np.broadcast_to(values, (*values.shape[:2], 3)).copy()).movedim(2, 0)
    if values.shape[2] == 3:
        values = np.asarray(Image.fromarray(values).convert('L'))[..., None]
    return torch.from_numpy(values[..., 0].copy())
