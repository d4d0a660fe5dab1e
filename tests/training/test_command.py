import errno
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_vad
from training.command import describe_error, pick_device, print_error, run_command
from training.errors import UserError


@pytest.mark.parametrize('name', ['tpu', 'mps', 'cuda:99', 'cpu:x'])
def test_a_device_that_is_not_here(name):
    with pytest.raises(UserError, match='expected --device to be'):
        pick_device(name)


def test_a_device_by_its_name():
    assert pick_device('cpu') == torch.device('cpu')


NEW_PAGES = """
import resource, torch
from training.command import keep_freed_memory
keep_freed_memory()
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2 ** 24)   # 2 ** 14 pages
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="mallopt, which keeps freed memory, is glibc's")
def test_freed_memory_is_kept_for_the_next_tensor(run_code):
    # In a process of its own: once memory has run out, as some tests want it, malloc works in another way.
    pages = [int(line) for line in run_code(NEW_PAGES).split()]
    assert len(pages) == 30 and max(pages[20:]) < 100  # the first tensors find no room yet


# ------------------------------------------------------------------------------- how a command ends


FULL = 'the disk is full; make room and start the same command again, of a run with --resume'


@pytest.mark.parametrize(
    'error, message',
    [
        (PermissionError(errno.EACCES, 'Permission denied', 'x'), 'cannot use x: Permission denied'),
        (OSError(errno.ENOSPC, 'No space left on device', 'x'), f'cannot use x: {FULL}'),
        (OSError(errno.EDQUOT, 'Disk quota exceeded'), FULL),
        (OSError(errno.EIO, 'Input/output error'), 'Input/output error'),
        (OSError('no number'), 'no number'),
        (UserError('expected this'), 'expected this'),
        (MemoryError(), 'not enough memory; ask for fewer images or draws, smaller batches or latents'),
        (ValueError('a fault of the program'), None),
    ],
)
def test_an_error_in_words(error, message):
    assert describe_error(error) == message


def test_an_error_is_one_line_whatever_the_name_of_a_file(capsys):
    print_error('no such file: a\nb')
    assert capsys.readouterr().err == 'error: no such file: a\\nb\n'


@pytest.mark.parametrize('word', ['', '--run-dir='])
def test_an_empty_flag_is_said(command, one_line, word):
    status, out, err = command(train_vad, *['--run-dir'] * (not word), word)
    assert status == 2 and one_line(err) and 'expected a value, got an empty one' in err and not out


def test_ctrl_c_is_an_exception_only_while_main_runs(ctrl_c):
    def main():
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()

    def first(*_):
        """The handler of the first seconds, say."""

    before = signal.signal(signal.SIGINT, first)
    run_command(main)
    assert signal.signal(signal.SIGINT, before) is first


def test_ctrl_c_that_a_library_makes_another_error_of_is_still_ctrl_c(capsys, ctrl_c):
    def main():  # as matplotlib does, whose C++ code KeyboardInterrupt went through
        try:
            ctrl_c()
        except KeyboardInterrupt:
            raise ValueError('Invalid affine transformation matrix') from None

    with pytest.raises(SystemExit) as exit:
        run_command(main)
    assert exit.value.code == 130 and capsys.readouterr().err == '\ninterrupted\n'


PRINT = 'from training.command import run_command; run_command(lambda: print("Fr\\xe9chet"))'


def run_print(stdout, **environment):
    command = [sys.executable, '-c', PRINT]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_reader_that_has_gone_is_no_error():
    reader = subprocess.Popen(['true'], stdin=subprocess.PIPE)
    reader.wait()
    result = run_print(reader.stdin)
    assert (result.returncode, result.stderr) == (1, '')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a device of Linux')
def test_output_that_cannot_be_written_is_one_line():
    with open('/dev/full', 'w') as full:
        result = run_print(full)
    assert (result.returncode, result.stderr) == (2, f'error: {FULL}\n')


def test_a_terminal_without_accents_gets_the_output():
    result = run_print(subprocess.PIPE, PYTHONIOENCODING='ascii')
    assert (result.returncode, result.stdout) == (0, 'Fr\\xe9chet\n')


def test_a_closed_output_is_no_error():
    command = ['sh', '-c', f"exec {sys.executable} -c '{PRINT}' >&-"]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, '')
