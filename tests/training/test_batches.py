import pytest
import torch

from training.batches import SHIFTS, Images, epoch_length, epoch_order
from training.data import ImageDataset
from training.missing import NotNaN, SimulatedMask
from training.systems import VADConfig


def test_the_images_come_first_and_then_their_shifted_copies(digits):
    train_set, _ = digits
    images = Images(train_set, 'cpu')
    n = len(train_set)
    assert len(images) == 5 * n
    x = train_set.X / 255
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    for copy, (top, left) in enumerate(SHIFTS):
        index = torch.tensor([copy * n, copy * n + n - 1])
        torch.testing.assert_close(images[index][0], padded[[0, n - 1], top : top + 28, left : left + 28])
    torch.testing.assert_close(images[torch.arange(n)][0], x)


@pytest.mark.parametrize('n', [1, 2, 7, 100])
def test_an_epoch_shows_every_image_and_some_copies(n):
    order = epoch_order(n, 4, seed=0, epoch=3)
    assert len(order) == 3 * n == len(order.unique())
    assert (order < n).sum() == n and order.max() < 5 * n


@pytest.mark.parametrize('n', [1, 2, 7, 100])
def test_the_order_repeats(n):
    assert torch.equal(epoch_order(n, 4, seed=0, epoch=3), epoch_order(n, 4, seed=0, epoch=3))


@pytest.mark.parametrize('shape', [(1, 6), (6, 1), (3, 1, 6)])
def test_rows_of_a_table_have_no_shifted_copies(shape):
    rows = ImageDataset(torch.rand(7, *shape), torch.zeros(7), 'npy')
    images = Images(rows, 'cpu')
    (batch,) = images.epoch(seed=0, epoch=0, batch_size=64)
    assert len(images) == 7 == epoch_length(7, shape) and batch[0].sort().values.tolist() == [*range(7)]


def test_rows_of_a_table_are_shown_as_often_as_images_and_copies():
    table, images = (VADConfig(shape=shape, n_train=100) for shape in ((1, 784), (28, 28)))
    assert table.epochs == 3 * images.epochs


@pytest.mark.parametrize('n', [7, 100])
@pytest.mark.parametrize('seed, epoch', [(1, 3), (0, 4), (4096, 3), (2**32 - 1, 3)])  # 4096 << 20 is 2^32
def test_other_seeds_and_epochs_have_other_orders(n, seed, epoch):
    assert not torch.equal(epoch_order(n, 4, seed=0, epoch=3), epoch_order(n, 4, seed, epoch))


# -------------------------------------------------------------------------------------- incomplete images


@pytest.fixture
def masked(digits):
    """masked(X, **changes): these images in 0-255, and for each pixel whether it is observed."""
    observed = torch.rand(digits[0].X.shape, generator=torch.Generator().manual_seed(0)) < 0.5

    def make(X, **changes):
        return ImageDataset(X, digits[0].y, 'digits', **{'observed': observed, 'known': False, **changes})

    return make


def test_copies_take_their_masks_along(digits, masked):
    dataset = masked(digits[0].X)
    images, n = Images(dataset, 'cpu'), len(dataset)
    padded = torch.nn.functional.pad(dataset.observed, (1, 1, 1, 1))  # False: not observed
    for copy, (top, left) in enumerate(SHIFTS):
        _, observed = images[copy * n + torch.arange(n)]
        assert torch.equal(observed, padded[:, top : top + 28, left : left + 28])


@pytest.mark.parametrize('mapped', [False, True])
@pytest.mark.parametrize('garbage', [1, 255, torch.inf, torch.nan])
def test_what_lies_under_a_missing_pixel_never_comes_out(digits, masked, mapped, garbage):
    X = digits[0].X
    clean = masked(X)
    observed = clean.observed
    if mapped and garbage is torch.nan:
        observed = NotNaN(torch.where(observed, X, torch.nan))
    dirty = masked(torch.where(clean.observed, X, garbage), mapped=mapped, observed=observed)
    index = torch.arange(5 * len(X))
    for ours, expected in zip(Images(dirty, 'cpu')[index], Images(clean, 'cpu')[index]):
        assert torch.equal(ours, expected)


def test_a_share_of_the_images_has_its_masks(digits, masked):
    dataset = masked(digits[0].X).hide_pixels('blocks', 0.3, 0, 0)
    whole, part = Images(dataset, 'cpu'), Images(dataset, 'cpu', slice(20, 50))
    assert torch.equal(part[torch.arange(30)][1], whole[torch.arange(20, 50)][1])


@pytest.mark.parametrize('kind', ['pixels', 'blocks', 'nan'])
def test_a_batch_of_a_mapped_file_reads_its_own_images_only(kind):
    n = 10**12  # views of one image, which no memory would hold as a whole
    X, y = torch.full((1, 28, 28), 200.0).expand(n, 28, 28), torch.zeros(1, dtype=torch.int64).expand(n)
    observed = NotNaN(X) if kind == 'nan' else SimulatedMask(range(n), (28, 28), kind, 0.5, 0, 0)
    images = Images(ImageDataset(X, y, 'npy', mapped=True, observed=observed), 'cpu', slice(5, n))
    x, observed = images[torch.tensor([0, 10**11])]
    assert x.shape == observed.shape == (2, 28, 28) and torch.equal(x > 0, observed)
