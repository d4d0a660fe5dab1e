"""The course's helpers, for its scripts and graders; the project itself does not use them.

train_ds, train_dl, test_ds, test_dl = utils.create_dataloaders(data_path='dataset', batch_size=64)
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from evaluation import plot_tsne, save_grid
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
    """Show a sequence of images [28, 28] (or [3, H, W]) on a grid of nrows rows; returns fig, axes."""
    ncols, gaps = -(-len(tensors) // nrows), dict(wspace=wspace, hspace=hspace)
    fig, axes = plt.subplots(nrows, ncols, figsize=figsize, squeeze=False, gridspec_kw=gaps)
    for i, ax in enumerate(axes.flat):
        ax.axis('off')
        if i < len(tensors):
            image = torch.as_tensor(tensors[i]).detach().cpu().squeeze().numpy()
            ax.imshow(image.transpose(1, 2, 0) if image.ndim == 3 else image, cmap=cmap)
        if i < len(titles):
            ax.set_title(titles[i])
    return fig, axes


def save_images(images: Tensor, file_name: str | Path):
    """Write images [N, H, W] or [N, C, H, W] with values in 0-255 as one grid."""
    save_grid(images, file_name)
