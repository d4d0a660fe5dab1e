"""Folders of pictures: what is read from them, and what is wrong with them."""

import numpy as np
import pytest
import torch
from PIL import Image

from training import UserError, load_images
from training.data import load_pictures
from training.sources_pictures import read_pictures


def save(path, mode='L', size=(8, 12), value=200):
    """A picture of one colour; size: height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value).save(path)
    return path


def test_a_flat_folder_is_read_by_name(tmp_path):
    for name, value in (('b.png', 2), ('a.png', 1), ('c.PNG', 3)):
        save(tmp_path / name, value=value)
    (tmp_path / 'notes.txt').touch()
    save(tmp_path / '.hidden.png', value=9)
    X, y, observed, classes = read_pictures(tmp_path)
    assert X.dtype == torch.uint8 and X.shape == (3, 8, 12) and X[:, 0, 0].tolist() == [1, 2, 3]
    assert y.tolist() == [0, 0, 0] and observed is classes is None


def test_folders_are_classes(tmp_path):
    save(tmp_path / 'dogs' / '1.png', value=5)
    save(tmp_path / 'cats' / '2.png', value=7)
    save(tmp_path / '.cache' / '3.png')
    X, y, _, classes = read_pictures(tmp_path)
    assert classes == ['cats', 'dogs'] and y.tolist() == [0, 1] and X[:, 0, 0].tolist() == [7, 5]
    assert load_pictures(tmp_path).classes == ['cats', 'dogs']


def test_one_picture_in_colour_makes_all_coloured(tmp_path):
    save(tmp_path / 'a.png', 'L', value=7)
    save(tmp_path / 'b.png', 'RGB', value=(1, 2, 3))
    X, *_ = read_pictures(tmp_path)
    assert X.shape == (2, 3, 8, 12) and X[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]
    assert read_pictures(tmp_path, channels=1)[0].shape == (2, 8, 12)


@pytest.mark.parametrize(
    'mode, value, wanted', [('1', 1, 255), ('I;16', 256 * 77, 77), ('LA', (9, 255), 9), ('L', 3, 3)]
)
def test_grey_pictures_of_every_kind(tmp_path, mode, value, wanted):
    save(tmp_path / 'a.png', mode, value=value)
    X, _, observed, _ = read_pictures(tmp_path)
    assert X.shape == (1, 8, 12) and (X == wanted).all() and observed is None


@pytest.mark.parametrize('mode, n', [('LA', 1), ('RGBA', 3)])
def test_transparent_pixels_are_missing(tmp_path, mode, n):
    pixels = np.full((4, 4, n + 1), 90, np.uint8)
    pixels[..., -1] = 255
    pixels[1, 2] = 127  # more than half transparent
    Image.fromarray(pixels, mode).save(tmp_path / 'a.png')
    dataset = load_pictures(tmp_path)
    assert dataset.shape == ((3, 4, 4) if n == 3 else (4, 4)) and not dataset.known
    missing = ~dataset.observed[torch.tensor([0])]
    assert missing.sum() == n and missing[..., 1, 2].all() and (dataset.X[missing] == 0).all()


def test_pictures_are_scaled_and_cut(tmp_path):
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 200  # the middle square
    Image.fromarray(wide).save(tmp_path / 'wide.png')
    save(tmp_path / 'tall.png', size=(30, 10))
    X, *_ = read_pictures(tmp_path, (8, 8))
    assert X.shape == (2, 8, 8) and (X.int() - 200).abs().max() < 20  # the filter reads beyond the edges


def test_a_picture_is_turned_as_the_camera_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('L', (12, 8)).save(tmp_path / 'a.jpg', exif=exif)
    assert read_pictures(tmp_path)[0].shape == (1, 12, 8)


def test_broken_pictures_are_named_and_left_out(tmp_path, capsys):
    save(tmp_path / 'a.png', value=4)
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    whole = save(tmp_path / 'short.png', size=(200, 200)).read_bytes()
    (tmp_path / 'short.png').write_bytes(whole[: len(whole) // 2])
    X, *_ = read_pictures(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(X) == 1 and len(lines) == 2
    assert 'broken.png' in lines[0] and 'short.png' in lines[1] and all('left out' in line for line in lines)


def test_no_pictures_are_said(tmp_path):
    with pytest.raises(UserError, match='expected pictures .*, got none; name a folder that has some'):
        read_pictures(tmp_path)
    (tmp_path / 'broken.png').touch()
    with pytest.raises(UserError, match='got 1 that cannot be read'):
        read_pictures(tmp_path)


def test_pictures_of_different_sizes_are_said(tmp_path):
    save(tmp_path / 'a.png')
    save(tmp_path / 'b.png', size=(8, 10))
    wanted = 'expected pictures of one size .*8 x 12 pixels in a.png and 8 x 10 in b.png.*--image-size'
    with pytest.raises(UserError, match=wanted):
        read_pictures(tmp_path)


def test_training_and_test_pictures_are_of_all_classes(tmp_path):
    for i in range(40):
        save(tmp_path / f'class{i % 2}' / f'{i:02}.png', value=i)
    train, test = load_images(tmp_path, n_train='all', n_test=20)
    assert train.name == 'pictures' and len(train) == len(test) == 20
    assert set(train.y.tolist()) == set(test.y.tolist()) == {0, 1}
    assert all(x % 2 == y for x, y in zip(train.X[:, 0, 0].int().tolist(), train.y.tolist()))
    again, _ = load_images(tmp_path, 'pictures', n_train='all', n_test=20)
    assert again.checksum() == train.checksum()


def test_a_data_set_beside_pictures_comes_first(csv_dir):
    save(csv_dir / 'a.png', size=(28, 28))
    assert load_images(csv_dir)[0].name == 'fashion-mnist'
