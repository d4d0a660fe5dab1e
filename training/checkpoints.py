"""Checkpoints, of one process or of several, and the lines of metrics beside them."""

import contextlib
import json
import shutil
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from training.batches import Images
from training.distributed import any_process, barrier, fail, is_main, world_size
from training.errors import UserError
from training.files import describe_failure, write_atomically
from training.schema import TensorOf, check, like, refuse, tensor_difference


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl, one an epoch; none if there is no such file.

    Broken lines, cut off by a full disk, say, are left out.
    """
    metrics = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / 'metrics.jsonl').read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # also of bytes that are no text
                values = json.loads(line)
                if isinstance(values, dict) and all(type(x) in (int, float) for x in values.values()):
                    metrics.append(values)
    return [line for line in metrics if {'epoch', 'seconds'} <= line.keys()]


def save_checkpoint(path: Path, state: dict):
    """UserError: the disk is full, or another reason that the file cannot be written."""

    def write(temporary):
        with open(temporary, 'wb') as file:  # given a path, torch.save does not say why it cannot write
            torch.save(state, file)

    write_atomically(path, write)


def load_checkpoint(path: Path, device: torch.device | str = 'cpu') -> dict:
    """The state in a checkpoint. UserError: it is not a whole checkpoint, or a byte of it has changed."""
    try:
        with zipfile.ZipFile(path) as archive:  # as which torch.save writes, with a checksum of every part
            damaged = archive.testzip()
        if damaged:
            refuse('a whole checkpoint', f'one whose part {damaged} does not agree with its checksum', path)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PyTorch's of sparse tensors, which no checkpoint has
            state = torch.load(path, map_location=device, weights_only=True)
    except UserError:
        raise
    except OSError as error:
        refuse('a checkpoint', describe_failure(error), path)
    except Exception as error:  # torch and zipfile raise many types for a file that is not one of torch's
        refuse('a checkpoint', f'a file that cannot be read as one ({type(error).__name__})', path)
    check(state, dict, path)
    check(state.get('config'), dict, path, 'config')
    if state.get('stage') not in ('training', 'trained'):
        refuse('training or trained as stage', repr(state.get('stage'))[:50], path)
    return state


# --------------------------------------------------------------------------------- of several processes


def save_shared_checkpoint(path: Path, state: dict, n: int):
    """Write a checkpoint of all processes.

    state['shares']: what differs between them, of each tensor [C, n, ...] this process's part [C, m, ...]. Of
    several processes they go to a folder beside the checkpoint, which names it: after a crash in between the
    old checkpoint is still whole. UserError: the disk is full, or another reason that it cannot be written.
    """
    if world_size() > 1:
        from training import shards  # here: its imports from PyTorch take two seconds

        folder = path.with_name(f'shares-{state["step"]}')
        try:
            checksums = shards.write(folder, state['shares'], n)
        except shards.Failed as error:
            fail(UserError(f'cannot write {folder}: {error}'))
        state = {**state, 'shares': {'folder': folder.name, 'checksums': checksums}}
    if is_main():
        save_checkpoint(path, state)
        remove_shares(path, keep=state.get('shares', {}).get('folder'))
    barrier()  # where the others end, without a message, if the main process could not write


def load_shares(path: Path, saved: dict, shares: dict[str, Tensor], images: Images):
    """Fill the tensors `shares` of this process from the checkpoint in path.

    saved: its entry 'shares': whole tensors, or their folder, whatever the number of processes that wrote it.
    UserError: they cannot be read, or are others.
    """
    if 'folder' in saved:
        parts = load_shards(path, saved, shares, images.total)
    else:
        whole = {name: TensorOf(x.dtype, (len(x), images.total, *x.shape[2:])) for name, x in shares.items()}
        check(saved, whole, path, 'shares')
        parts = {name: saved[name][:, images.first : images.first + images.n] for name in shares}
    for name, x in shares.items():
        x.copy_(parts[name])


def load_shards(path: Path, saved: dict, shares: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """This process's parts of tensors in the folder that the checkpoint in path names. UserError: see
    load_shares."""
    from training import shards

    check(saved, {'folder': str, 'checksums': dict}, path, 'shares')
    folder, parts, problem = path.parent / Path(saved['folder']).name, {}, None
    try:
        shards.verify(folder, saved['checksums'])
        parts = shards.read(folder, shares, n)
    except shards.Failed as error:
        problem = str(error)
    for name, x in parts.items():
        problem = problem or tensor_difference(x, like(shares[name]))
    if any_process(bool(problem)):  # a part may be sound where another is not
        refuse(f'the latents of {n} images', problem or 'a damaged file', folder)
    return parts


def remove_shares(path: Path, keep: str | None = None):
    """Remove the shares of other checkpoints than the one in path."""
    for folder in path.parent.glob('shares-*'):
        if folder.name != keep:
            shutil.rmtree(folder)
