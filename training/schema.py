"""What the entries of a checkpoint must be, and one function that compares them with that."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from training.errors import UserError


@dataclass(frozen=True)
class TensorOf:
    """Finite tensors of a type and a shape, in which None stands for any size; numbers are below `below`."""

    dtype: torch.dtype
    shape: tuple[int | None, ...]
    below: float = math.inf  # of whole numbers, which are not negative either

    def __str__(self):
        sizes = ', '.join('any' if n is None else str(n) for n in self.shape)
        low, high = ('', '') if self.below == math.inf else (' with values from 0', f' to {self.below - 1}')
        return f'{self.dtype} [{sizes}]{low}{high}'.removeprefix('torch.')


def like(x: Tensor) -> TensorOf:
    return TensorOf(x.dtype, tuple(x.shape))


def tensor_difference(x: Any, expected: TensorOf) -> str | None:
    """What is wrong with a tensor; None: nothing."""
    # A checkpoint of this project has no sparse ones, none without values, and none that want a gradient.
    if not torch.is_tensor(x) or x.layout != torch.strided or x.is_meta or x.requires_grad:
        return f'a {type(x).__name__}'
    sizes = len(x.shape) == len(expected.shape) and all(
        n in (None, m) for n, m in zip(expected.shape, x.shape)
    )
    if x.dtype != expected.dtype or not sizes:
        return str(like(x))
    if x.is_floating_point():
        bad = int((~torch.isfinite(x)).sum())
        return f'{bad} numbers in it that are not finite' if bad else None
    if expected.below < math.inf and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < expected.below:
        return f'values from {int(x.min())} to {int(x.max())}'
    return None


def check(value: Any, expected: Any, path: Path, name: str = ''):
    """UserError: `value`, the entry `name` of the checkpoint in path, is not what is expected.

    expected: a dict, whose entries are compared in turn; a TensorOf, or a tensor for one of its type and
    shape; a range of whole numbers; a type.
    """
    if torch.is_tensor(expected):
        expected = like(expected)
    if isinstance(expected, dict) and isinstance(value, dict):
        for key in [*expected, *(key for key in value if key not in expected)]:
            entry = f'{name}.{key}' if name else str(key)
            if key not in value:
                refuse(f'an entry {entry}', 'none', path)
            if key not in expected:
                refuse(f'no entry {entry}', 'one', path)
            check(value[key], expected[key], path, entry)
        return
    if isinstance(expected, TensorOf):
        what, got = expected, tensor_difference(value, expected)
    elif isinstance(expected, range):
        right = type(value) is int and value in expected
        what = f'a whole number from {expected.start} to {expected.stop - 1}'
        got = None if right else repr(value)[:50]
    else:
        expected = dict if isinstance(expected, dict) else expected
        what, got = expected.__name__, None if isinstance(value, expected) else repr(value)[:50]
    if got:
        refuse(f'{what} as {name or "its contents"}', got, path)


def refuse(what: str, got: str, path: Path) -> NoReturn:
    what, got = (' '.join(text.split()) for text in (what, got))  # a tensor's text has several lines
    raise UserError(
        f'expected {what} in {path}, got {got}; put back a copy of that file, or delete {path.parent} and '
        f'train again'
    )
