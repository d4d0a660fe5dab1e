import platform
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import training
import utils

# ------------------------------------------------------------------------------------------------- data


def test_the_course_gets_its_loaders(csv_dir, digits):
    train_ds, train_dl, test_ds, test_dl = utils.create_dataloaders(
        data_path=str(csv_dir), batch_size=16, shuffle=False
    )
    assert train_ds.X.shape == (64, 28, 28) and train_ds.y.shape == (64,) and len(test_ds) == 40
    assert torch.equal(train_ds.X, digits[0].X) and torch.equal(test_ds.y, digits[1].y)
    assert train_ds.X.max() == 255 and train_ds.X.min() == 0
    i, x = train_ds[5]
    assert i == 5 and torch.equal(x, train_ds.X[5])
    i, x = next(iter(test_dl))
    assert torch.equal(i, torch.arange(16)) and x.shape == (16, 28, 28)
    assert [len(i) for i, _ in test_dl] == [16, 16, 8] and len(train_dl) == 4


@pytest.mark.parametrize('n, expected', [(None, 64), ('all', 64), (10, 10)])
def test_counts(csv_dir, n, expected):
    train, _, _ = utils.load_data(csv_dir, n_train=n)
    assert len(train) == expected


def test_more_than_there_is_is_an_error(csv_dir):
    with pytest.raises(utils.UserError, match='expected at most 40 images, .* got 41'):
        utils.load_data(csv_dir, n_test=41)


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
    with pytest.raises(utils.UserError, match=message) as error:
        utils.load_data(csv_dir)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('text, message', [('', 'got 1 columns'), (None, 'a header and nothing below')])
def test_empty_csv(csv_dir, text, message):
    path = csv_dir / 'fashion-mnist_train.csv'
    path.write_text(path.read_text().splitlines()[0] + '\n' if text is None else text)
    with pytest.raises(utils.UserError, match=message):
        utils.load_data(csv_dir)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_half_of_the_csv_files(csv_dir, part):
    (csv_dir / f'fashion-mnist_{part}.csv').unlink()
    with pytest.raises(utils.UserError, match=f'expected the file .*fashion-mnist_{part}.csv'):
        utils.load_data(csv_dir)


def test_without_files_and_network_digits_stand_in_with_a_warning(tmp_path, capsys):
    train, test, source = utils.load_data(tmp_path / 'none')
    assert train.name == 'digits' and len(train) == 1000 and len(test) == 797 and 'fallback' in source
    assert train.X.max() == 255 and train.X.min() == 0 and train.X.shape[1:] == (28, 28)
    assert capsys.readouterr().err.startswith('warning: no fashion-mnist in')


@pytest.mark.parametrize('name', ['fashion-mnist', 'mnist'])
def test_an_explicit_dataset_is_never_replaced(tmp_path, name):
    with pytest.raises(utils.UserError, match=f'expected {name} in .*name the folder with --data-path'):
        utils.load_data(tmp_path / 'none', dataset=name)


def test_digits_on_demand(tmp_path, capsys):
    train, _, source = utils.load_data(tmp_path / 'none', dataset='digits')
    assert train.name == 'digits' and source == 'scikit-learn digits' and not capsys.readouterr().err


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
    train, test, _ = utils.load_data(tmp_path, dataset=name, n_train=10)
    assert torch.equal(train.X, digits[0].X[:10]) and torch.equal(test.y, digits[1].y) and train.name == name


def test_imagenette(imagenette_dir):
    train, test, source = utils.load_data(imagenette_dir, 'imagenette', 20, 'all')
    assert (
        train.X.shape == (20, 3, 64, 64) and test.X.shape == (30, 3, 64, 64) and source == str(imagenette_dir)
    )
    assert train.X.max() > 128 and len(set(train.y[:10].tolist())) > 3  # classes come mixed
    assert torch.equal(train.X, utils.load_data(imagenette_dir, 'imagenette', 20, 1)[0].X)
    assert len(train.classes) == 10
    with pytest.raises(
        utils.UserError, match=r'expected at most 30 images, all that imagenette \(train\) has, got 31'
    ):
        utils.load_data(imagenette_dir, 'imagenette', 31, 1)
    for path in (imagenette_dir / 'imagenette2-160' / 'val').glob('*/1.JPEG'):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(utils.UserError, match='cannot read imagenette under .* truncated or malformed'):
        utils.load_data(imagenette_dir, 'imagenette', 1, 'all')


def test_csv_comes_before_torchvision(csv_dir, digits):
    write_idx(csv_dir / 'FashionMNIST' / 'raw', digits[::-1])
    train, _, _ = utils.load_data(csv_dir)
    assert torch.equal(train.X, digits[0].X)


@pytest.mark.parametrize('size', [0, 3, 1000])
def test_truncated_torchvision_files(tmp_path, digits, size):
    write_idx(tmp_path / 'MNIST' / 'raw', digits)
    path = tmp_path / 'MNIST' / 'raw' / 'train-images-idx3-ubyte'
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(utils.UserError, match='cannot read mnist under .*delete') as error:
        utils.load_data(tmp_path, dataset='mnist')
    assert '\n' not in str(error.value)


def test_checksums_tell_data_sets_apart(digits):
    assert digits[0].checksum() == utils.ImageDataset(digits[0].X.clone(), digits[0].y, 'digits').checksum()
    assert digits[0].checksum() != digits[1].checksum()


