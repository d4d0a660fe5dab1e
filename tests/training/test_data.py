import struct

import numpy as np
import pytest
import torch

from training.batches import Images
from training.data import ImageDataset, load_images
from training.errors import UserError


@pytest.mark.parametrize('n, expected', [(None, 64), ('all', 64), (10, 10)])
def test_a_number_of_images_all_of_them_or_a_thousand_if_there_are_so_many(csv_dir, n, expected):
    train, _ = load_images(csv_dir, n_train=n)
    assert len(train) == expected


def test_more_than_there_is_is_an_error(csv_dir):
    with pytest.raises(UserError, match='expected at most 40 images, .* got 41'):
        load_images(csv_dir, n_test=41)


def break_csv(path, how):
    lines = path.read_text().splitlines(keepends=True)
    if how == 'cut':
        path.write_text(''.join(lines)[:-500])
    else:
        lines[how[0]] = how[1](lines[how[0]])
        path.write_text(''.join(lines))


@pytest.mark.parametrize(
    'how, message',
    [
        ('cut', 'expected 785 whole numbers in every row of .*number of columns changed'),
        ((0, lambda line: line.replace('label,', '')), 'expected the header of .*got 784 columns'),
        ((0, lambda line: 'a,b\n'), r"got 2 columns starting with 'a'"),
        (
            (3, lambda line: line.replace(',0', ',256', 1)),
            r'expected pixels in 0-255 .*got 0 to 256 \(first in row 3\)',
        ),
        ((3, lambda line: line.replace(',0', ',-1', 1)), 'got -1 to 255'),
        ((3, lambda line: '11' + line[1:]), 'expected labels in 0-9 .*got 0 to 11'),
        ((3, lambda line: line.replace(',0', ',x', 1)), "could not convert string 'x'"),
        ((3, lambda line: line.replace(',0', ',nan', 1)), "could not convert string 'nan'"),
        ((3, lambda line: line.replace(',0', ',0.5', 1)), "could not convert string '0.5'"),
        ((3, lambda line: '1,2,3\n'), 'number of columns changed'),
    ],
)
def test_malformed_csv(csv_dir, how, message):
    break_csv(csv_dir / 'fashion-mnist_test.csv', how)
    with pytest.raises(UserError, match=message) as error:
        load_images(csv_dir)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('text, message', [('', 'got 1 columns'), (None, 'a header and nothing below')])
def test_empty_csv(csv_dir, text, message):
    path = csv_dir / 'fashion-mnist_train.csv'
    path.write_text(path.read_text().splitlines()[0] + '\n' if text is None else text)
    with pytest.raises(UserError, match=message):
        load_images(csv_dir)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_half_of_the_csv_files(csv_dir, part):
    (csv_dir / f'fashion-mnist_{part}.csv').unlink()
    with pytest.raises(UserError, match=f'expected the file .*fashion-mnist_{part}.csv'):
        load_images(csv_dir)


def test_without_files_and_network_digits_stand_in_with_a_warning(tmp_path, capsys):
    train, test = load_images(tmp_path / 'none')
    assert train.name == 'digits' and len(train) == 1000 and len(test) == 797 and 'fallback' in train.source
    assert train.X.max() == 255 and train.X.min() == 0 and train.X.shape[1:] == (28, 28)
    assert capsys.readouterr().err.startswith('warning: no fashion-mnist in')


@pytest.mark.parametrize('name', ['fashion-mnist', 'mnist'])
def test_an_explicit_dataset_is_never_replaced(tmp_path, name):
    with pytest.raises(UserError, match=f'expected {name} in .*name the folder with --data-path'):
        load_images(tmp_path / 'none', dataset=name)


def test_digits_on_demand(tmp_path, capsys):
    train, _ = load_images(tmp_path / 'none', dataset='digits')
    assert train.name == 'digits' and train.source == 'scikit-learn digits'
    assert not capsys.readouterr().err


