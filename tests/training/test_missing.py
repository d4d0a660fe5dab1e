"""Masks: those that are simulated, and NaN."""

import pytest
import torch

from training.missing import MISSING_KINDS, NotNaN, SimulatedMask

SEED = 3


def mask(kind='pixels', rate=0.3, seed=SEED, part=0, shape=(28, 28), images=range(400)):
    return SimulatedMask(images, shape, kind, rate, seed, part)


def rows(mask):
    """All of a mask: bool [N, *shape]."""
    return mask[torch.arange(len(mask))]


@pytest.mark.parametrize('rate', [0.01, 0.3, 0.5, 0.95])
def test_the_share_of_missing_pixels_is_the_rate(rate):
    missing = ~rows(mask(rate=rate))
    for shares, n in ((missing.float().mean(), missing.numel()), (missing.float().mean(0), len(missing))):
        assert ((shares - rate).abs() < 5 * (rate * (1 - rate) / n) ** 0.5).all()  # five standard errors


@pytest.mark.parametrize(
    'rate, shape, height, width',
    [(0.25, (28, 28), 14, 14), (0.25, (3, 12, 8), 6, 4), (0.01, (5, 7), 1, 1), (0.99, (28, 28), 28, 28)],
)
def test_a_block_is_a_rectangle_of_the_images_proportions(rate, shape, height, width):
    missing = ~rows(mask('blocks', rate, shape=shape)).view(400, -1, *shape[-2:])[:, 0]
    down, across = missing.any(2), missing.any(1)
    assert (down.sum(1) == height).all() and (across.sum(1) == width).all()
    assert torch.equal(missing, down[:, :, None] & across[:, None, :])


def test_blocks_are_at_all_places_alike():
    missing = ~rows(mask('blocks', 0.25, shape=(4, 4), images=range(9000)))  # 2 x 2, at 3 x 3 places
    counts = missing.flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(counts) == 9 and ((counts - 1000).abs() < 5 * 1000**0.5).all()


@pytest.mark.parametrize('kind', MISSING_KINDS)
def test_a_mask_is_a_function_of_the_image_alone(kind):
    whole = rows(mask(kind))
    assert torch.equal(rows(mask(kind)[50:300:3]), whole[50:300:3])
    assert torch.equal(rows(mask(kind)[100:][20:60]), whole[120:160])
    index = torch.tensor([7, 7, 399, 0])
    assert torch.equal(mask(kind)[index], whole[index])


@pytest.mark.parametrize('kind', MISSING_KINDS)
@pytest.mark.parametrize('change', [dict(part=1), dict(seed=SEED + 1), dict(images=range(1, 401))])
def test_other_parts_seeds_and_images_have_other_masks(kind, change):
    same = (rows(mask(kind)) == rows(mask(kind, **change))).flatten(1).all(1)
    assert same.float().mean() < 0.05  # blocks can be at the same place


@pytest.mark.parametrize('kind', MISSING_KINDS)
def test_colour_is_hidden_with_all_channels(kind):
    coloured, grey = rows(mask(kind, shape=(3, 28, 28))), rows(mask(kind))
    assert torch.equal(coloured, grey[:, None].expand_as(coloured))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_nan_is_missing(dtype):
    X = torch.arange(24, dtype=dtype).view(4, 2, 3)
    X[1, 0, 2] = X[3, 1, 1] = torch.nan
    observed = NotNaN(X)
    expected = torch.ones(4, 2, 3, dtype=torch.bool)
    expected[1, 0, 2] = expected[3, 1, 1] = False
    assert len(observed) == 4 and torch.equal(observed[torch.arange(4)], expected)
    assert torch.equal(observed[1:][torch.tensor([2, 0])], expected[[3, 1]])
