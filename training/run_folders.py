"""Run folders: whose they are, and how a run takes the place of an older one.

A run grows in its folder. Where that holds a finished run, the successor grows in a hidden folder inside, and
takes its place when it is finished: whatever other folders are called, no run is lost by its name.
"""

import contextlib
import datetime
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from training.errors import UserError
from training.files import describe_failure

SUCCESSOR = '.successor'
# What a run writes. Other files in its folder are the user's, and stay.
FILES = (
    *('config.json', 'checkpoint.pt', 'metrics.jsonl', 'results.json', 'report.html', 'map.json', 'map.jpg'),
    *('amortisation.json', 'classify.json', 'samples.gif', 'interpolation.gif', 'reconstructions.png'),
    *('samples.png', 'interpolation.png', 'magnitudes.png', 'tsne_train.png', 'tsne_test.png', 'codes.png'),
    *('grid.png', 'loss.png', 'amortisation.png', 'imputed.png', 'likelihood.png', 'confusion.png'),
    *('samples_prior.npy', 'samples_two-stage.npy', 'samples_mixture.npy', 'shares-*'),
    '.new-*',  # half a file
)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """The folder belongs to this process until the end of the block. UserError: it belongs to another.

    The operating system ends a lock with its process, however that ends.
    """
    lock, owner = filelock.FileLock(folder / '.lock', timeout=0), folder / '.owner'
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f'expected a folder that no other process works in, got {folder}, which {read_owner(owner)}; '
            f'wait until it has ended, or name another folder'
        ) from None
    except OSError as error:
        raise UserError(f'cannot lock {folder}: {describe_failure(error)}') from None
    try:
        record = {
            'process': os.getpid(),
            'machine': socket.gethostname(),
            'since': f'{datetime.datetime.now():%Y-%m-%d %H:%M:%S}',
        }
        with contextlib.suppress(OSError):  # it only makes the message of another process better
            owner.write_text(json.dumps(record))
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def read_owner(path: Path) -> str:
    """Who has the folder, as the last part of a sentence."""
    try:
        owner = json.loads(path.read_text())
        return f'process {owner["process"]} on {owner["machine"]} has since {owner["since"]}'
    except (OSError, ValueError, KeyError, TypeError):
        return 'another process has'


def is_finished(folder: Path) -> bool:
    """results.json is written last."""
    return (Path(folder) / 'results.json').exists()


def settle(run_dir: Path):
    """Let the successor in run_dir, if it is finished, take the place of the run there. UserError: the folder
    belongs to another process."""
    if is_finished(run_dir / SUCCESSOR):
        with lock_folder(run_dir):
            replace_by_successor(run_dir)


def replace_by_successor(run_dir: Path):
    """The second half of `settle`, for the owner of the folder.

    Killed at any moment and called again, it goes on: the files of the old run are removed, results.json
    last; then those of the successor are moved, results.json last.
    """
    new, last = run_dir / SUCCESSOR, 'results.json'
    if not is_finished(new):
        with contextlib.suppress(OSError):
            new.rmdir()  # empty if the program was killed just before it did
        return
    if is_finished(run_dir):
        for path in [path for pattern in FILES for path in run_dir.glob(pattern)]:
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != last:
                path.unlink()
        (run_dir / last).unlink()
    for path in sorted(new.iterdir(), key=lambda path: path.name == last):
        os.replace(path, run_dir / path.name)
    new.rmdir()


def check_place(path: Path):
    """UserError: a folder cannot be made there, because a file or a link to nothing is in the way."""
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise UserError(
                f'expected --run-dir to be a folder, got {path}, where {place} is a link to '
                f'{os.readlink(place)}, which does not exist; make that, or remove the link'
            )
        if place.exists():
            if not place.is_dir():
                raise UserError(f'expected --run-dir to be a folder, got {path}, where {place} is a file')
            return


def check_run_dir(run_dir: Path):
    """UserError: it cannot be a run folder, since other things are there."""
    check_place(run_dir)
    inside = [path for path in run_dir.iterdir() if not path.name.startswith('.')] if run_dir.exists() else []
    others = any(path.is_dir() and not path.name.startswith('shares-') for path in inside)
    is_run = any((run_dir / name).exists() for name in ('config.json', 'checkpoint.pt', 'results.json'))
    is_run = is_run or is_finished(run_dir / SUCCESSOR)  # killed while it took its place
    if others or inside and not is_run:
        raise UserError(
            f'expected --run-dir to be a new folder or that of a run, got {run_dir}, which holds other '
            f'things; name another'
        )


def check_collection(folder: Path, *patterns: str):
    """UserError: it cannot be the folder of several runs, since something there matches no pattern."""
    check_place(folder)
    inside = folder.iterdir() if folder.exists() else []
    others = [path.name for path in inside if not any(map(path.match, patterns)) and path.name[0] != '.']
    if others:
        raise UserError(
            f'expected --run-dir to be a new folder or one of the same command, got {folder}, which holds '
            f'{min(others)}; name another'
        )
