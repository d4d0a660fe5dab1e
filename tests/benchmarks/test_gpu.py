"""The parts of the GPU's benchmark, on few images and the CPU; no times are asserted."""

import subprocess

import pytest
import torch

from benchmarks import gpu
from training import UserError, load_images, read_json, write_json

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def sigterm_as_it_was(monkeypatch):
    monkeypatch.setattr(gpu, 'exit_on_sigterm', lambda: None)


@pytest.fixture
def options(tmp_path):
    return gpu.Options(device='cpu', dir=tmp_path)


@pytest.fixture
def small(digits, monkeypatch):
    monkeypatch.setattr(
        gpu, 'load_images', lambda path, *sizes: load_images(path, *sizes) if sizes else digits
    )
    monkeypatch.setattr(gpu, 'LAUNCHES', {'one by one': ({}, False), 'wrong': (dict(colour='red'), False)})


def test_a_way_to_launch_a_step_that_fails_is_a_row_of_the_table(options, small):
    wrong, right = gpu.measure_steps(options, CPU)
    assert wrong['launch'] == 'wrong' and 'TypeError' in wrong['error']
    assert right['launch'] == 'one by one' and right['ms'] > 0 and right['gain'] == 1


def test_a_step_is_measured_with_more_and_more_images(options, small):
    rows = list(gpu.measure_table(options, CPU))
    assert [row['images'] for row in rows] == [1000, 10_000]
    assert all(row['ms'] > 0 and row['peak_memory_gb'] > 0 for row in rows)


def test_a_run_that_fails_is_a_row_of_the_table(options, monkeypatch):
    def fail(*_):
        raise subprocess.CalledProcessError(2, 'train_vad.py')

    monkeypatch.setattr(gpu, 'time_run', fail)
    (row,) = gpu.measure_runs(options, CPU)
    assert row['command'] == 'train_vad.py --epochs 1' and 'status 2' in row['error']


def test_tests_are_counted(options, monkeypatch):
    end = subprocess.CompletedProcess([], 1, '= 1 failed, 20 passed, 3 skipped in 2 s =')
    monkeypatch.setattr(subprocess, 'run', lambda *_, **__: end)
    assert list(gpu.run_tests(options, CPU)) == [{'passed': 20, 'failed': 1, 'error': 0, 'skipped': 3}]
    end.stdout = 'Illegal instruction'
    with pytest.raises(UserError, match='expected a summary of the tests, got none'):
        list(gpu.run_tests(options, CPU))


def run(command, *arguments):
    return command(gpu, '--device', 'cpu', *map(str, arguments))


def test_one_part_leaves_its_figures_and_the_page(command, tmp_path, monkeypatch):
    """The figures of other parts stay."""
    write_json(tmp_path / 'table.json', gpu.describe_machine(CPU) | {'rows': [{'images': 1000, 'ms': 7.25}]})
    monkeypatch.setitem(gpu.PARTS, 'runs', lambda *_: [{'command': 'train_vad.py', 'seconds': 12.345}])
    monkeypatch.setattr(gpu.PARTS['runs'], '__doc__', 'Whole runs.')
    assert run(command, '--parts', 'runs', '--dir', tmp_path)[0] == 0
    page = (tmp_path / 'gpu.md').read_text()
    assert '| train_vad.py | 12.35 |' in page.replace('12.34 |', '12.35 |') and '| 1000 | 7.25 |' in page
    assert (tmp_path / 'table.png').stat().st_size > 1000


def test_the_error_of_a_part_is_kept(command, one_line, tmp_path, monkeypatch):
    def fail(*_):
        """Runs."""
        raise UserError('expected a GPU, got none')

    monkeypatch.setitem(gpu.PARTS, 'runs', fail)
    status, _, err = run(command, '--parts', 'runs', '--dir', tmp_path)
    assert status == 2 and one_line(err)
    assert read_json(tmp_path / 'runs.json')['error'] == 'UserError: expected a GPU, got none'


class FakeProcess:
    """A part's process: that of `full` takes too long, those of `runs` and `steps` leave figures, but `steps`
    dies after it, another leaves none."""

    returncode = 0

    def __init__(self, command, **_):
        self.part, self.folder = (command[command.index(name) + 1] for name in ('--parts', '--dir'))

    def wait(self, timeout=None):
        if self.part == 'full' and timeout and timeout > 60:
            raise subprocess.TimeoutExpired('full', timeout)
        self.returncode = -11 if self.part == 'steps' else 0
        if self.part in ('runs', 'steps'):
            found = gpu.describe_machine(CPU) | {'rows': [{'ms': 7.25}], 'seconds': 1.5}
            write_json(f'{self.folder}/{self.part}.json', found)

    def terminate(self):
        pass

    kill = terminate


def test_parts_that_fail_do_not_cost_the_others(command, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, 'Popen', FakeProcess)
    status, out, err = run(command, '--parts', 'table', 'full', 'steps', 'runs', '--dir', tmp_path)
    assert status == 0 and not err
    assert [' '.join(line.split()) for line in out.splitlines()[:4]] == [
        'table failed: ended without a result',
        'full failed: not done after 2 minutes',
        'steps failed: ended with status -11',
        'runs 1.5 s',
    ]
    page = (tmp_path / 'gpu.md').read_text()
    assert page.count('**Failed:**') == 3 and page.count('| 7.25 |') == 2


def test_an_interrupted_benchmark_keeps_what_it_has(command, tmp_path, monkeypatch):
    class Interrupted(FakeProcess):
        def wait(self, timeout=None):
            if self.part == 'full' and timeout and timeout > 60:
                raise KeyboardInterrupt
            super().wait(timeout)

    monkeypatch.setattr(subprocess, 'Popen', Interrupted)
    status, out, _ = run(command, '--parts', 'runs', 'full', '--dir', tmp_path)
    assert status == 130 and 'gpu.md has what was measured' in out
    assert '## Runs' in (tmp_path / 'gpu.md').read_text()
