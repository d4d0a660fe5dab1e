"""Training one model by several processes, as torchrun starts them. With one, every function is a no-op.

Each process owns a share of the images and of their latents. All processes draw the same order of images; of
each batch a process takes the images that it owns. The decoder is replicated, and its gradients are summed.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.command import pick_device
from training.errors import UserError
from training.files import describe_failure

# What torchrun tells its processes, the first four as numbers; the last may be missing.
TORCHRUN = ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'MASTER_PORT', 'MASTER_ADDR', 'LOCAL_WORLD_SIZE')


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process prints and writes for all of them."""
    return rank() == 0


def launched() -> int:
    """How many processes torchrun launched. UserError: its variables are not such as it sets them."""
    got = {name: os.environ[name] for name in TORCHRUN if name in os.environ}
    if got.get('WORLD_SIZE', '1') == '1':
        return 1
    with contextlib.suppress(KeyError, ValueError):  # one is missing, or no number
        n, rank, local_rank, _ = (int(got[name]) for name in TORCHRUN[:4])
        here = int(got.get('LOCAL_WORLD_SIZE', n))  # the processes on this machine
        if 0 <= rank < n and 0 <= local_rank < here and got['MASTER_ADDR']:
            return n
    raise UserError(
        f'expected {", ".join(TORCHRUN)} as torchrun sets them, got '
        f'{", ".join(f"{name}={value!r}" for name, value in got.items())}; start it with torchrun, or unset '
        f'WORLD_SIZE'
    )


def start(device_name: str | None, one_only: bool = False) -> torch.device:
    """Join the other processes, if torchrun launched several. Returns the device of this process.

    device_name: as --device. one_only: the system cannot be trained by several processes. UserError: there
    are several, or they cannot be joined, or there is no such device here.
    """
    n, device = launched(), pick_device(device_name)
    if n > 1 and one_only:
        if os.environ['RANK'] != '0':  # the error is reported once
            sys.exit(2)
        raise UserError(
            f'expected train_ad.py or train_vad.py with several processes, got {n} of them for a system '
            f'without a table of latents; start it with python'
        )
    if n > 1 and not dist.is_initialized():
        if device.type == 'cuda':
            torch.cuda.set_device(device)  # NCCL works on the current device, else GPU 0 for all processes
        before = signal.getsignal(signal.SIGINT)
        if before != signal.SIG_IGN:
            # PyTorch waits for the others without a look at Ctrl-C: it is to end the program until then.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            socket.getaddrinfo(os.environ['MASTER_ADDR'], None)  # PyTorch would try for half an hour
            dist.init_process_group('cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo')
        except (OSError, RuntimeError, ValueError) as error:
            place = f'{os.environ["MASTER_ADDR"]}, port {os.environ["MASTER_PORT"]}'
            raise UserError(
                f'expected to meet {n} processes at {place}, got: {describe_failure(error).splitlines()[0]}; '
                f'start them with torchrun, or unset WORLD_SIZE'
            ) from None
        finally:
            signal.signal(signal.SIGINT, before)
    return device


def shutdown():
    """Leave the group of processes."""
    if world_size() > 1:
        dist.destroy_process_group()


def share(n: int) -> slice:
    """This process's share of n images; the main process has the first ones. UserError: one has none."""
    size = -(-n // world_size())  # as torch.chunk and so DTensor divide a tensor
    if size * (world_size() - 1) >= n:
        fail(
            UserError(
                f'expected images for each of {world_size()} processes, in shares of {size}, got {n} images; '
                f'start fewer processes, or use a larger --n-train'
            )
        )
    return slice(rank() * size, min(n, (rank() + 1) * size))


def all_reduce(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place; returns it."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def all_mean(x: Tensor) -> Tensor:
    """The mean of all elements of a tensor of which each process has a part, 0-d."""
    if world_size() == 1:
        return x.mean()
    elements = torch.tensor(float(x.numel()), device=x.device)
    return (all_reduce(x.double().sum()) / all_reduce(elements)).to(x.dtype)


def any_process(flag: bool) -> bool:
    """Whether the flag is true in any process."""
    return bool(flag) if world_size() == 1 else bool(all_reduce(torch.tensor(float(bool(flag)))))


def all_gather(x: Tensor) -> Tensor:
    """The rows of x [m, ...] of all processes, in the order of their ranks; m may differ."""
    if world_size() == 1:
        return x
    sizes = [torch.zeros((), dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor(len(x), device=x.device))
    longest = max(map(int, sizes))
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])


def barrier():
    """Wait for all processes. If one has ended with an error, this one ends too, without a message."""
    if world_size() > 1:
        try:
            dist.barrier()
        except RuntimeError:
            sys.exit(2)


def main_first(work: Callable[[], Any]) -> Any:
    """work() in the main process, then in the others, which find the files that it made. Returns the result
    of work.

    An error is reported once: if the main process fails, the others end without a message.
    """
    if not is_main():
        barrier()
    result = work()
    if is_main():
        barrier()
    return result


def fail(error: UserError) -> NoReturn:
    """Raise an error that occurs in every process: in the main one, so that it is reported once."""
    if not is_main():
        barrier()
    raise error


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """The model with batch normalisation over all processes. UserError: on a CPU PyTorch has none."""
    if world_size() == 1 or not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return model
    if next(model.parameters()).device.type == 'cpu':
        fail(
            UserError(
                'expected a decoder without batch normalisation, whose statistics PyTorch cannot share '
                'between processes on a CPU, got one with it; use --decoder groupnorm, or one process'
            )
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def sum_gradients(_, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """The sum of a bucket of gradients over all processes, where DistributedDataParallel has their mean."""
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda future: future.value()[0])


def replicate(module: nn.Module) -> nn.Module:
    """The module, with equal weights in all processes, and gradients that are the sum of theirs."""
    if world_size() == 1:
        return module
    # The gradients as views of the buckets that are exchanged: no copies.
    replica = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    replica.register_comm_hook(None, sum_gradients)
    return replica
