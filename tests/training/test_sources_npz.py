"""Images, masks and labels in an .npz file."""

import io
import zipfile

import numpy as np
import pytest
import torch

from training.batches import Images
from training.data import load_file, load_images
from training.errors import UserError

N, SHAPE = 30, (12, 8)
RNG = np.random.default_rng(0)
IMAGES, OBSERVED = RNG.integers(0, 256, (N, *SHAPE), np.uint8), RNG.random((N, *SHAPE)) < 0.6
LABELS = RNG.integers(0, 4, N)
COLOURED, OBSERVED_CHANNELS = RNG.integers(0, 256, (N, *SHAPE, 3), np.uint8), RNG.random((N, *SHAPE, 3)) < 0.6


@pytest.fixture
def npz(tmp_path):
    """npz(**arrays): the file that has them."""

    def write(**arrays):
        np.savez(tmp_path / 'images.npz', **arrays)
        return tmp_path / 'images.npz'

    return write


def test_images_with_a_mask_and_labels(npz):
    train, test = load_images(npz(images=IMAGES, observed=OBSERVED, labels=LABELS), n_train=20, n_test=5)
    assert train.name == 'npy' and train.classes == ['0', '1', '2', '3'] and train.labelled
    for part, which in ((train, slice(20)), (test, slice(25, 30))):
        assert np.array_equal(part.observed, OBSERVED[which]) and not part.known
        assert np.array_equal(part.X, np.where(OBSERVED, IMAGES, 0)[which])
        assert np.array_equal(part.y, LABELS[which]) and part.y.dtype == torch.int64


