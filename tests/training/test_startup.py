"""The first seconds of a command: Ctrl-C while it imports PyTorch, and --help, which does not import it.

A file stands in for PyTorch, and says or does what the test wants to know.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import train_vad

ROOT = Path(__file__).parent.parent.parent
NAMES = 'train_ad', 'train_vad', 'train_ae', 'train_vae', 'train_gan', 'evaluate', 'impute', 'explore'
SCRIPTS = [f'{name}.py' for name in NAMES]
MODULES = ['experiments.classify', 'experiments.imputation', 'benchmarks.step', 'benchmarks.peer']
MODULES += ['benchmarks.whole_run', 'benchmarks.gpu', 'benchmarks.page']
MODULES += ['experiments.sweep_decoders', 'experiments.reproduce', 'experiments.likelihood']
WITH_HELP = [[script] for script in SCRIPTS] + [['-m', module] for module in MODULES]
MODULES += ['kernels.benchmark', 'kernels.compiled']
COMMANDS = [[script] for script in SCRIPTS] + [['-m', module] for module in MODULES]
CTRL_C = 'import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint("went on")\nraise SystemExit'


@pytest.fixture
def run(tmp_path):
    """run(torch, *command): the finished process of a command that imports the text `torch` as PyTorch."""

    def start(torch, *command):
        (tmp_path / 'torch.py').write_text(torch)
        environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'MPLBACKEND': 'nonsense'}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return start


@pytest.mark.parametrize('command', COMMANDS, ids=lambda command: command[-1])
def test_ctrl_c_is_one_line(run, command):
    result = run(CTRL_C, sys.executable, *command)
    assert (result.returncode, result.stdout, result.stderr) == (130, '', '\ninterrupted\n')


def test_an_ignored_ctrl_c_stays_ignored(run):  # as under nohup
    result = run(CTRL_C, 'sh', '-c', f'trap "" INT; exec {sys.executable} train_ad.py')
    assert (result.returncode, result.stdout) == (0, 'went on\n')


@pytest.mark.parametrize('package', ['training', 'kernels'])
def test_a_program_that_imports_the_project_is_left_alone(run, package):
    result = run(CTRL_C, sys.executable, '-c', f'import {package}')
    assert result.stderr.endswith('KeyboardInterrupt\n') and 'interrupted' not in result.stderr


@pytest.mark.parametrize('command', [['train_ad.py'], ['-m', 'kernels.benchmark']])
def test_pictures_need_no_window(run, command):
    result = run('import os\nprint(os.environ["MPLBACKEND"])\nraise SystemExit', sys.executable, *command)
    assert result.stdout == 'Agg\n'


def test_what_was_imported_is_rarely_searched_for_unreachable_objects(run):
    result = run('import gc\nprint(gc.get_threshold()[0])\nraise SystemExit', sys.executable, 'train_ad.py')
    assert int(result.stdout) >= 100_000


def test_the_end_of_a_command_searches_nothing(run):
    show = 'import atexit, gc\natexit._run_exitfuncs()\nprint(gc.get_freeze_count())\nraise SystemExit'
    assert int(run(show, sys.executable, 'train_ad.py').stdout) > 0


@pytest.mark.parametrize('own, wanted', [({}, '1000'), ({'GOMP_SPINCOUNT': '7'}, '7')])
def test_idle_threads_soon_sleep(run, monkeypatch, own, wanted):
    monkeypatch.delenv('GOMP_SPINCOUNT', raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    show = 'import os\nprint(os.environ["GOMP_SPINCOUNT"])\nraise SystemExit'
    assert run(show, sys.executable, 'train_vad.py').stdout == f'{wanted}\n'


@pytest.mark.parametrize('command', WITH_HELP, ids=lambda command: command[-1])
def test_help_is_there_without_pytorch(run, command):
    result = run('raise SystemExit("imported")', sys.executable, *command, '--help')
    assert (result.returncode, result.stderr) == (0, '') and 'usage:' in result.stdout.lower()


def test_help_is_the_same_without_pytorch(run, command):
    without = run('raise SystemExit("imported")', sys.executable, 'train_vad.py', '-h').stdout
    assert command(train_vad, '-h')[1].split() == without.split()  # but for the width of the lines


@pytest.mark.parametrize('arguments', [['evaluate.py', '--', '--help'], ['train_vad.py', '--seed', 'x']])
def test_what_is_not_for_help_has_pytorch(run, arguments):
    assert run('raise SystemExit("imported")', sys.executable, *arguments).stderr == 'imported\n'
