import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from training.checkpoints import save_checkpoint
from training.errors import UserError
from training.files import append_line, checksum, read_json, write_array, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, [1])

    def write(temporary):
        temporary.write_text('half')
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(path, write)
    assert path.read_text() == '[\n  1\n]\n' and os.listdir(tmp_path) == ['a.json']


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_the_file_named(tmp_path, number):
    def write(_):
        raise OSError(number, os.strerror(number))

    with pytest.raises(
        UserError, match='cannot write .*a.json: the disk is full; make room and start'
    ) as error:
        write_atomically(tmp_path / 'a.json', write)
    assert 'Errno' not in str(error.value) and not os.listdir(tmp_path)


def test_a_full_disk_is_said_of_a_line_too(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('builtins.open', full)
    with pytest.raises(UserError, match='cannot write .*metrics.jsonl: the disk is full'):
        append_line(tmp_path / 'metrics.jsonl', '{}')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='Linux has such a device')
@pytest.mark.parametrize('write', [write_array, save_checkpoint])
def test_a_full_disk_is_said_by_libraries_that_write_too(write):
    with pytest.raises(UserError, match='cannot write /dev/full: the disk is full'):
        write(Path('/dev/full'), np.zeros(10**5))


@pytest.mark.parametrize('path', ['none/a.json', 'file/a.json', '.'])
def test_where_no_file_can_be_written(tmp_path, path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot write .*: [A-Z]') as error:
        write_json(tmp_path / path, {})
    assert 'Errno' not in str(error.value)


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / 'link.json').symlink_to(tmp_path / 'target.json')
    write_json(tmp_path / 'link.json', 1)
    assert (tmp_path / 'link.json').is_symlink() and (tmp_path / 'target.json').read_text() == '1\n'


def test_what_is_not_a_file_is_written_to_and_not_replaced(tmp_path):
    reader, writer = os.pipe()
    write_json(f'/dev/fd/{writer}', 1)
    assert os.read(reader, 10) == b'1\n' and stat.S_ISFIFO(os.fstat(writer).st_mode)
    os.close(reader), os.close(writer)


def test_an_array_comes_back(tmp_path):
    write_array(tmp_path / 'a.npy', np.arange(5))
    assert np.load(tmp_path / 'a.npy').tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    'content, got',
    [
        (None, 'no such file'),
        (b'', 'cannot be read as JSON'),
        (b'{"a": ', 'cannot be read as JSON'),
        (b'\xff\xfe', 'cannot be read as JSON'),
        (b'[' * 100_000, 'cannot be read as JSON'),
        (b'[]', 'got a list'),
        (b'null', 'got a NoneType'),
    ],
)
def test_what_is_no_json_object(tmp_path, content, got):
    if content is not None:
        (tmp_path / 'a.json').write_bytes(content)
    with pytest.raises(UserError, match='expected a JSON object in .*a.json, got ') as error:
        read_json(tmp_path / 'a.json')
    assert got in str(error.value) and '\n' not in str(error.value)


def test_checksums_tell_files_apart(tmp_path):
    for name, content in (('a', b'1'), ('b', b'1'), ('c', b'2')):
        (tmp_path / name).write_bytes(content)
    a, b, c = (checksum(tmp_path / name) for name in 'abc')
    assert a == b != c and len(a) == 64
