"""Several processes that train one model, as torchrun starts them; for one process everything here is nothing.

Each process owns a share of the images, and their rows of the table of latents. All draw the same order of images; of each
batch a process takes the images that it owns. The decoder is everybody's: DistributedDataParallel averages its gradient.
"""

import os
import shutil
import sys

import torch
import torch.distributed as dist

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
        if device.type == 'cuda':
            torch.cuda.set_device(device)  # NCCL's choice, else the first one for all
        dist.init_process_group('cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo')


def leave():
    """Part from the other processes. Whether this is the first one, which goes on alone."""
    first = not rank()
    if count() > 1:
        dist.destroy_process_group()
    return first


def share(n):
    """The images of this process, a slice of all n: the first process has the first ones. UserError: a process has none."""
    size = -(-n // count())  # as torch.chunk and so DTensor divide a tensor
    if size * (count() - 1) >= n:
        fail(
            utils.UserError(
                f'expected images for each of {count()} processes, in shares of {size}, got {n} images; start fewer '
                f'processes, or use a larger --n-train'
            )
        )
    return slice(rank() * size, min(n, (rank() + 1) * size))


def total(x):
    """The sum of a tensor over all processes; x itself may be changed."""
    if count() > 1:
        dist.all_reduce(x)
    return x


def mean(x):
    """The mean of all elements of a tensor of which each process has a part, 0-d."""
    if count() == 1:
        return x.mean()
    elements = torch.tensor(float(x.numel()), device=x.device)
    return (total(x.double().sum()) / total(elements)).to(x.dtype)


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
    """work() by the first process, then by the others: they find what it made. Returns what it returns. If the first one
    fails, it says why, and the others end without a word."""
    if rank():
        wait()
    result = work()
    if not rank():
        wait()
    return result


def wait():
    """Until all are here; one that was left alone ends."""
    if count() > 1:
        try:
            dist.barrier()
        except RuntimeError:
            sys.exit(2)


def fail(error):
    """Raise an error that every process meets: by the first one, so that it is said once."""
    if rank():
        wait()
    raise error


# ------------------------------------------------------------------------------------------- checkpoints


def save(path, state, n):
    """Write a checkpoint of all processes to path. What differs between them, the tensors state['shares'], each [C, m, ...] of
    [C, n, ...], goes to a folder beside it, which only the new state makes valid: a crash in between leaves the old one.

    UserError: the disk is full, or another reason that it cannot be written.
    """
    if count() > 1:
        import shards  # here: what it needs of PyTorch takes two seconds to import

        folder = path.with_name(f'shares-{state["step"]}')
        try:
            shards.write(folder, state['shares'], n)
        except shards.Failed as error:
            fail(utils.UserError(f'cannot write {folder}: {error}; make room and go on with --resume'))
        state = {**state, 'shares': folder.name}
    if not rank():
        utils.save_checkpoint(path, state)
        clean(path, keep=state.get('shares'))


def load(path, saved, shares, images):
    """Fill this process's tensors shares from the checkpoint in path, whose 'shares' are saved: whole tensors, or the name of
    their folder, whatever the number of processes that wrote it. UserError: they cannot be read, or are of another size."""
    if isinstance(saved, str):
        import shards

        try:
            parts = shards.read(path.with_name(saved), shares, images.total)
        except shards.Failed as error:
            fail(
                utils.UserError(
                    f'expected the latents of {images.total} images in {path.with_name(saved)}, got: {error}; delete the '
                    f'run and train again'
                )
            )
    else:
        parts = {name: saved[name][:, images.first : images.first + images.n] for name in shares}
    for name, x in shares.items():
        if parts[name].shape != x.shape:
            fail(
                utils.UserError(
                    f'expected the latents of {images.total} images in {path}, got {name} of shape '
                    f'{list(parts[name].shape)} instead of {list(x.shape)}; delete the run and train again'
                )
            )
        x.copy_(parts[name])


def clean(path, keep=None):
    """Remove the shares of other checkpoints."""
    for folder in path.parent.glob('shares-*'):
        if folder.name != keep:
            shutil.rmtree(folder)
