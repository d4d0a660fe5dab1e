"""Grids and rows of images, animations and figures, written to files."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor

from training import ImageDataset, write_atomically

MISSING_COLOUR = (120.0, 160.0, 230.0)  # red, green, blue of a missing pixel


def real_tensor(name: str, value: Any) -> Tensor:
    """A tensor, an array or nested lists of real numbers as a tensor on the CPU. ValueError: it is something
    else."""
    try:
        x = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        came = type(value).__name__
        raise ValueError(f'expected {name} to be a tensor or an array of numbers, got {came}') from error
    if x.is_complex():
        raise ValueError(f'expected {name} to be real numbers, got {x.dtype}')
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x  # NumPy has no bfloat16


def check_finite(name: str, x: Tensor):
    """ValueError: x has a NaN or an infinity."""
    if not x.isfinite().all():
        raise ValueError(
            f'expected {name} to be finite, got {int((~x.isfinite()).sum())} numbers that are not'
        )


def image_grid(images: Tensor, per_row: int = 8, padding: int = 1) -> Tensor:
    """One picture [3, height, width] in 0-1 of images [N, H, W], [N, 1, H, W] or [N, 3, H, W] in 0-255.
    ValueError: they are not such images."""
    import torchvision  # here: it takes a second to import

    images = real_tensor('images', images).float()
    check_finite('images', images)
    if not images.numel() or not (images.dim() == 3 or images.dim() == 4 and images.shape[1] in (1, 3)):
        raise ValueError(f'expected images [N, H, W], [N, 1, H, W] or [N, 3, H, W], got {list(images.shape)}')
    images = images.clamp(0, 255) / 255
    images = images[:, None] if images.dim() == 3 else images
    return torchvision.utils.make_grid(images, nrow=per_row, padding=padding, pad_value=1)


def save_grid(images: Tensor, file_name: str | Path, per_row: int = 8, padding: int = 1):
    """Write image_grid as a picture. ValueError: there are no such images, or no picture has the file name's
    suffix."""
    grid = (255 * image_grid(images, per_row, padding)).round().byte()  # [3, height, width]
    picture = Image.fromarray(grid.movedim(0, 2).contiguous().numpy())
    try:
        write_atomically(file_name, picture.save)
    except (ValueError, KeyError) as error:  # PIL does not know the suffix, or cannot write such files
        raise ValueError(
            f'expected a file name with the suffix of a picture, such as .png, got {str(file_name)!r}'
        ) from error


def save_gif(frames: Tensor, file_name: Path):
    """Write an animation that repeats for ever, ten frames a second. frames: [N, H, W] or [N, 3, H, W] in
    0-255.

    Small images are enlarged, by whole numbers, to about 200 pixels. (A frame equal to the one before it only
    lasts longer.)
    """
    frames = torch.as_tensor(frames).detach().cpu().float().clamp(0, 255).round().byte()
    step = math.ceil(max(frames.shape[-2:]) / 65_535)  # the most pixels that a side of a GIF can have
    frames = frames[..., ::step, ::step]
    factor = max(1, 224 // max(frames.shape[-2:]))
    frames = frames.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    frames = frames.movedim(1, 3) if frames.dim() == 4 else frames  # PIL has the channels last
    first, *others = [Image.fromarray(frame.contiguous().numpy()) for frame in frames]
    options = dict(append_images=others, duration=100, loop=0)  # milliseconds a frame; 0: for ever
    write_atomically(file_name, lambda temporary: first.save(temporary, save_all=True, **options))


def save_rows(rows: list[tuple[str, Tensor]], file_name: Path, per_row: int):
    """Write labelled rows of images. rows: (label, images [n, 28, 28] or [n, 3, H, W] in 0-255) pairs."""
    strips = [image_grid(images, per_row) for _, images in rows]  # [3, height, width] each
    heights = [strip.shape[1] for strip in strips]
    height = 12 * sum(heights) / max(strip.shape[2] for strip in strips) + 0.15 * len(rows)
    size = (12, min(height, 100))  # inches; a figure of columns of pixels would be too high to be drawn
    ratios = dict(height_ratios=heights)
    fig, axes = plt.subplots(len(rows), 1, squeeze=False, figsize=size, gridspec_kw=ratios)
    for ax, (label, _), strip in zip(axes[:, 0], rows, strips):
        ax.imshow(strip.permute(1, 2, 0).numpy(), interpolation='nearest')
        ax.set_ylabel(label, rotation=0, ha='right', va='center')
        ax.set(xticks=[], yticks=[], frame_on=False)
    save_figure(fig, file_name)


def save_figure(fig: plt.Figure, file_name: str | Path):
    path = Path(file_name)
    path = path if path.suffix else path.with_suffix('.png')  # as matplotlib does
    try:
        write_atomically(path, lambda temporary: fig.savefig(temporary, dpi=100, bbox_inches='tight'))
    finally:  # an unknown suffix, for example, is an error
        plt.close(fig)


def masked(dataset: ImageDataset, n: int) -> Tensor:
    """The first n images in 0-255, [n, *shape]; where pixels are missing, in colour with these in blue."""
    x = dataset.X[:n].float()
    if dataset.observed is None:
        return x
    observed = dataset.observed[torch.arange(len(x))]
    if x.dim() == 3:
        x, observed = (t[:, None].expand(-1, 3, -1, -1) for t in (x, observed))  # [n, 3, H, W]
    return torch.where(observed, x, torch.tensor(MISSING_COLOUR).view(3, 1, 1))