# --------------------------------------------------------------------------------------------- pictures


def test_plot_tsne(tmp_path, digits):
    for n in (1, 2, 40):  # odd sizes: t-SNE's perplexity has to follow
        dataset = utils.ImageDataset(digits[1].X[:n], digits[1].y[:n], 'digits')
        utils.plot_tsne(dataset, torch.randn(n, 5), tmp_path / f'{n}.png', plot_title='test')
        assert plt.imread(tmp_path / f'{n}.png').ndim == 3


def test_tensors_as_images(digits):
    fig, axes = utils.tensors_as_images(digits[0].X[:5], nrows=2, titles=['a', 'b'], cmap='gray')
    assert axes.shape == (2, 3) and axes[0, 1].get_title() == 'b'
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 1, 1, 0]
    plt.close(fig)


@pytest.mark.parametrize('shape', [(5, 28, 28), (5, 1, 28, 28)])
def test_save_images(tmp_path, shape):
    utils.save_images(torch.full(shape, 255.0), tmp_path / 'x.png')
    assert plt.imread(tmp_path / 'x.png')[2:30, 2:30].min() == 1


# ------------------------------------------------------------------------------------------------- files


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    utils.save_checkpoint(path, {'config': {}, 'a': torch.ones(2)})
    with pytest.raises(Exception):
        utils.save_checkpoint(path, {'config': {}, 'a': lambda: None})  # cannot be pickled
    assert utils.load_checkpoint(path)['a'].tolist() == [1, 1]


@pytest.mark.parametrize('content', [b'', b'nonsense', None])
def test_a_broken_checkpoint(tmp_path, content):
    path = tmp_path / 'checkpoint.pt'
    utils.save_checkpoint(path, {'config': {}, 'a': torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(utils.UserError, match='expected a checkpoint in .*delete its folder'):
        utils.load_checkpoint(path)


@pytest.mark.parametrize('state', [[1], {'a': 1}, {'config': 1}])
def test_another_file_of_torch_is_no_checkpoint(tmp_path, state):
    torch.save(state, tmp_path / 'checkpoint.pt')
    with pytest.raises(utils.UserError, match='got a file that cannot be read as one .other contents'):
        utils.load_checkpoint(tmp_path / 'checkpoint.pt')


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError('PytorchStreamWriter failed writing file data/0: file write failed\nmore')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(
        utils.UserError, match='cannot write .*file write failed; make room and go on with --resume'
    ):
        utils.save_checkpoint(tmp_path / 'checkpoint.pt', {})


def test_a_checkpoint_cannot_run_code(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    torch.save({'a': np.random.default_rng()}, path)  # any object that is not plain data
    with pytest.raises(utils.UserError, match='UnpicklingError'):
        utils.load_checkpoint(path)


# ------------------------------------------------------------------------------------------ arrays in a file


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
    train, test, source = utils.load_data(path, n_train=20, n_test=10)
    assert (
        train.X.shape == (20, *expected) and test.X.shape == (10, *expected) and train.X.dtype == torch.uint8
    )
    assert source == str(path) and not train.labelled and train.name == 'npy'
    first = array[-10].transpose(2, 0, 1) if expected[0] == 3 else array[-10].reshape(12, 8)
    assert np.array_equal(test.X[0], first)  # the last ones: no training image among them
    assert test[0][1].dtype == torch.float32 and np.array_equal(test[0][1], first)
    assert test.checksum() != train.checksum() == utils.ImageDataset(train.X, train.y, 'npy').checksum()
    images, rows = training.Images(train, 'cpu'), torch.tensor([3, 3, 65])
    assert torch.equal(
        images[rows], training.Images(utils.ImageDataset(train.X, train.y, 'npy'), 'cpu')[rows]
    )


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
    assert tuple(map(len, utils.load_data(path, None, n_train, n_test)[:2])) == expected


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
    with pytest.raises(utils.UserError, match=message):
        utils.load_data(path, None, n_train, n_test)


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
        utils.UserError,
        match='expected images in .* no such file' if content is None else 'cannot read .* as an array',
    ):
        utils.load_data(path)


def test_an_array_is_no_other_data_set(npy, tmp_path):
    path, _ = npy(9, 4, 4)
    for data_path, name in ((path, 'mnist'), (tmp_path, 'npy')):
        with pytest.raises(utils.UserError, match='expected --dataset npy with a .npy file'):
            utils.load_data(data_path, name)


@pytest.mark.parametrize('name', ['tpu', 'mps', 'cuda:99', 'cpu:x'])
def test_devices(name):
    with pytest.raises(utils.UserError, match='expected --device to be'):
        utils.pick_device(name)
    assert utils.pick_device('cpu') == torch.device('cpu')


NEW_PAGES = """
import resource, torch, utils
utils.keep_freed_memory()
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2 ** 24)   # 2 ** 14 pages
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="mallopt, which keeps freed memory, is glibc's")
def test_freed_memory_is_kept_for_the_next_tensor():
    # In a process of its own: once memory has run out, as some tests want it, malloc works in another way.
    out = subprocess.check_output(
        [sys.executable, '-c', NEW_PAGES], cwd=Path(utils.__file__).parent, text=True
    )
    pages = [int(line) for line in out.split()]
    assert len(pages) == 30 and max(pages[20:]) < 100  # the first tensors find no room yet