def test_classes_are_those_of_the_whole_file(npz):
    train, test = load_images(npz(images=IMAGES, labels=np.arange(N) // 10), n_train=10, n_test=10)
    assert train.classes == test.classes == ['0', '1', '2']


def test_all_images_as_one_set(npz):
    whole = load_file(npz(images=IMAGES, observed=OBSERVED))
    assert len(whole) == N and np.array_equal(whole.observed, OBSERVED) and not whole.labelled
    assert len(load_file(npz(images=IMAGES[:1]))) == 1  # there is nothing to split


@pytest.mark.parametrize('observed', [OBSERVED, OBSERVED_CHANNELS])
def test_a_mask_of_coloured_images(npz, observed):
    train, _ = load_images(npz(images=COLOURED, observed=observed))
    expected = np.broadcast_to(observed[..., None] if observed.ndim == 3 else observed, COLOURED.shape)
    expected = expected[:15].transpose(0, 3, 1, 2)
    assert train.shape == (3, *SHAPE) and np.array_equal(train.observed, expected)
    assert torch.equal(Images(train, 'cpu')[torch.arange(15)][1], train.observed)


@pytest.mark.parametrize('observed', [OBSERVED, OBSERVED[..., None]])
def test_images_with_one_channel(npz, observed):
    train, _ = load_images(npz(images=IMAGES[..., None], observed=observed))
    assert train.shape == SHAPE and np.array_equal(train.observed, OBSERVED[:15])


@pytest.mark.parametrize('arrays', [{}, {'observed': np.ones_like(OBSERVED)}])
@pytest.mark.parametrize('dtype', [np.uint8, np.float64])
def test_complete_images_have_no_mask(npz, arrays, dtype):
    train, _ = load_images(npz(images=IMAGES.astype(dtype), **arrays))
    assert train.observed is None and train.known and np.array_equal(train.X, IMAGES[:15])


def test_nan_is_missing_where_there_is_no_mask(npz):
    masked, _ = load_images(npz(images=IMAGES, observed=OBSERVED))
    with_nan, _ = load_images(npz(images=np.where(OBSERVED, IMAGES, np.nan).astype(np.float32)))
    assert torch.equal(with_nan.observed, masked.observed) and torch.equal(with_nan.X, masked.X)
    assert with_nan.checksum() == masked.checksum()


@pytest.mark.parametrize('garbage', [np.nan, np.inf, -1e30, 7])
def test_what_lies_under_a_missing_pixel_is_not_read(npz, garbage):
    clean = load_file(npz(images=IMAGES, observed=OBSERVED))
    images = np.where(OBSERVED, IMAGES, garbage).astype(np.float64)
    other = load_file(npz(images=images, observed=OBSERVED))
    assert torch.equal(other.X, clean.X) and other.checksum() == clean.checksum()


def test_the_checksum_covers_the_mask(npz):
    images = np.zeros_like(IMAGES)
    first = load_file(npz(images=images, observed=OBSERVED))
    second = load_file(npz(images=images, observed=OBSERVED[::-1]))
    assert torch.equal(first.X, second.X) and first.checksum() != second.checksum()


# -------------------------------------------------------------------------------------------- bad files


def with_value(value):
    images = IMAGES.astype(np.float32)
    images[2, 3, 4] = value
    return images


@pytest.mark.parametrize(
    'arrays, message',
    [
        (dict(observed=OBSERVED), 'expected an array called images in .*npz, got observed; write it with'),
        (dict(), 'expected an array called images in .*npz, got none'),
        (dict(images=IMAGES.astype(int)), r'expected images .* got int64 \[30, 12, 8\]; convert them'),
        (dict(images=IMAGES[0]), r'got uint8 \[12, 8\]'),
        (dict(images=IMAGES[:1]), 'expected two images or more'),
        (dict(images=IMAGES[:0]), r'got uint8 \[0, 12, 8\]'),
        (dict(images=with_value(256)), 'expected pixels in 0-255 in .*npz, .* got 256 in image 3;'),
        (dict(images=with_value(np.inf)), 'got inf in image 3;'),
        (dict(images=with_value(np.inf), observed=np.ones_like(OBSERVED)), 'got inf in image 3;'),
        (dict(images=with_value(np.nan), observed=np.ones_like(OBSERVED)), 'got NaN in image 3; set `obs'),
        (dict(images=IMAGES, observed=OBSERVED[1:]), r'to be bool \[30, 12, 8\], .* got bool \[29, 12, 8\]'),
        (dict(images=IMAGES, observed=OBSERVED[..., None]), r'got bool \[30, 12, 8, 1\]'),
        (dict(images=IMAGES, observed=OBSERVED.astype(int)), r'got int64 \[30, 12, 8\]; convert it'),
        (dict(images=IMAGES, labels=LABELS[1:]), r'for each of the 30 images, got int64 \[29\]; correct'),
        (dict(images=IMAGES, labels=LABELS[:, None]), r'got int64 \[30, 1\]'),
        (dict(images=IMAGES, labels=LABELS / 2), r'whole numbers in 0-999, .* got float64 \[30\]'),
        (dict(images=IMAGES, labels=LABELS.astype(str)), r'got <U21 \[30\]'),
        (dict(images=IMAGES, labels=np.arange(N) - 1), 'got -1 for image 1; correct them, or leave them out'),
        (dict(images=IMAGES, labels=np.arange(N) + 990), 'got 1000 for image 11;'),
    ],
)
def test_arrays_that_do_not_go_together(npz, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        load_images(npz(**arrays))
    assert '\n' not in str(error.value)


def saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


WHOLE = saved(np.savez, images=IMAGES)


@pytest.mark.parametrize(
    'content',
    [
        *(b'', b'text', WHOLE[:1000], WHOLE[:-10], WHOLE[1000:]),
        WHOLE.replace(IMAGES.tobytes()[:100], bytes(100)),  # the checksum is of others
        saved(np.save, IMAGES),
        *(zipped(images='text'), zipped(images=saved(np.save, IMAGES)[:-9])),
    ],
    ids=range(9),  # not the content, which has the time of day
)
def test_a_file_that_is_damaged_or_none(tmp_path, content, recwarn):
    (tmp_path / 'images.npz').write_bytes(content)
    with pytest.raises(UserError, match='cannot read .*images.npz as an .npz file: .*numpy.savez') as error:
        load_images(tmp_path / 'images.npz')
    assert '\n' not in str(error.value) and not recwarn


@pytest.mark.parametrize('name', ['images', 'observed', 'labels'])
def test_nothing_is_unpickled(npz, tmp_path, name):
    class Touch:
        def __reduce__(self):
            return (tmp_path / 'unpickled').touch, ()

    path = npz(**{'images': IMAGES, name: np.array([Touch()])})
    with pytest.raises(UserError, match='cannot read'):
        load_images(path)
    assert not (tmp_path / 'unpickled').exists()
