"""Images in a file of NumPy's."""

import pickle

import numpy as np
import pytest
import torch

from training.batches import Images
from training.data import ImageDataset, load_images
from training.errors import UserError


@pytest.fixture
def npy(tmp_path):
    def write(*shape, dtype=np.uint8):
        array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
        np.save(tmp_path / 'images.npy', array)
        return tmp_path / 'images.npy', array

    return write


@pytest.mark.parametrize(
    'shape, expected', [((50, 12, 8), (12, 8)), ((50, 12, 8, 1), (12, 8)), ((50, 12, 8, 3), (3, 12, 8))]
)
def test_images_in_an_array(npy, shape, expected):
    path, array = npy(*shape)
    train, test = load_images(path, n_train=20, n_test=10)
    assert train.X.shape == (20, *expected) and test.X.shape == (10, *expected)
    assert train.X.dtype == torch.uint8
    assert train.source == str(path) and not train.labelled and train.name == 'npy'
    first = array[-10].transpose(2, 0, 1) if expected[0] == 3 else array[-10].reshape(12, 8)
    assert np.array_equal(test.X[0], first)  # the last ones: no training image among them
    assert test[0][1].dtype == torch.float32 and np.array_equal(test[0][1], first)


@pytest.mark.parametrize('shape', [(50, 12, 8), (50, 12, 8, 1), (50, 12, 8, 3)])
def test_a_mapped_array_is_used_as_images_in_memory_are(npy, shape):
    train, test = load_images(npy(*shape)[0], n_train=20, n_test=10)
    copied = ImageDataset(train.X, train.y, 'npy')
    assert test.checksum() != train.checksum() == copied.checksum()
    index = torch.tensor([3, 3, 65])
    assert torch.equal(Images(train, 'cpu')[index][0], Images(copied, 'cpu')[index][0])


# ----------------------------------------------------------------------------- NaN for a missing pixel


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
@pytest.mark.parametrize('shape', [(50, 12, 8), (50, 12, 8, 3)])
def test_nan_is_a_missing_pixel(npy, shape, dtype):
    path, array = npy(*shape, dtype=dtype)
    hidden = np.random.default_rng(1).random(shape) < 0.3
    np.save(path, np.where(hidden, dtype(np.nan), array))
    train, _ = load_images(path, n_train=20, n_test=10)
    assert train.mapped and not train.known and train.X.dtype == torch.from_numpy(array).dtype
    x, observed = Images(train, 'cpu')[torch.arange(20)]
    hidden, array = ((a.transpose(0, 3, 1, 2) if a.ndim == 4 else a)[:20] for a in (hidden, array))
    assert np.array_equal(~observed, hidden)
    assert torch.equal(x, torch.from_numpy(np.where(hidden, 0, array).astype(np.float32)) / 255)
    assert torch.equal(train[3][1], x[3] * 255)


def test_floats_without_nan_are_complete(npy):
    path, array = npy(50, 12, 8, dtype=np.float32)
    train, test = load_images(path)
    assert train.observed is test.observed is None and train.known and train.mapped
    np.save(path.with_name('bytes.npy'), array.astype(np.uint8))
    assert train.checksum() == load_images(path.with_name('bytes.npy'))[0].checksum()


def test_the_checksum_sees_fractions_and_what_is_missing(npy):
    path, array = npy(50, 12, 8, dtype=np.float32)
    array[0, 0, :3] = 0
    checksums = []
    for value in (0, 0.25, np.nan):
        array[0, 0, 0] = value
        np.save(path, array)
        checksums.append(load_images(path)[0].checksum())
    assert len(set(checksums)) == 3


@pytest.mark.parametrize('value', [-1, 255.5, np.inf, -np.inf])
def test_floats_that_are_no_pixels(npy, value):
    path, array = npy(1500, 4, 4, dtype=np.float32)
    array[1200, 2, 1], array[3, 0, 0] = value, np.nan
    np.save(path, array)
    with pytest.raises(UserError, match=f'expected pixels in 0-255 in .*npy, .* got {value} in image 1201;'):
        load_images(path)


@pytest.mark.parametrize('largest, message', [(0, None), (0.5, '0-0.5'), (1, '0-1'), (1.5, None)])
def test_floats_in_0_to_1_are_pixels_that_were_not_scaled(npy, largest, message):
    path, array = npy(20, 4, 4, dtype=np.float32)
    array *= largest / array.max()
    array[1, 2, 3] = np.nan
    np.save(path, array)
    if message is None:
        load_images(path)
    else:
        with pytest.raises(
            UserError, match=f'expected pixels in 0-255 in .*npy, got all in {message}; multiply'
        ):
            load_images(path)


