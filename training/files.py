"""Files that are whole or not there at all."""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import UserError


def describe_failure(error: BaseException) -> str:
    """Why a file could not be written or read, without Python's '[Errno 28]'."""
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        error = error.__context__  # torch.save hides the error of the file behind one of its own
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 'the disk is full; make room and start the same command again, of a run with --resume'
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


def write_atomically(path: str | Path, write: Callable[[Path], Any]):
    """write(temporary path), then rename: a reader of `path` sees the old file or the new one, whole.

    The temporary path has the same suffix. UserError: the disk is full, or another reason that the file
    cannot be written; then the old one is still there.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))  # a symbolic link stays one: the file that it names is replaced
    temporary = target.with_name(f'.new-{target.name}')
    try:
        if path.exists() and not path.is_file():
            write(path)  # /dev/stdout, say, must not be replaced; a folder is an error
            return
        write(temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        raise UserError(f'cannot write {path}: {describe_failure(error)}') from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # if it was not renamed: half a file would fill the disk


def append_line(path: Path, line: str):
    """UserError: the disk is full, or another reason that it cannot be written."""
    try:
        with open(path, 'a', encoding='utf-8') as file:
            file.write(line + '\n')
    except OSError as error:
        raise UserError(f'cannot write {path}: {describe_failure(error)}') from None


def write_json(path: str | Path, value: Any):
    text = json.dumps(value, indent=2) + '\n'
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding='utf-8'))


def write_array(path: str | Path, array: np.ndarray):
    """Write a .npy file."""
    content = io.BytesIO()  # np.save does not say why it cannot write to a file
    np.save(content, array)
    write_atomically(path, lambda temporary: temporary.write_bytes(content.getbuffer()))


def write_arrays(path: str | Path, **arrays: np.ndarray):
    """Write a .npz file."""
    content = io.BytesIO()  # np.savez does not say why it cannot write to a file
    np.savez(content, **arrays)
    write_atomically(path, lambda temporary: temporary.write_bytes(content.getbuffer()))


def read_json(path: str | Path) -> dict:
    """The object in a JSON file. UserError: there is none, or it cannot be read as one."""
    try:
        value = json.loads(Path(path).read_text(encoding='utf-8'))
        got = f'a {type(value).__name__}'
    except FileNotFoundError:
        value, got = None, 'no such file'
    except OSError as error:
        value, got = None, describe_failure(error)
    except (ValueError, RecursionError) as error:
        value, got = None, f'a file that cannot be read as JSON ({error})'
    if not isinstance(value, dict):
        raise UserError(f'expected a JSON object in {path}, got {got}')
    return value


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
