"""Timing by turns: steps that are compared are taken in one run, one after the other, again and again."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from training import ImageDataset, UserError, distributed, pick_device

SPAWN = torch.multiprocessing.get_context('spawn')


def synchronise(device: torch.device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def by_turns(steps: dict[str, Callable[[], None]], device: torch.device, seconds: float) -> dict[str, float]:
    """Median milliseconds of each of steps, called by turns for so many seconds after a warm-up."""
    times = {name: [] for name in steps}
    # A GPU works on while the host launches the next step; waiting for each would count that time twice.
    number = 20 if device.type == 'cuda' else 1
    for turn in itertools.count():
        if turn == 3:
            started = time.perf_counter()
        for name, step in steps.items():
            # One step is not timed: the idle threads of the process before it still spin, and the caches have
            # its data.
            step()
            synchronise(device)
            t = time.perf_counter()
            for _ in range(number):
                step()
            synchronise(device)
            times[name].append(1e3 * (time.perf_counter() - t) / number)
        if turn > 10 and time.perf_counter() - started > seconds:
            return {name: float(np.median(values[3:])) for name, values in times.items()}


def endless(batches: Callable[[], Iterable]) -> Iterator:
    """batches() again and again, an item at a time."""
    return itertools.chain.from_iterable(iter(batches, None))


def exit_on_sigterm():
    """Let SIGTERM end this program by an exception: it removes its temporary folders, and ends the processes
    that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


# ------------------------------------------------------------------------------------- other processes


def start_process(work: Callable, *args, **environment: str) -> Connection:
    """work(pipe, *args) in a process of its own, with these changes of the environment.

    Returns the other end of the pipe. The process ends with this one, and Ctrl-C does not reach it.
    """
    pipe, end = SPAWN.Pipe()
    process = SPAWN.Process(target=run_process, args=(environment, work, end, *args), daemon=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a process starts with what its parent ignores
    process.start()
    signal.signal(signal.SIGINT, before)
    end.close()  # in this process: if the other one dies, recv raises
    return pipe


def run_process(environment: dict[str, str], work: Callable, pipe: Connection, *args):
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.update(environment)
    work(pipe, *args)


def end_with_parent():
    """A program that ends by itself also ends the processes that it started; one that is killed does not."""
    multiprocessing.parent_process().join()
    os._exit(1)


def serve_steps(pipe: Connection, make_step: Callable, train_set: ImageDataset, device: str, *args):
    """The work of a process for take_steps: the step make_step(train_set, device, *args).

    Closing the pipe ends it.
    """
    device = pick_device(device)
    step = make_step(train_set, device, *args)
    with contextlib.suppress(EOFError):  # the pipe is closed
        while True:
            for _ in range(pipe.recv()):
                step()
            synchronise(device)
            pipe.send('done')
    distributed.shutdown()


def take_steps(pipes: list[Connection], number: int):
    """Let the processes behind the pipes all take so many steps, and wait for them. UserError: one ended."""
    with contextlib.suppress(ConnectionError):  # it ended: receive says so
        for pipe in pipes:
            pipe.send(number)
    for pipe in pipes:
        receive(pipe)


def receive(pipe: Connection) -> Any:
    """What the process behind the pipe sends. UserError: it ended."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        raise UserError(
            'expected a process of this benchmark to go on, got its end; its error is above, or memory ran '
            'out: use fewer images or processes'
        ) from None


def peak_memory(device: torch.device) -> float:
    """GB, of the process or on the device."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
