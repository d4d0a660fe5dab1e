"""Which data are found where, and the rules that all of them must follow."""

import pytest
import torch

from training.data import ImageDataset, check_images, load_images
from training.errors import UserError


@pytest.mark.parametrize('n, expected', [(None, 64), ('all', 64), (10, 10)])
def test_a_number_of_images_all_of_them_or_a_thousand_if_there_are_so_many(csv_dir, n, expected):
    train, _ = load_images(csv_dir, n_train=n)
    assert len(train) == expected


def test_more_than_there_is_is_an_error(csv_dir):
    with pytest.raises(UserError, match='expected at most 40 images, .* got 41'):
        load_images(csv_dir, n_test=41)


def test_checksums_tell_data_sets_apart(digits):
    assert digits[0].checksum() == ImageDataset(digits[0].X.clone(), digits[0].y, 'digits').checksum()
    assert digits[0].checksum() != digits[1].checksum()


# ---------------------------------------------------------------------------------------- where data are


def test_the_share_of_missing_pixels(digits):
    assert digits[0].missing_share() is None
    assert digits[0].hide_pixels('blocks', 0.25, seed=0, part=0).missing_share() == 0.25
    observed = torch.ones(2000, 1, 2, dtype=torch.bool)
    observed[:1000, 0, 0] = False
    images = ImageDataset(torch.zeros(2000, 1, 2), torch.zeros(2000), 'npy', observed=observed)
    assert images.missing_share() == 0.5  # of the first thousand


@pytest.mark.parametrize('folder', [None, '.', 'inner/empty', '.download-1'])
def test_without_files_and_network_digits_stand_in_with_a_warning(tmp_path, capsys, folder):
    root = tmp_path / 'data'
    if folder:
        (root / folder).mkdir(parents=True)
    train, test = load_images(root)
    assert train.name == 'digits' and len(train) == 1000 and len(test) == 797 and 'fallback' in train.source
    assert train.X.max() == 255 and train.X.min() == 0 and train.X.shape[1:] == (28, 28)
    assert capsys.readouterr().err.startswith('warning: no fashion-mnist in')


def test_digits_do_not_stand_in_where_a_folder_holds_other_things(tmp_path, capsys):
    (tmp_path / 'inner').mkdir()
    (tmp_path / 'inner' / 'readme').touch()
    with pytest.raises(
        UserError, match='expected fashion-mnist in .* got neither, and downloading it failed'
    ):
        load_images(tmp_path)
    assert not capsys.readouterr().err


@pytest.mark.parametrize('name', ['images.txt', 'fashion-mnist_train.csv'])
def test_a_path_that_names_another_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(
        UserError, match=f'expected a folder of data or a .npy or .npz file .* got .*{name}; name the'
    ):
        load_images(tmp_path / name)
    with pytest.raises(UserError, match='got: Not a directory;'):
        load_images(tmp_path / name / 'below')


@pytest.mark.parametrize('name', ['data', 'images.npy'])
def test_a_path_that_is_a_broken_link(tmp_path, name):
    (tmp_path / name).symlink_to(tmp_path / 'gone')
    with pytest.raises(UserError, match='got: a symbolic link to .*gone, which is not there;'):
        load_images(tmp_path / name)


@pytest.mark.parametrize('name', ['fashion-mnist', 'mnist', 'imagenette'])
def test_an_explicit_dataset_is_never_replaced(tmp_path, name):
    with pytest.raises(UserError, match=f'expected {name} in .*name the folder with --data-path'):
        load_images(tmp_path / 'none', dataset=name)


def test_digits_on_demand(tmp_path, capsys):
    train, _ = load_images(tmp_path / 'none', dataset='digits')
    assert train.name == 'digits' and train.source == 'scikit-learn digits'
    assert not capsys.readouterr().err


def test_csv_comes_before_idx(csv_dir, digits, write_idx):
    write_idx(csv_dir / 'FashionMNIST' / 'raw', digits[::-1])
    train, _ = load_images(csv_dir)
    assert torch.equal(train.X, digits[0].X)


# --------------------------------------------------------------------------------- rules for all sources


def part(n=3, labels=(0, 1, 9), shape=(4, 5)):
    return torch.zeros(n, *shape), torch.tensor(labels)


@pytest.mark.parametrize(
    'train, test, message',
    [
        (part(4), part(), 'a label for each of the 4 training images of mnist in here, got 3 labels'),
        (part(), part(0, ()), 'one image or more, .* as test images of mnist in here, got '),
        (part(shape=(0, 4)), part(shape=(0, 4)), 'each of one pixel or more, as training images'),
        (part(), part(labels=(0, 10, 0)), 'labels in 0-9 for the test images .* got 10 for image 2;'),
        (part(labels=(-1, 0, 0)), part(), 'labels in 0-9 for the training images .* got -1 for image 1;'),
        (part(), part(shape=(5, 4)), 'of one shape for mnist in here, got 4 x 5 for training and 5 x 4 for'),
        (part(), part(shape=(3, 4, 5)), 'got 4 x 5 for training and 3 x 4 x 5 for testing'),
    ],
)
def test_images_and_labels_that_do_not_belong_together(train, test, message):
    with pytest.raises(UserError, match=f'expected .*{message}'):
        check_images('mnist', 'here', train, test)


def test_the_rules_hold_before_images_are_left_out(tmp_path, digits, write_idx):
    write_idx(tmp_path, digits)
    labels = tmp_path / 'train-labels-idx1-ubyte'
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 10, *range(10)]))
    with pytest.raises(UserError, match='a label for each of the 64 training images .* got 10 labels'):
        load_images(tmp_path, n_train=5)
