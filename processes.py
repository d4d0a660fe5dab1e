"""Several processes that train one model, as torchrun starts them; for one process everything here is nothing.

Each process owns a share of the images, and their rows of the table of latents. All draw the same order of images; of each
batch a process takes the images that it owns. The decoder is everybody's: DistributedDataParallel averages its gradient.
"""
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import utils


def count():
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def expected():
    """How many processes torchrun started."""
    return int(os.environ.get('WORLD_SIZE', 1))


def start(device):
    """Meet the other processes. device: this process's."""
    if expected() > 1 and not dist.is_initialized():
        dist.init_process_group('cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo')


def share(n):
    """The images of this process, a slice of all n: the first process has the first ones. UserError: a process has none."""
    size = -(-n // count())                       # as torch.chunk and so DTensor divide a tensor
    if size * (count() - 1) >= n:
        raise utils.UserError(f'expected images for each of {count()} processes, in shares of {size}, got {n} images; start fewer '
                              f'processes, or use a larger --n-train')
    return slice(rank() * size, min(n, (rank() + 1) * size))


def total(x):
    """The sum of a tensor over all processes; x itself may be changed."""
    if count() > 1:
        dist.all_reduce(x)
    return x


def mean(x):
    """The mean of all elements of a tensor of which each process has a part, 0-d."""
    return x.mean() if count() == 1 else total(x.double().sum()).div_(total(torch.tensor(float(x.numel()), device=x.device))).to(x)


def any_of(flag):
    """Whether any process says so."""
    return bool(flag) if count() == 1 else bool(total(torch.tensor(float(bool(flag)))))


def gather(rows):
    """The rows [m, ...] of all processes, in the order of their ranks; m may differ."""
    if count() == 1:
        return rows
    sizes = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(count())]
    dist.all_gather(sizes, torch.tensor(len(rows), device=rows.device))
    longest = max(map(int, sizes))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])


def in_turn(work):
    """work() by the first process, then by the others: they find what it made. Returns what it returns."""
    if count() == 1:
        return work()
    if rank():
        dist.barrier()
    result = work()
    if not rank():
        dist.barrier()
    return result


# ------------------------------------------------------------------------------------ checkpoints in shards

def whole_tensors(shares, n):
    """Shares [C, m, ...] of tensors [C, n, ...], as tensors that know their place in the whole."""
    mesh = init_device_mesh('cpu', (count(),))

    def whole(x):
        shape = (x.shape[0], n, *x.shape[2:])
        return DTensor.from_local(x, mesh, [Shard(1)], run_check=False, shape=shape, stride=torch.empty(shape, device='meta').stride())
    return {name: whole(x.cpu()) for name, x in shares.items()}


def save(path, state, shares, n):
    """Write a checkpoint of all processes: state, the same in each, to path, and their shares, tensors [C, m, ...] of [C, n, ...],
    to a folder beside it. The new state is what makes the new shares valid: a crash in between leaves the old ones.

    UserError: the disk is full, or another reason that they cannot be written.
    """
    name = f'shares-{state["step"]}'
    try:
        dcp.save(whole_tensors(shares, n), checkpoint_id=path.with_name(name))
    except (CheckpointException, OSError, RuntimeError) as error:
        raise utils.UserError(f'cannot write {path.with_name(name)}: {reason(error)}; make room and go on with --resume') from None
    if not rank():
        utils.save_checkpoint(path, {**state, 'shares': name})
    clean(path, keep=name)


def load(path, name, shares, n):
    """Fill the tensors shares from a checkpoint's folder, whatever the number of processes that wrote it."""
    state = whole_tensors(shares, n) if count() > 1 else {key: torch.empty_like(x, device='cpu') for key, x in shares.items()}
    try:
        dcp.load(state, checkpoint_id=path.with_name(name))
    except (CheckpointException, OSError, RuntimeError, ValueError, KeyError) as error:
        raise utils.UserError(f'expected shares of a table in {path.with_name(name)}, got {reason(error)}; delete the run and train '
                              f'again') from None
    for key, x in shares.items():
        x.copy_(state[key].to_local() if count() > 1 else state[key])


def reason(error):
    """The innermost cause of a CheckpointException, in one line."""
    while isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return (str(error).splitlines() or [type(error).__name__])[0]


def clean(path, keep=None):
    """Remove the shares of earlier checkpoints."""
    if not rank():
        for folder in path.parent.glob('shares-*'):
            if folder.name != keep:
                shutil.rmtree(folder)
