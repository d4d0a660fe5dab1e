"""The course's helpers, for its scripts and graders; the project itself does not use them.

train_ds, train_dl, test_ds, test_dl = utils.create_dataloaders(data_path='dataset', batch_size=64)
"""

from numbers import Integral
from pathlib import Path

import matplotlib.pyplot as plt
from torch import Tensor
from torch.utils.data import DataLoader

from evaluation import plot_tsne, real_tensor, save_grid
from training import load_images

__all__ = ['create_dataloaders', 'plot_tsne', 'save_images', 'tensors_as_images']


def create_dataloaders(data_path: str | Path = 'dataset', **dl_args):
    """The course's loaders: train_ds, train_dl, test_ds, test_dl; dl_args go to torch's DataLoader.

    The first 1,000 images of Fashion-MNIST's two sets, from wherever `load_images` finds them. A data set has
    .X [N, 28, 28] in 0-255 and .y [N]; its item i is (i, X[i]).
    """
    train_ds, test_ds = load_images(data_path)
    return train_ds, DataLoader(train_ds, **dl_args), test_ds, DataLoader(test_ds, **dl_args)


def tensors_as_images(tensors, nrows=1, figsize=(8, 8), titles=(), wspace=0.1, hspace=0.2, cmap=None):
    """Show a sequence of images [28, 28] (or [3, H, W]) on a grid of nrows rows; returns fig, axes.

    ValueError: no images, an image of another shape or not of real numbers, nrows below 1.
    """
    try:
        images = [real_tensor('an image', x).squeeze() for x in tensors]
    except TypeError as error:
        raise ValueError(f'expected a sequence of images, got {type(tensors).__name__}') from error
    if not images:
        raise ValueError('expected images, got none')
    for image in images:
        if image.dim() != 2 and not (image.dim() == 3 and image.shape[0] == 3):
            raise ValueError(f'expected images [H, W] or [3, H, W], got {list(image.shape)}')
    if isinstance(nrows, bool) or not isinstance(nrows, Integral) or nrows < 1:
        raise ValueError(f'expected nrows to be an integer of at least 1, got {nrows!r}')
    ncols, gaps = -(-len(images) // nrows), dict(wspace=wspace, hspace=hspace)
    fig, axes = plt.subplots(nrows, ncols, figsize=figsize, squeeze=False, gridspec_kw=gaps)
    for i, ax in enumerate(axes.flat):
        ax.axis('off')
        if i < len(images):
            image = images[i].numpy()
            ax.imshow(image.transpose(1, 2, 0) if image.ndim == 3 else image, cmap=cmap)
        if i < len(titles):
            ax.set_title(titles[i])
    return fig, axes


def save_images(images: Tensor, file_name: str | Path):
    """Write images [N, H, W] or [N, C, H, W], C = 1 or 3, with values in 0-255 as one grid.

    ValueError: other images, or a file name that is no picture's.
    """
    save_grid(images, file_name)
