"""--binarise: images whose pixels are black or white by a coin."""

import numpy as np
import pytest
import torch

from training.data import ImageDataset, load_file
from training.runs import load_split


def test_a_pixel_is_white_with_its_grey_value_as_probability():
    grey = torch.tensor([0.0, 1.0, 64.0, 128.0, 254.0, 255.0]).view(1, 2, 3).expand(20_000, 2, 3)
    binary = ImageDataset(grey, torch.zeros(20_000), 'digits').binarised(0).X
    assert set(binary.unique().tolist()) == {0.0, 255.0}
    share = (binary / 255).mean(0)
    assert share[0, 0] == 0 and share[1, 2] == 1
    torch.testing.assert_close(share, grey[0] / 255, atol=0.02, rtol=0)


def test_coins_depend_on_the_image_and_the_part_alone(digits):
    train_set = digits[0]
    binary = train_set.binarised(0)
    assert torch.equal(train_set.part(slice(10)).binarised(0).X, binary.X[:10])
    assert not torch.equal(train_set.binarised(1).X, binary.X)
    same = ImageDataset(train_set.X[:1].expand(2, 28, 28), torch.zeros(2), 'digits').binarised(0).X
    assert not torch.equal(same[0], same[1])
    assert torch.equal(binary.y, train_set.y) and binary.name == train_set.name


def test_channels_have_coins_of_their_own():
    grey = torch.full((4, 3, 5, 7), 128.0)
    binary = ImageDataset(grey, torch.zeros(4), 'npy').binarised(0).X
    assert binary.shape == grey.shape and not torch.equal(binary[:, 0], binary[:, 1])


@pytest.mark.parametrize('missing', [False, True])
def test_images_in_a_file(tmp_path, missing):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.float32)
    if missing:
        images[:, 0] = np.nan
    np.save(tmp_path / 'images.npy', images)
    dataset = load_file(tmp_path / 'images.npy')
    binary = dataset.binarised(0)
    index = torch.arange(6)
    if missing:
        assert torch.equal(binary.observed[index], dataset.observed[index]) and not binary.known
    assert set(binary.X.unique().tolist()) == {0.0, 255.0}


def test_both_parts_of_a_run_and_before_pixels_are_hidden(vad_config):
    config = vad_config(n_train=20, n_test=10)
    grey = load_split(config)
    for changes in (dict(binarise=True), dict(binarise=True, missing=0.5)):
        for part, (images, original) in enumerate(zip(load_split(config.replace(**changes)), grey)):
            assert torch.equal(images.X, original.binarised(part).X)
            assert (images.observed is None) == ('missing' not in changes)
