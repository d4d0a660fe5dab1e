"""A whole run is timed. A short script stands in for train_vad.py."""

import os
import signal
import tempfile

import pytest

from benchmarks import whole_run

RUN = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[-1])
folder.mkdir()
"""
RESULTS = 'dict(device="cpu", train_seconds=0.1, test_seconds=0.2)'
WRITE = f'(folder / "results.json").write_text(json.dumps({RESULTS}))'


@pytest.fixture
def run(command, tmp_path, monkeypatch):
    """run(end, *arguments): status, output, errors of the benchmark when the script ends by this line."""
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def start(end, *arguments):
        (tmp_path / 'train_vad.py').write_text(RUN + end)
        return command(whole_run, *arguments)

    yield start
    signal.signal(signal.SIGTERM, before)
    assert not list((tmp_path / 'temporary').iterdir())


def test_a_table_of_seconds(run):
    status, out, err = run(WRITE)
    assert status == 0 and not err and out.startswith('train_vad.py on cpu')
    assert 'fitting test latents          0.2 s' in out and 'the whole process' in out


@pytest.mark.parametrize(
    'end, arguments, message',
    [
        (WRITE, ['train_foo.py'], "expected one of train_vad.py, got 'train_foo.py'"),
        (WRITE, ['train_vad.py', '--run-dir', 'x'], 'expected no --run-dir'),
        (WRITE, ['train_vad.py', '--run-dir=x'], 'expected no --run-dir'),
        ('', [], 'expected train_vad.py to train one run, got none'),
        ('os.kill(os.getpid(), 9)', [], 'expected train_vad.py to end by itself, got its end by signal 9'),
    ],
)
def test_what_is_wrong_is_one_line(run, one_line, end, arguments, message):
    status, out, err = run(end, *arguments)
    assert status == 2 and one_line(err) and message in err and not out


def test_the_script_has_said_what_is_wrong(run):
    assert run('sys.exit(3)') == (3, '', '')


@pytest.mark.parametrize('name, status', [('SIGINT', 130), ('SIGTERM', 143)])
def test_a_signal_ends_the_script_too(run, tmp_path, name, status):
    end = f'Path("pid").write_text(str(os.getpid()))\nos.kill(os.getppid(), signal.{name})\ntime.sleep(60)'
    assert run(end) == (status, '', '\ninterrupted\n' if name == 'SIGINT' else '')
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)
