"""The course's helpers."""

import matplotlib.pyplot as plt
import pytest
import torch

import utils
from training.data import ImageDataset
from training.errors import UserError

IMAGES, LATENTS = torch.zeros(4, 28, 28), torch.zeros(4, 5)


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


@pytest.mark.parametrize(
    'latents, message',
    [
        (LATENTS[:0], r'expected latents \[N, D\], got \[0, 5\]'),
        (LATENTS[0], r'got \[5\]'),
        ('latents', 'expected latents to be a tensor or an array of numbers, got str'),
        (LATENTS + 1j, 'expected latents to be real numbers, got torch.complex64'),
        (LATENTS.log(), 'expected latents to be finite, got 20 numbers that are not'),
        (torch.zeros(5, 5), r'expected a label for each of 5 latents, got \[4\]'),
    ],
)
def test_plot_tsne_refuses(tmp_path, digits, latents, message):
    with pytest.raises(ValueError, match=message):
        utils.plot_tsne(digits[1].part(slice(4)), latents, tmp_path / 'x.png')
    assert not plt.get_fignums() and not list(tmp_path.iterdir())


def test_plot_tsne_needs_labels(tmp_path):
    with pytest.raises(ValueError, match=r'expected a data set with labels \.y, got Tensor'):
        utils.plot_tsne(IMAGES, LATENTS, tmp_path / 'x.png')


def test_tensors_as_images(digits):
    fig, axes = utils.tensors_as_images(digits[0].X[:5], nrows=2, titles=['a', 'b'], cmap='gray')
    assert axes.shape == (2, 3) and axes[0, 1].get_title() == 'b'
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 1, 1, 0]
    plt.close(fig)


@pytest.mark.parametrize(
    'tensors, nrows, message',
    [
        (torch.zeros(0, 28, 28), 1, 'expected images, got none'),
        (None, 1, 'expected a sequence of images, got NoneType'),
        (['a'], 1, 'an image to be a tensor or an array of numbers, got str'),
        (torch.zeros(2, 28), 1, r'expected images \[H, W\] or \[3, H, W\], got \[28\]'),
        (torch.zeros(2, 2, 28, 28), 1, r'got \[2, 28, 28\]'),
        (IMAGES, 0, 'nrows to be an integer of at least 1, got 0'),
        (IMAGES, 1.5, 'got 1.5'),
    ],
)
def test_tensors_as_images_refuses(tensors, nrows, message):
    with pytest.raises(ValueError, match=message):
        utils.tensors_as_images(tensors, nrows)
    assert not plt.get_fignums()  # no figure stays open


@pytest.mark.parametrize('shape', [(5, 28, 28), (5, 1, 28, 28), (5, 3, 28, 28)])
def test_save_images(tmp_path, shape):
    utils.save_images(torch.full(shape, 255.0), tmp_path / 'x.png')
    assert plt.imread(tmp_path / 'x.png')[2:30, 2:30].min() == 1


@pytest.mark.parametrize(
    'images, message',
    [
        (IMAGES[:0], r'\[N, H, W\], \[N, 1, H, W\] or \[N, 3, H, W\], got \[0, 28, 28\]'),
        (IMAGES[0], r'got \[28, 28\]'),
        (IMAGES[None, None], r'got \[1, 1, 4, 28, 28\]'),
        (torch.zeros(4, 2, 28, 28), r'got \[4, 2, 28, 28\]'),
        ('images', 'expected images to be a tensor or an array of numbers, got str'),
        (IMAGES + 1j, 'expected images to be real numbers, got torch.complex64'),
        (IMAGES / 0, 'expected images to be finite, got 3136 numbers that are not'),
    ],
)
def test_save_images_refuses(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        utils.save_images(images, tmp_path / 'x.png')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('convert', [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.bfloat16])
def test_pictures_take_arrays_lists_and_half_precision(tmp_path, digits, convert):
    utils.save_images(convert(IMAGES), tmp_path / 'images.png')
    utils.plot_tsne(digits[1], convert(LATENTS), tmp_path / 'tsne.png')
    _, axes = utils.tensors_as_images(convert(IMAGES))
    plt.close('all')
    assert len(list(tmp_path.iterdir())) == 2 and axes.shape == (1, 4)


@pytest.mark.parametrize('name, error', [('none/x.png', UserError), ('x.xyz', ValueError)])
def test_a_file_name_that_cannot_be_written_is_named(tmp_path, digits, name, error):
    with pytest.raises(error, match=name):
        utils.save_images(IMAGES, tmp_path / name)
    with pytest.raises(error, match='none/x.png|xyz'):
        utils.plot_tsne(digits[1], LATENTS, tmp_path / name)
    assert not plt.get_fignums()