# ------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    'n_train, n_test, expected',
    [
        (None, None, (15, 15)),
        ('all', None, (15, 15)),
        (None, 'all', (15, 15)),
        ('all', 4, (26, 4)),
        (4, 'all', (4, 26)),
        (7, 2, (7, 2)),
    ],
)
def test_counts_of_an_array(npy, n_train, n_test, expected):
    path, _ = npy(30, 4, 4)
    assert tuple(map(len, load_images(path, None, n_train, n_test))) == expected


@pytest.mark.parametrize(
    'shape, dtype, n_train, n_test, message',
    [
        (
            (9, 4, 4),
            np.int64,
            None,
            None,
            r'expected images .* got int64 \[9, 4, 4\]; convert them with numpy',
        ),
        ((9, 4, 4), '>f4', None, None, r'got >f4 \[9, 4, 4\]'),
        ((9, 16), np.uint8, None, None, r'got uint8 \[9, 16\]'),
        ((9, 4, 4, 2), np.uint8, None, None, r'got uint8 \[9, 4, 4, 2\]'),
        ((9, 0, 4), np.uint8, None, None, r'got uint8 \[9, 0, 4\]'),
        ((1, 4, 4), np.uint8, None, None, 'expected two images or more'),
        ((9, 4, 4), np.uint8, 'all', 'all', 'got "all" for both'),
        (
            (9, 4, 4),
            np.uint8,
            8,
            2,
            'expected at most 9 images for training and test together, .* got 8 and 2',
        ),
        ((9, 4, 4), np.uint8, 'all', 9, 'got 0 and 9'),
        ((9, 4, 4), np.uint8, 10, 'all', 'got 10 and -1'),
    ],
)
def test_arrays_that_are_no_images(npy, shape, dtype, n_train, n_test, message):
    path, _ = npy(*shape, dtype=dtype)
    with pytest.raises(UserError, match=message):
        load_images(path, None, n_train, n_test)


def header(text, version=(1, 0)):
    """The beginning of a .npy file with any text as its header."""
    text = text.encode('latin-1')
    return b'\x93NUMPY' + bytes(version) + len(text).to_bytes(2, 'little') + text + bytes(1000)


def uint8(shape):
    return header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n")


@pytest.mark.parametrize(
    'content',
    [
        *(b'', b'text', np.random.default_rng(0).bytes(1000), pickle.dumps([1])),
        *(
            uint8('(-3, 4, 4)'),
            uint8('(4611686018427387904, 4, 4)'),
            uint8(f'({10**30}, 4, 4)'),
            uint8('(9.0, 4)'),
        ),
        *(header('\xe9' * 40), header('(' * 500), header(' ' * 20_000), header('x', version=(9, 0))),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n"),
        uint8('(9, 14, 14)'),  # more than the file has
    ],
)
def test_damaged_files_are_one_line(tmp_path, content, recwarn):
    (tmp_path / 'images.npy').write_bytes(content)
    with pytest.raises(UserError, match='cannot read .*images.npy as an array: .*numpy.save') as error:
        load_images(tmp_path / 'images.npy')
    assert '\n' not in str(error.value) and not recwarn


def test_nothing_is_unpickled(tmp_path):
    class Touch:
        def __reduce__(self):
            return (tmp_path / 'unpickled').touch, ()

    np.save(tmp_path / 'images.npy', np.array([Touch()]), allow_pickle=True)
    with pytest.raises(UserError, match='cannot read'):
        load_images(tmp_path / 'images.npy')
    assert not (tmp_path / 'unpickled').exists()


@pytest.mark.parametrize('got', ['no such file', 'a folder'])
def test_no_file(tmp_path, got):
    path = tmp_path / 'images.npy'
    if got == 'a folder':
        path.mkdir()
    with pytest.raises(UserError, match=f'expected images in the file .*images.npy, got {got}'):
        load_images(path)


def test_an_array_is_no_other_data_set(npy, tmp_path):
    path, _ = npy(9, 4, 4)
    for data_path, name in ((path, 'mnist'), (tmp_path, 'npy')):
        with pytest.raises(UserError, match='expected --dataset npy with a .npy or .npz file'):
            load_images(data_path, name)
