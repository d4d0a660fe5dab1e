"""Tensors of which each process has a part, written to a folder by all processes together.

As many processes as wrote them, or fewer, or more, can read them.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from training.files import checksum, describe_failure


class Failed(Exception):
    """The message says why, in one line."""


def distribute(parts: dict[str, Tensor], n: int) -> dict[str, DTensor]:
    """Tensors [C, m, ...], this process's parts of [C, n, ...], with their places in the whole."""
    mesh = init_device_mesh('cpu', (dist.get_world_size(),))

    def whole(x):
        shape = torch.Size((x.shape[0], n, *x.shape[2:]))
        stride = torch.empty(shape, device='meta').stride()
        return DTensor.from_local(x.cpu().contiguous(), mesh, [Shard(1)], shape=shape, stride=stride)

    return {name: whole(x) for name, x in parts.items()}


def write(folder: Path, parts: dict[str, Tensor], n: int) -> dict[str, str]:
    """Write the parts of all processes. Returns the checksums of all files in folder. Failed: they cannot be
    written."""
    attempt(dcp.save, distribute(parts, n), folder)
    own = [*folder.glob(f'__{dist.get_rank()}_*'), *([folder / '.metadata'] if dist.get_rank() == 0 else [])]
    checksums = [{}] * dist.get_world_size()
    dist.all_gather_object(checksums, {path.name: checksum(path) for path in own})
    return {name: value for each in checksums for name, value in each.items()}


def verify(folder: Path, checksums: dict[str, str]):
    """Failed, in all processes: a file is missing or not as it was written. Each process reads some."""
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    bad = [name for name in sorted(checksums)[rank::count] if not is_whole(folder / name, checksums[name])]
    every = [bad]
    if count > 1:
        every = [None] * count
        dist.all_gather_object(every, bad)
    bad = [name for names in every for name in names]
    if bad:
        raise Failed(f'a file {bad[0]} that is missing or does not agree with its checksum')


def is_whole(path: Path, expected: str) -> bool:
    return path.is_file() and checksum(path) == expected


def read(folder: Path, parts: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """This process's parts of the tensors in folder. Failed: there are none, or of another size."""
    if dist.is_initialized():
        whole = distribute({name: torch.empty_like(x) for name, x in parts.items()}, n)
        attempt(dcp.load, whole, folder)
        return {name: x.to_local() for name, x in whole.items()}
    whole = {name: torch.empty_like(x, device='cpu') for name, x in parts.items()}
    attempt(dcp.load, whole, folder)
    return whole


def attempt(work: Callable, state: dict[str, Tensor], folder: Path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PyTorch warns of a single process, which is intended here
            work(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    except (CheckpointException, OSError, RuntimeError, ValueError) as error:
        while isinstance(error, CheckpointException):  # it wraps the errors of the processes
            error = next(iter(error.failures.values()))[0]
        raise Failed(describe_failure(error).splitlines()[0]) from None
