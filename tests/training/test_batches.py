import pytest
import torch

from training.batches import SHIFTS, Images, epoch_order


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
    order = epoch_order(n, seed=0, epoch=3)
    assert len(order) == 3 * n == len(order.unique())
    assert (order < n).sum() == n and order.max() < 5 * n


@pytest.mark.parametrize('n', [1, 2, 7, 100])
def test_the_order_repeats(n):
    assert torch.equal(epoch_order(n, seed=0, epoch=3), epoch_order(n, seed=0, epoch=3))


@pytest.mark.parametrize('n', [7, 100])
@pytest.mark.parametrize('seed, epoch', [(1, 3), (0, 4), (4096, 3), (2**32 - 1, 3)])  # 4096 << 20 is 2^32
def test_other_seeds_and_epochs_have_other_orders(n, seed, epoch):
    assert not torch.equal(epoch_order(n, seed=0, epoch=3), epoch_order(n, seed, epoch))
