"""Timing by turns: steps that are compared are taken in one run, one after the other, again and again."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch

from training import ImageDataset, distributed, pick_device

SPAWN = torch.multiprocessing.get_context('spawn')


def synchronise(device: torch.device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def by_turns(steps: dict[str, Callable[[], None]], device: torch.device, seconds: float) -> dict[str, float]:
    """Median milliseconds of each of steps, called by turns for so many seconds after a warm-up."""
    times = {name: [] for name in steps}
    for turn in itertools.count():
        if turn == 3:
            started = time.perf_counter()
        for name, step in steps.items():
            # One step is not timed: the idle threads of the process before it still spin, and the caches have
            # its data.
            step()
            synchronise(device)
            t = time.perf_counter()
            step()
            synchronise(device)
            times[name].append(1e3 * (time.perf_counter() - t))
        if turn > 10 and time.perf_counter() - started > seconds:
            return {name: float(np.median(values[3:])) for name, values in times.items()}


def endless(batches: Callable[[], Iterable]) -> Iterator:
    """batches() again and again, an item at a time."""
    return itertools.chain.from_iterable(iter(batches, None))


def ignore_interrupts():
    """For processes started here: Ctrl-C ends their parent, and that ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start_process(
    make_step: Callable, train_set: ImageDataset, device: str, *args, **environment: str
) -> Connection:
    """A process of its own for the step make_step(train_set, device, *args).

    Returns the pipe for take_steps; closing it ends the process.
    """
    pipe, end = SPAWN.Pipe()
    args = (end, environment, make_step, train_set, device, *args)
    SPAWN.Process(target=serve_steps, args=args, daemon=True).start()
    end.close()  # in this process: if the other one dies, recv raises
    return pipe


def serve_steps(
    pipe: Connection, environment: dict[str, str], make_step: Callable, train_set, device: str, *args
):
    ignore_interrupts()
    os.environ.update(environment)
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
    """Let the processes behind the pipes all take so many steps, and wait for them."""
    for pipe in pipes:
        pipe.send(number)
    for pipe in pipes:
        pipe.recv()


def peak_memory(device: torch.device) -> float:
    """GB, of the process or on the device."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
