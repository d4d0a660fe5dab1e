"""Errors of the kernels' commands. They need a process of their own, which ends at once."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

import kernels.command

RUN = f'import runpy; runpy.run_path({kernels.command.__file__!r})["run_command"](main)'  # without PyTorch


def run(main, stdout=subprocess.PIPE):
    command = [sys.executable, '-c', f'def main():\n    {main}\n{RUN}']
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    'main, status, err',
    [
        ('open("nowhere/x")', 2, 'error: cannot use nowhere/x: No such file or directory\n'),
        ('raise OSError(5, "Input/output error")', 2, 'error: Input/output error\n'),
        ('raise KeyboardInterrupt', 130, '\ninterrupted\n'),
    ],
)
def test_what_ends_a_command_is_one_line(main, status, err):
    result = run(main)
    assert (result.returncode, result.stderr) == (status, err)


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a device of Linux')
def test_output_that_cannot_be_written_is_one_line():
    with open('/dev/full', 'w') as full:
        result = run('print("x")', stdout=full)
    assert (result.returncode, result.stderr) == (2, 'error: the disk is full; make room\n')


def test_a_file_that_cannot_be_written_is_named():
    with pytest.raises(OSError) as error, kernels.command.writing(Path('a.json')):
        raise OSError(errno.ENOSPC, 'No space left on device')  # as write() raises it
    assert error.value.filename == 'a.json' and error.value.errno == errno.ENOSPC


def test_a_reader_that_has_gone_is_no_error():
    reader = subprocess.Popen(['true'], stdin=subprocess.PIPE)
    reader.wait()
    assert run('print("x")', stdout=reader.stdin).stderr == ''
