"""The course's helpers."""

import matplotlib.pyplot as plt
import pytest
import torch

import utils
from training.data import ImageDataset


def test_the_course_gets_its_loaders(csv_dir, digits):
    train_ds, train_dl, test_ds, test_dl = utils.create_dataloaders(
        data_path=str(csv_dir), batch_size=16, shuffle=False
    )
    assert train_ds.X.shape == (64, 28, 28) and train_ds.y.shape == (64,) and len(test_ds) == 40
    assert torch.equal(train_ds.X, digits[0].X) and torch.equal(test_ds.y, digits[1].y)
    assert train_ds.X.max() == 255 and train_ds.X.min() == 0
    i, x = train_ds[5]
    assert i == 5 and torch.equal(x, train_ds.X[5])
    i, x = next(iter(test_dl))
    assert torch.equal(i, torch.arange(16)) and x.shape == (16, 28, 28)
    assert [len(i) for i, _ in test_dl] == [16, 16, 8] and len(train_dl) == 4


def test_plot_tsne(tmp_path, digits):
    for n in (1, 2, 40):  # odd sizes: t-SNE's perplexity has to follow
        dataset = ImageDataset(digits[1].X[:n], digits[1].y[:n], 'digits')
        utils.plot_tsne(dataset, torch.randn(n, 5), tmp_path / f'{n}.png', plot_title='test')
        assert plt.imread(tmp_path / f'{n}.png').ndim == 3


def test_tensors_as_images(digits):
    fig, axes = utils.tensors_as_images(digits[0].X[:5], nrows=2, titles=['a', 'b'], cmap='gray')
    assert axes.shape == (2, 3) and axes[0, 1].get_title() == 'b'
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 1, 1, 0]
    plt.close(fig)


@pytest.mark.parametrize('shape', [(5, 28, 28), (5, 1, 28, 28)])
def test_save_images(tmp_path, shape):
    utils.save_images(torch.full(shape, 255.0), tmp_path / 'x.png')
    assert plt.imread(tmp_path / 'x.png')[2:30, 2:30].min() == 1
