"""MNIST's idx files, Imagenette, and downloads."""

import gzip
import sys

import pytest
import torch
import torchvision

from training.data import load_images
from training.errors import UserError

# ------------------------------------------------------------------------------------------- idx files


@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize(
    'name, folder', [('fashion-mnist', 'FashionMNIST/raw'), ('mnist', 'MNIST/raw'), ('fashion-mnist', '.')]
)
def test_idx_files(tmp_path, digits, write_idx, name, folder, suffix):
    write_idx(tmp_path / folder, digits, suffix)
    train, test = load_images(tmp_path, name, n_train=10)
    assert torch.equal(train.X, digits[0].X[:10]) and torch.equal(test.X, digits[1].X)
    assert torch.equal(test.y, digits[1].y) and train.name == name and train.source == str(tmp_path)


def test_idx_files_are_read_without_torchvision(tmp_path, digits, write_idx, monkeypatch):
    write_idx(tmp_path, digits)
    monkeypatch.setitem(sys.modules, 'torchvision', None)  # its import would fail
    assert len(load_images(tmp_path)[0]) == 64


def test_some_of_the_four_files(tmp_path, digits, write_idx):
    write_idx(tmp_path, digits)
    for file in ('train-images-idx3-ubyte', 't10k-labels-idx1-ubyte'):
        (tmp_path / file).unlink()
    message = (
        'the four files of fashion-mnist in .* got no train-images-idx3-ubyte and no t10k-labels-idx1-ubyte'
    )
    with pytest.raises(UserError, match=message):
        load_images(tmp_path)


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda data: data[:0], 'got an empty file'),
        (lambda data: data[:3], 'got 00 00 08;'),
        (lambda data: data[:9], 'got 9;'),
        (lambda data: data[:1000], 'expected 50192 bytes in .*, whose header says 64 x 28 x 28, got 1000;'),
        (lambda data: data + b'\0', 'got 50193;'),
        (lambda data: data[:4] + b'\xff' * 12 + data[16:], 'whose header says 4294967295 x'),
        (lambda data: b'abcd' + data[4:], 'begins with 00 00 08 03, got 61 62 63 64;'),
        (lambda data: b'\0\0\x0d\3' + data[4:], 'got 00 00 0d 03;'),
        (lambda data: b'\0\0\x08\1' + data[4:], 'got 00 00 08 01;'),
        (lambda data: gzip.compress(data)[:500], 'a whole gzip file in .* ended before'),
        (lambda data: gzip.compress(data)[:-8] + bytes(8), 'a whole gzip file in .* CRC check failed'),
        (lambda data: gzip.compress(data)[:9] + bytes(50), 'a whole gzip file in'),
    ],
)
def test_damaged_idx_files(tmp_path, digits, write_idx, damage, message):
    write_idx(tmp_path, digits)
    path = tmp_path / 'train-images-idx3-ubyte'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f'train-images-idx3-ubyte.*{message}|{message}') as error:
        load_images(tmp_path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


# ------------------------------------------------------------------------------------------ Imagenette


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


def test_truncated_pictures_of_imagenette(imagenette_dir):
    for path in (imagenette_dir / 'imagenette2-160' / 'val').glob('*/1.JPEG'):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match='expected a picture in .*1.JPEG, got: .* downloaded again'):
        load_images(imagenette_dir, 'imagenette', 1, 'all')


@pytest.mark.parametrize('change', [lambda folder: folder.rename('gone'), lambda folder: folder.rename('n1')])
def test_other_classes_than_imagenettes(imagenette_dir, change, monkeypatch):
    folder = imagenette_dir / 'imagenette2-160' / 'val'
    monkeypatch.chdir(folder)
    change(next(folder.iterdir()))
    with pytest.raises(UserError, match="expected the folders of Imagenette's 10 classes in .*val, got "):
        load_images(imagenette_dir, 'imagenette', 1, 1)


# ------------------------------------------------------------------------------------------- downloads


def test_a_download_is_put_into_the_folder(tmp_path, digits, write_idx, monkeypatch):
    def download(self):
        write_idx(self.raw_folder, digits)

    monkeypatch.setattr(torchvision.datasets.MNIST, 'download', download)
    (tmp_path / 'data' / 'FashionMNIST' / 'raw').mkdir(parents=True)
    train, _ = load_images(tmp_path / 'data')
    assert train.name == 'fashion-mnist' and torch.equal(train.X, digits[0].X)
    assert [path.name for path in (tmp_path / 'data').iterdir()] == ['FashionMNIST']
    assert len(list((tmp_path / 'data' / 'FashionMNIST' / 'raw').iterdir())) == 4


@pytest.mark.parametrize('exists', [True, False])
@pytest.mark.parametrize('error', [OSError('no space'), KeyboardInterrupt()])
def test_a_failed_download_leaves_nothing(tmp_path, digits, write_idx, monkeypatch, exists, error):
    def download(self):
        write_idx(self.raw_folder, digits)
        raise error

    monkeypatch.setattr(torchvision.datasets.MNIST, 'download', download)
    if exists:
        (tmp_path / 'data').mkdir()
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
        load_images(tmp_path / 'data', 'mnist')
    assert list(tmp_path.rglob('*')) == ([tmp_path / 'data'] if exists else [])


def test_the_message_of_a_failed_download_is_whole(tmp_path, monkeypatch):
    def download(self):
        raise RuntimeError('Error downloading:\nTried a mirror, got:\n<urlopen error [Errno -3] no name>\n')

    monkeypatch.setattr(torchvision.datasets.MNIST, 'download', download)
    with pytest.raises(
        UserError, match='Error downloading: Tried a mirror, got: <urlopen error no name>'
    ) as e:
        load_images(tmp_path, 'mnist')
    assert '\n' not in str(e.value)
