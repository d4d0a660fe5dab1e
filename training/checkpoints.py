"""Files that are whole or not there at all, and checkpoints, of one process or of several."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.batches import Images
from training.distributed import fail, is_main, world_size
from training.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], Any]):
    """write(temporary path), then rename: a reader of `path` sees the old file or the new one, whole."""
    temporary = Path(path).with_name(Path(path).name + '.tmp')
    write(temporary)
    os.replace(temporary, path)


def write_json(path: Path, value: Any):
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + '\n'))


def read_json(path: Path) -> dict:
    """The object in a JSON file. UserError: it cannot be read as one."""
    try:
        value = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        value = error
    if not isinstance(value, dict):
        raise UserError(f'expected a JSON object in {path}, got {str(value)[:100]}; train the run again')
    return value


def write_array(path: Path, array: np.ndarray):
    """Write a .npy file."""

    def write(temporary):
        with open(temporary, 'wb') as file:  # an open file: to a name numpy would add .npy
            np.save(file, array)

    write_atomically(path, write)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl, one an epoch; a last line that was cut off (by a full disk, say) is
    left out."""
    metrics = []
    for line in (folder / 'metrics.jsonl').read_text().splitlines():
        try:
            metrics.append(json.loads(line))
        except ValueError:
            break
    return metrics


def save_checkpoint(path: Path, state: dict):
    """UserError: the disk is full, or another reason that the file cannot be written."""
    try:
        write_atomically(path, lambda temporary: torch.save(state, temporary))
    except RuntimeError as error:  # what torch raises when the disk is full
        raise UserError(
            f'cannot write {path}: {str(error).splitlines()[0]}; make room and go on with --resume'
        ) from None


def load_checkpoint(path: Path, device: torch.device | str = 'cpu') -> dict:
    """The state in a checkpoint. UserError: it is not a whole checkpoint."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not one of its own
        state = type(error).__name__
    if not isinstance(state, dict) or not isinstance(state.get('config'), dict):
        reason = state if isinstance(state, str) else 'other contents'
        raise UserError(
            f'expected a checkpoint in {path}, got a file that cannot be read as one ({reason}); delete its '
            f'folder and train again'
        )
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
            shards.write(folder, state['shares'], n)
        except shards.Failed as error:
            fail(UserError(f'cannot write {folder}: {error}; make room and go on with --resume'))
        state = {**state, 'shares': folder.name}
    if is_main():
        save_checkpoint(path, state)
        remove_shares(path, keep=state['shares'] if world_size() > 1 else None)


def load_shares(path: Path, saved: dict[str, Tensor] | str, shares: dict[str, Tensor], images: Images):
    """Fill the tensors `shares` of this process from the checkpoint in path.

    saved: its entry 'shares': whole tensors, or the name of their folder, whatever the number of processes
    that wrote it. UserError: they cannot be read, or are of another size.
    """
    what = f'expected the latents of {images.total} images in'
    if isinstance(saved, str):
        from training import shards

        folder = path.with_name(saved)
        try:
            parts = shards.read(folder, shares, images.total)
        except shards.Failed as error:
            fail(UserError(f'{what} {folder}, got: {error}; delete the run and train again'))
    elif saved.keys() != shares.keys():
        got = f'{", ".join(saved)} instead of {", ".join(shares)}'
        fail(UserError(f'{what} {path}, got {got}; delete the run and train again'))
    else:
        parts = {name: saved[name][:, images.first : images.first + images.n] for name in shares}
    for name, x in shares.items():
        if parts[name].shape != x.shape:
            got = f'{name} of shape {list(parts[name].shape)} instead of {list(x.shape)}'
            fail(UserError(f'{what} {path}, got {got}; delete the run and train again'))
        x.copy_(parts[name])


def remove_shares(path: Path, keep: str | None = None):
    """Remove the shares of other checkpoints than the one in path."""
    for folder in path.parent.glob('shares-*'):
        if folder.name != keep:
            shutil.rmtree(folder)