def write_idx(folder, digits):
    """The uncompressed files that torchvision keeps."""
    folder.mkdir(parents=True)
    for dataset, part in zip(digits, ('train', 't10k')):
        images, labels = dataset.X.byte().numpy(), dataset.y.byte().numpy()
        (folder / f'{part}-images-idx3-ubyte').write_bytes(
            struct.pack('>4i', 2051, *images.shape) + images.tobytes()
        )
        (folder / f'{part}-labels-idx1-ubyte').write_bytes(
            struct.pack('>2i', 2049, len(labels)) + labels.tobytes()
        )


@pytest.mark.parametrize('name, folder', [('fashion-mnist', 'FashionMNIST'), ('mnist', 'MNIST')])
def test_torchvision_files(tmp_path, digits, name, folder):
    write_idx(tmp_path / folder / 'raw', digits)
    train, test = load_images(tmp_path, dataset=name, n_train=10)
    assert torch.equal(train.X, digits[0].X[:10]) and torch.equal(test.y, digits[1].y) and train.name == name


def test_imagenette(imagenette_dir):
    train, test = load_images(imagenette_dir, 'imagenette', 20, 'all')
    assert train.X.shape == (20, 3, 64, 64) and test.X.shape == (30, 3, 64, 64)
    assert train.source == str(imagenette_dir)
    assert train.X.max() > 128 and len(train.classes) == 10


def test_imagenettes_classes_come_mixed_in_an_order_that_repeats(imagenette_dir):
    train, _ = load_images(imagenette_dir, 'imagenette', 20, 1)
    assert len(set(train.y[:10].tolist())) > 3
    assert torch.equal(train.X, load_images(imagenette_dir, 'imagenette', 20, 1)[0].X)


def test_more_than_imagenette_has_is_an_error(imagenette_dir):
    message = r'expected at most 30 images, all that imagenette \(train\) has, got 31'
    with pytest.raises(UserError, match=message):
        load_images(imagenette_dir, 'imagenette', 31, 1)


def test_truncated_images_of_imagenette(imagenette_dir):
    for path in (imagenette_dir / 'imagenette2-160' / 'val').glob('*/1.JPEG'):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match='cannot read imagenette under .* truncated or malformed'):
        load_images(imagenette_dir, 'imagenette', 1, 'all')


def test_csv_comes_before_torchvision(csv_dir, digits):
    write_idx(csv_dir / 'FashionMNIST' / 'raw', digits[::-1])
    train, _ = load_images(csv_dir)
    assert torch.equal(train.X, digits[0].X)


@pytest.mark.parametrize('size', [0, 3, 1000])
def test_truncated_torchvision_files(tmp_path, digits, size):
    write_idx(tmp_path / 'MNIST' / 'raw', digits)
    path = tmp_path / 'MNIST' / 'raw' / 'train-images-idx3-ubyte'
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match='cannot read mnist under .*delete') as error:
        load_images(tmp_path, dataset='mnist')
    assert '\n' not in str(error.value)


def test_checksums_tell_data_sets_apart(digits):
    assert digits[0].checksum() == ImageDataset(digits[0].X.clone(), digits[0].y, 'digits').checksum()
    assert digits[0].checksum() != digits[1].checksum()


# ------------------------------------------------------------------------------------- arrays in a file


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
    assert torch.equal(Images(train, 'cpu')[index], Images(copied, 'cpu')[index])


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
        ((9, 4, 4), np.float32, None, None, r'expected uint8 images .* got float32 \[9, 4, 4\]'),
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


@pytest.mark.parametrize('content', [b'', b'text', None, 'pickle', 'cut'])
def test_files_that_are_no_arrays(npy, content):
    path, array = npy(9, 4, 4)
    if content is None:
        path.unlink()
    elif content == 'pickle':
        np.save(path, np.array([{}]), allow_pickle=True)
    else:
        path.write_bytes(path.read_bytes()[:-1] if content == 'cut' else content)
    with pytest.raises(
        UserError,
        match='expected images in .* no such file' if content is None else 'cannot read .* as an array',
    ):
        load_images(path)


def test_an_array_is_no_other_data_set(npy, tmp_path):
    path, _ = npy(9, 4, 4)
    for data_path, name in ((path, 'mnist'), (tmp_path, 'npy')):
        with pytest.raises(UserError, match='expected --dataset npy with a .npy file'):
            load_images(data_path, name)
