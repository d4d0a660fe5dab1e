"""--binarise: images whose pixels are black or white by a coin, once or in every step of training."""

import numpy as np
import pytest
import torch

from training import Images
from training.data import ImageDataset, load_file
from training.run_data import load_split


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
    for changes in (dict(binarise='static'), dict(binarise='static', missing=0.5)):
        for part, (images, original) in enumerate(zip(load_split(config.replace(**changes)), grey)):
            assert torch.equal(images.X, original.binarised(part).X)
            assert (images.observed is None) == ('missing' not in changes)


# ------------------------------------------------------------------------------------------------ dynamic


def in_training(images: Images, index, step, seed=0):
    index = torch.as_tensor(index)
    return images.in_training(index, images.local_index(index), seed, step)[0]


def test_dynamic_coins_show_white_with_the_grey_value_as_probability():
    grey = torch.tensor([[0.0, 1.0, 64.0], [128.0, 254.0, 255.0]])
    images = Images(ImageDataset(grey[None], [0], 'digits').binarised(0, dynamic=True), 'cpu')
    mean = torch.stack([in_training(images, [0], step)[0] for step in range(20_000)]).mean(0)
    assert mean[0, 0] == 0 and mean[1, 2] == 1
    torch.testing.assert_close(mean, grey / 255, atol=0.02, rtol=0)


def test_dynamic_coins_depend_on_seed_step_and_image_alone(digits):
    images = Images(digits[0].binarised(0, dynamic=True), 'cpu')
    x = in_training(images, [3, 4, 5], step=7)
    assert torch.equal(in_training(images, [5, 3], step=torch.tensor(7)), x[[2, 0]])
    assert not torch.equal(in_training(images, [3, 4, 5], step=8), x)
    assert not torch.equal(in_training(images, [3, 4, 5], step=7, seed=1), x)


def test_a_share_of_the_images_has_the_coins_of_the_whole(digits):
    dataset = digits[0].binarised(0, dynamic=True)
    whole, part = Images(dataset, 'cpu'), Images(dataset, 'cpu', slice(10, 20))
    index = torch.tensor([12, 2 * len(dataset) + 19])  # an image, and a shifted copy of another
    assert torch.equal(in_training(part, index, 3), in_training(whole, index, 3))


def test_only_training_steps_toss_dynamic_coins(digits):
    static, dynamic = (digits[0].binarised(0, dynamic) for dynamic in (False, True))
    index = torch.arange(len(static))
    assert torch.equal(static.X, dynamic.X)
    assert torch.equal(Images(dynamic, 'cpu')[index][0], Images(static, 'cpu')[index][0])
    assert torch.equal(in_training(Images(static, 'cpu'), index, 3), static.X / 255)


def test_dynamic_coins_of_missing_pixels_are_black(digits):
    images = Images(digits[0].binarised(0, dynamic=True).hide_pixels('pixels', 0.5, 0, 0), 'cpu')
    index = torch.arange(images.n)
    x, observed = images.in_training(index, index, 0, 5)
    assert x[observed].any() and not x[~observed].any()


def test_dynamic_coins_of_images_in_a_file(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.float32)
    np.save(tmp_path / 'file.npy', grey)
    mapped = load_file(tmp_path / 'file.npy').binarised(0, dynamic=True)
    in_memory = ImageDataset(grey, torch.zeros(6), 'npy').binarised(0, dynamic=True)
    x = [in_training(Images(dataset, 'cpu'), range(6), 2) for dataset in (mapped, in_memory)]
    assert torch.equal(*x)


def test_only_the_training_images_of_a_run_are_dynamic(vad_config):
    train_set, test_set = load_split(vad_config(n_train=20, n_test=10, binarise='dynamic'))
    assert train_set.grey is not None and test_set.grey is None
