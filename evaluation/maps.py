"""Maps of latents: places in the plane by t-SNE, as a picture and for the report, where they show images."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor

from evaluation.drawing import check_finite, image_grid, masked, real_tensor, save_figure
from training import ImageDataset, write_atomically, write_json

TSNE_POINTS = 2000  # in a map, at most: more hide each other, and take minutes
THUMBNAIL = 28  # pixels of an image's longer side in a map, at most
SPRITE_COLUMNS = 40  # images in a row of the sprite, the picture of all


def tsne(points: np.ndarray) -> np.ndarray:
    """Places in the plane [N, 2] by t-SNE (van der Maaten and Hinton, 2008) for points [N, D]; of equal
    points, the origin."""
    from sklearn.manifold import TSNE  # here: a second to import

    if not np.ptp(points, 0).any():  # scikit-learn crashes
        return np.zeros((len(points), 2))
    perplexity, start = min(30, (len(points) - 1) / 3), 'pca' if points.shape[1] > 1 else 'random'
    # With the usual 1,000 iterations a thousand points keep no more of their neighbours, in twice the time.
    return TSNE(2, perplexity=perplexity, init=start, max_iter=500, random_state=0).fit_transform(points)


def scatter_classes(ax: plt.Axes, dataset, flat: np.ndarray):
    """Draw places [N, 2] of the first N images of dataset, coloured and labelled by class."""
    labels = torch.as_tensor(dataset.y)[: len(flat)].cpu().numpy()
    for label in np.unique(labels):
        name = dataset.classes[label] if hasattr(dataset, 'classes') else str(label)
        ax.scatter(*flat[labels == label].T, s=12, color=plt.cm.tab10(label % 10), label=name)


def plot_tsne(dataset, latents: Tensor, file_name: str | Path, plot_title: str = 't-SNE of the latents'):
    """Write a t-SNE map of the first TSNE_POINTS latents [N, D], coloured by the classes of dataset, whose
    labels .y are N or more. ValueError: no latents, latents that are not finite, or too few labels."""
    points = real_tensor('latents', latents)
    check_finite('latents', points)
    if points.dim() < 2 or not points.numel():
        raise ValueError(f'expected latents [N, D], got {list(points.shape)}')
    if not hasattr(dataset, 'y'):
        raise ValueError(f'expected a data set with labels .y, got {type(dataset).__name__}')
    labels = real_tensor('labels', dataset.y)
    if labels.dim() != 1 or len(labels) < len(points):
        raise ValueError(f'expected a label for each of {len(points)} latents, got {list(labels.shape)}')
    draw_map(dataset, tsne(points.flatten(1).numpy()[:TSNE_POINTS]), file_name, plot_title)


def draw_map(dataset, flat: np.ndarray, file_name: str | Path, plot_title: str):
    """Write a map of places [N, 2], coloured by the classes of the first N images of dataset."""
    fig, ax = plt.subplots(figsize=(8, 7))
    scatter_classes(ax, dataset, flat)
    ax.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    ax.set(title=plot_title, xticks=[], yticks=[])
    save_figure(fig, file_name)


def draw_codes(dataset: ImageDataset, codes: Tensor, file_name: Path):
    """Write two maps of codes [N, D]: by their principal components, and by t-SNE."""
    from sklearn.decomposition import PCA

    points = codes.cpu().numpy()[:TSNE_POINTS]
    flat = np.zeros((len(points), 2))
    if np.ptp(points, 0).any():  # equal codes have no components
        scores = PCA(min(2, *points.shape)).fit_transform(points)  # [N, 2]; [N, 1] of one-dimensional codes
        flat[:, : scores.shape[1]] = scores
    fig, axes = plt.subplots(1, 2, figsize=(14, 6))
    for ax, title, plane in zip(axes, ('principal components', 't-SNE'), (flat, tsne(points))):
        scatter_classes(ax, dataset, plane)
        ax.set(title=title, xticks=[], yticks=[])
    axes[1].legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(fig, file_name)


def fit_square(flat: np.ndarray) -> np.ndarray:
    """Places [N, 2], moved and scaled into 0-1000, y downwards as on a page."""
    span = np.ptp(flat, 0).max() or 1.0
    return 500 + 960 * (flat - (flat.max(0) + flat.min(0)) / 2) / span * [1, -1]


def class_colours(dataset: ImageDataset) -> list[str]:
    """Of each class, as HTML has them."""
    return [to_hex(plt.cm.tab10(label % 10)) for label in range(len(dataset.classes))]


def write_map(dataset: ImageDataset, flat: np.ndarray, folder: Path):
    """Write what the report shows of places [N, 2] of the first N images: map.json, with x and y in 0-1000,
    labels, classes and their colours; and map.jpg, a picture of the images, row by row."""
    images = masked(dataset, len(flat))  # [N, H, W] or [N, 3, H, W]
    images = images[:, None] if images.dim() == 3 else images
    if max(images.shape[-2:]) > THUMBNAIL:
        longest = max(images.shape[-2:])
        size = [max(1, THUMBNAIL * side // longest) for side in images.shape[-2:]]
        images = F.interpolate(images, size, mode='area')
    height, width = images.shape[-2:]
    below, right = THUMBNAIL - height, THUMBNAIL - width  # squares
    images = F.pad(images, (0, right, 0, below), value=255.0)
    grid = (255 * image_grid(images, SPRITE_COLUMNS, padding=0)).byte().movedim(0, 2).contiguous()
    sprite = Image.fromarray(grid.numpy())
    write_atomically(folder / 'map.jpg', lambda path: sprite.save(path, 'JPEG', quality=85))
    content = dict(size=THUMBNAIL, columns=min(SPRITE_COLUMNS, len(flat)))
    content |= dict(places=np.rint(fit_square(flat)).astype(int).tolist())
    content |= dict(labels=dataset.y[: len(flat)].tolist(), classes=list(dataset.classes))
    content |= dict(colours=class_colours(dataset))
    write_json(folder / 'map.json', content)
