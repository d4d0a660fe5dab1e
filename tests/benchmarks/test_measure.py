"""The processes that a benchmark starts."""

import multiprocessing
import os
import signal
import time

import pytest

from benchmarks import measure
from training.errors import UserError


@pytest.fixture
def fork(monkeypatch):
    """A fork has imported everything already."""
    context = multiprocessing.get_context('fork')
    monkeypatch.setattr(measure, 'SPAWN', context)
    return context


def test_a_process_ends_with_a_benchmark_that_is_killed(fork):
    read, write = os.pipe()  # its end is read when no process has `write` any more

    def benchmark(end):
        os.close(read)
        measure.start_process(lambda pipe: (pipe.send('here'), time.sleep(600))).recv()
        end.send('started')
        time.sleep(600)

    ours, end = fork.Pipe()
    killed = fork.Process(target=benchmark, args=(end,))
    killed.start()
    os.close(write)
    assert ours.recv() == 'started'
    killed.kill()
    assert os.read(read, 1) == b''


def test_ctrl_c_does_not_reach_a_process(fork):
    before = signal.getsignal(signal.SIGINT)
    pipe = measure.start_process(lambda pipe: pipe.send(signal.getsignal(signal.SIGINT)))
    assert measure.receive(pipe) == signal.SIG_IGN and signal.getsignal(signal.SIGINT) == before


def test_a_process_that_ended_is_said(fork):
    pipe = measure.start_process(lambda pipe: os._exit(1))
    with pytest.raises(UserError, match='expected a process of this benchmark to go on, got its end'):
        measure.take_steps([pipe], 1)
