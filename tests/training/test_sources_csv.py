"""The course's CSV files, well formed, written by other programs, and damaged."""

import pytest
import torch

from training.data import load_images
from training.errors import UserError


@pytest.fixture
def change(csv_dir):
    """change(how): the training file, its text changed by how; returns the folder."""

    def write(how):
        path = csv_dir / 'fashion-mnist_train.csv'
        changed = how(path.read_text())
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        return csv_dir

    return write


def change_cell(text, value, line=5, column=10):
    lines = [line.split(',') for line in text.splitlines()]
    lines[line - 1][column - 1] = value
    return '\n'.join(map(','.join, lines)) + '\n'


def each_cell(text, how):
    """The text with how(cell) for each cell below the header."""
    header, *lines = text.splitlines()
    return '\n'.join([header, *(','.join(map(how, line.split(','))) for line in lines)])


@pytest.mark.parametrize(
    'how',
    [
        lambda text: '\ufeff' + text,
        lambda text: text.replace('\n', '\r\n'),
        lambda text: text.replace('\n', '\r'),
        lambda text: text + '\n  \n\n',
        lambda text: each_cell(text, '"{}"'.format).replace('label', '"label"'),
        lambda text: each_cell(text, '{}.0'.format),
    ],
    ids=['byte-order mark', 'CRLF', 'CR', 'blank lines at the end', 'quoted', '2.0'],
)
def test_what_other_programs_write_is_read(change, digits, how):
    train, _ = load_images(change(how))
    assert torch.equal(train.X, digits[0].X) and torch.equal(train.y, digits[0].y)


@pytest.mark.parametrize(
    'value', ['256', '-1', '2.5', 'nan', 'inf', '1e400', '#', 'x', '', '1_0', '\0', '"3']
)
def test_a_pixel_that_is_none(change, value):
    with pytest.raises(UserError, match='expected pixels in 0-255.* in line 5, column 10;') as error:
        load_images(change(lambda text: change_cell(text, value)))
    assert repr(value) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('value', ['10', '-1', '2.5', 'coat'])
def test_a_label_that_is_none(change, value):
    with pytest.raises(UserError, match=f"expected labels in 0-9.* got '{value}' in line 5, column 1;"):
        load_images(change(lambda text: change_cell(text, value, column=1)))


@pytest.mark.parametrize(
    'how, message',
    [
        (lambda lines: [*lines[:4], '1,2,3', *lines[5:]], '785 columns in line 5 of .* got 3;'),
        (lambda lines: [*lines[:4], lines[4] + ',0', *lines[5:]], '785 columns in line 5 of .* got 786;'),
        (
            lambda lines: [lines[0], *(line[: line.rindex(',')] for line in lines[1:])],
            'line 2 of .* got 784;',
        ),
        (lambda lines: [*lines[:4], '# a comment', *lines[5:]], 'in line 5 of .* got 1;'),
        (lambda lines: [*lines[:3], '', '', 'x' + lines[3], *lines[4:]], 'in line 6, column 1;'),
        (lambda lines: [*lines[:-1], lines[-1][:-500]], 'in line 65 of'),
        (lambda lines: [*lines[:4], lines[4][:-1] + '"3', *lines[5:]], 'quotation marks in pairs'),
    ],
)
def test_lines_are_counted_as_an_editor_shows_them(change, how, message):
    with pytest.raises(UserError, match=message):
        load_images(change(lambda text: '\n'.join(how(text.splitlines()))))


@pytest.mark.parametrize(
    'how, message',
    [
        (lambda text: text.replace('label,', '', 1), 'got 784 columns'),
        (lambda text: 'a,b\n' + text, "got 2 columns starting with 'a'"),
        (lambda text: '', 'got 1 columns'),
        (lambda text: text.encode('utf-16'), 'saved as UTF-8 text'),
        (lambda text: bytes(range(256)) * 9, 'got 1 columns'),
        (lambda text: text.splitlines()[0] + '\n', 'a header and nothing below it'),
    ],
)
def test_files_that_are_none(change, how, message):
    with pytest.raises(UserError, match=f'expected .*fashion-mnist_train.csv.*{message}') as error:
        load_images(change(how))
    assert '\n' not in str(error.value)


def test_only_the_lines_that_are_asked_for_are_read(change):
    folder = change(lambda text: change_cell(text, 'x', line=12))
    assert len(load_images(folder, n_train=10)[0]) == 10
    with pytest.raises(UserError, match='in line 12,'):
        load_images(folder, n_train=11)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_half_of_the_csv_files(csv_dir, part):
    (csv_dir / f'fashion-mnist_{part}.csv').unlink()
    with pytest.raises(UserError, match=f'expected the file .*fashion-mnist_{part}.csv'):
        load_images(csv_dir)


def test_a_folder_or_a_broken_link_in_the_place_of_a_file(csv_dir):
    path = csv_dir / 'fashion-mnist_train.csv'
    path.unlink()
    path.mkdir()
    with pytest.raises(
        UserError, match='expected data that can be read in .*train.csv, got: Is a directory;'
    ):
        load_images(csv_dir)
    path.rmdir()
    path.symlink_to(csv_dir / 'gone.csv')
    with pytest.raises(UserError, match='train.csv, got: a symbolic link to .*gone.csv, which is not there;'):
        load_images(csv_dir)
