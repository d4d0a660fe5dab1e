"""Checks of the arguments of sampling.py and adam.py. Read this file last.

Each check passes, or raises an error that names what was expected and what came: a ValueError where an
argument is wrong, a RuntimeError where Triton cannot run.

Values of tensors are checked on a CPU only: on a GPU the host would have to wait for the device, and a CUDA
graph could not be captured. They are not checked while torch.compile traces either, since tensors have no
values then.
"""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.elementary import INTERPRETED, no_triton, triton
from kernels.families import family

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def describe(value: Any, with_device: bool = False) -> str:
    """What came: a tensor's type, shape and, if asked, device; the class of anything else."""
    if not torch.is_tensor(value):
        return type(value).__name__
    layout = '' if value.layout == torch.strided else f' ({value.layout})'  # such as torch.sparse_coo
    return f'{value.dtype} {list(value.shape)}{layout}' + (f' on {value.device}' if with_device else '')


def as_int(value: Any) -> int | None:
    """A whole number of Python's or NumPy's as an int; None for a bool and for everything else."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if torch.is_tensor(value):  # reading it would make the host wait for a GPU
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def as_float(value: Any) -> float | None:
    """A real number of Python's or NumPy's as a float; None for a bool and for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return float(value)


def has_values(value: Tensor) -> bool:
    """Whether the values of a tensor can be checked: see the top of this file."""
    return value.device.type == 'cpu' and not torch.compiler.is_compiling()


# ------------------------------------------------------------------------- arguments of both files


def check_int64(name: str, value: Any, length: int | None, device: torch.device) -> None:
    """`value` must be int64 [B] on `device`, with B = `length` unless that is None."""
    if (
        not torch.is_tensor(value)
        or value.dtype != torch.int64
        or value.dim() != 1
        or value.layout != torch.strided
    ):
        raise ValueError(f'expected {name} to be an int64 tensor of shape [B], got {describe(value)}')
    if length is not None and value.shape[0] != length:
        raise ValueError(
            f'expected {name} to have {length} entries, one for each sample, got {value.shape[0]}'
        )
    if value.device != device:
        raise ValueError(f'expected {name} on {device}, got it on {value.device}')


def check_tensor(
    name: str, value: Any, dtypes: tuple, shape: list[int], device: torch.device, expected: str | None = None
) -> None:
    """`value` must be a tensor of one of these types and of this shape on `device`."""
    if (
        not torch.is_tensor(value)
        or value.dtype not in dtypes
        or list(value.shape) != shape
        or value.device != device
        or value.layout != torch.strided
    ):
        raise ValueError(
            f'expected {name} to be {expected or dtypes[0]} {shape} on {device}, got {describe(value, True)}'
        )


def check_range(n: int, rows: Tensor | None) -> None:
    """`rows` on a CPU must lie in [0, n).

    On a GPU this is not checked: there the kernels give NaN for such rows or skip them, and PyTorch's own
    indexing stops the program.
    """
    if rows is not None and has_values(rows) and len(rows):
        low, high = (int(x) for x in rows.aminmax())
        if low < 0 or high >= n:
            raise ValueError(f'expected rows in [0, {n}), got {low} to {high}')


def check_triton(name: str, value: Tensor, alternative: str) -> None:
    """Triton must be able to run on the device of `value`."""
    if not triton:
        raise RuntimeError(f'expected triton, got "{no_triton}"; kernels.{alternative} runs without it')
    if value.device.type == 'cpu' and not INTERPRETED:
        raise RuntimeError(
            f'expected {name} on a GPU, got them on the CPU; there, set TRITON_INTERPRET=1 before the '
            f'program starts, or use kernels.{alternative}'
        )


# ---------------------------------------------------------------------------------------- sampling


def check_key(seed: Any, step: Any, device: torch.device) -> tuple[int, int | Tensor]:
    """The noise's key and step. Returns them, numbers as int."""
    key = as_int(seed)
    if key is None or not 0 <= key < 2**64:
        raise ValueError(f'expected seed to be an int in [0, 2**64), got {seed!r}')
    if torch.is_tensor(step):
        if step.dtype != torch.int64 or step.dim() or step.device != device:
            raise ValueError(
                f'expected step to be an int or a 0-d int64 tensor on {device}, got {describe(step, True)}'
            )
        return key, step
    number = as_int(step)
    if number is None:
        raise ValueError(f'expected step to be an int or a 0-d int64 tensor, got {step!r}')
    return key, number


def check_sample_kl(params: Any, dist: Any, seed: Any, step: Any, rows: Any, ids: Any, draw: Any) -> tuple:
    """The arguments of `sample_kl`, except for the range of rows. Returns them, numbers as int."""
    names, packed = family(dist).parameters, family(dist).packed
    shape = list(params.shape) if torch.is_tensor(params) else None
    if packed:
        expected = '[N, K], K = D (D + 3) / 2,'
        fits = (
            shape and len(shape) == 2 and family(dist).shape(family(dist).latent_dim(params)) == (shape[1],)
        )
    else:
        expected = f'[N, {len(names)}, D]'
        fits = shape and len(shape) == 3 and shape[1] == len(names)
    if not fits:
        raise ValueError(
            f'expected params of shape {expected} for {dist} ({", ".join(names)}), '
            f'got {type(params).__name__ if shape is None else shape}'
        )
    if params.layout != torch.strided:
        raise ValueError(f'expected params to be a dense tensor, got {describe(params)}; use .to_dense()')
    if params.dtype not in FLOATS:
        raise ValueError(f'expected params to be float32, float64, bfloat16 or float16, got {params.dtype}')
    seed, step = check_key(seed, step, params.device)
    if rows is not None:
        check_int64('rows', rows, None, params.device)
    batch = params.shape[0] if rows is None else rows.shape[0]
    if ids is not None:
        check_int64('ids', ids, batch, params.device)
    if torch.is_tensor(draw):
        check_int64('draw', draw, batch, params.device)
        return params, dist, seed, step, rows, ids, draw
    number = as_int(draw)
    if number is None:
        raise ValueError(f'expected draw to be an int or an int64 tensor of shape [B], got {draw!r}')
    return params, dist, seed, step, rows, ids, number


def check_gradient(name: str, value: Any, shape: list[int], device: torch.device) -> None:
    """`value` must be None or a floating-point tensor of this shape on `device`."""
    if value is not None:
        check_tensor(name, value, FLOATS, shape, device, expected='None or a floating-point tensor')


def check_prior(dist: Any, shape: Any, dtype: Any, device: Any) -> tuple[int, int]:
    """The arguments of `sample_prior`, except for seed and step. Returns the shape as two ints."""
    family(dist)
    sizes = [as_int(size) for size in shape] if isinstance(shape, (tuple, list)) else []
    if len(sizes) != 2 or any(size is None or size < 0 for size in sizes):
        raise ValueError(f'expected shape to be (N, D), two sizes of at least 0, got {shape!r}')
    if dtype not in FLOATS:
        raise ValueError(f'expected dtype to be float32, float64, bfloat16 or float16, got {dtype!r}')
    try:
        without_values = torch.empty(0, device=device).is_meta
    except (RuntimeError, TypeError, AssertionError) as error:  # unknown; no GPU; PyTorch built without CUDA
        reason = str(error).split('\n')[0]
        raise ValueError(f'expected a device that PyTorch has here, got {device!r}: {reason}') from error
    if without_values:
        raise ValueError(f'expected a device whose tensors have values, got {device!r}')
    return sizes[0], sizes[1]


# -------------------------------------------------------------------------------------------- Adam


def check_separate(**tensors: Tensor) -> None:
    """No two of these contiguous tensors may share memory."""
    if torch.compiler.is_compiling():  # tensors have no addresses then
        return
    # First and last address of each; those without memory, empty or on the meta device, have address 0.
    spans = sorted((x.data_ptr(), x.data_ptr() + x.nbytes, name) for name, x in tensors.items())
    for (_, end, name), (start, _, other) in zip(spans, spans[1:]):
        if 0 < start < end:
            raise ValueError(
                f'expected {name} and {other} to have memory of their own, got tensors that share it; '
                'clone one of them'
            )


def check_once(rows: Tensor) -> None:
    """No row may occur twice. On a GPU this is not checked: one of its gradients would be lost."""
    if has_values(rows):
        different = len(set(rows.tolist()))  # for the rows of a batch faster than rows.unique()
        if different < len(rows):
            raise ValueError(
                f'expected each row at most once in rows, got {len(rows)} rows of which {different} differ; '
                'add up the gradients of equal rows'
            )


def check_number(name: str, value: Any, low: float, high: float, expected: str) -> float:
    """`value` must be a number in [low, high). Returns it as a float."""
    number = as_float(value)
    if number is None or not low <= number < high:
        raise ValueError(f'expected {name} to be a {expected}, got {value!r}')
    return number


def check_row_adam(
    latents: Any,
    m: Any,
    v: Any,
    count: Any,
    rows: Any,
    gradient: Any,
    lr: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
) -> tuple:
    """The arguments of `row_adam_`. Returns them, numbers as float."""
    if (
        not torch.is_tensor(latents)
        or latents.dim() != 2
        or latents.dtype not in (torch.float32, torch.float64)
    ):
        raise ValueError(
            f'expected latents to be float32 or float64 of shape [N, K], got {describe(latents)}'
        )
    (n, k), dtype, device = latents.shape, latents.dtype, latents.device
    check_tensor('m', m, (dtype,), [n, k], device)
    check_tensor('v', v, (dtype,), [n, k], device)
    check_tensor('count', count, (torch.int64,), [n], device)
    # These four are changed in place, and a contiguous copy would be changed instead of them.
    for name, value in (('latents', latents), ('m', m), ('v', v), ('count', count)):
        if not value.is_contiguous():
            raise ValueError(f'expected {name} to be contiguous, got strides {value.stride()}')
    check_separate(latents=latents, m=m, v=v, count=count)
    check_int64('rows', rows, None, device)
    check_tensor('gradient', gradient, (dtype,), [len(rows), k], device)
    if torch.is_tensor(lr):
        if lr.dim() or not lr.is_floating_point() or lr.device != device:
            raise ValueError(
                f'expected lr to be a number or a 0-d floating-point tensor on {device}, '
                f'got {describe(lr, True)}'
            )
        if has_values(lr) and not math.isfinite(lr):
            raise ValueError(f'expected lr to be finite, got {lr!r}')
    else:
        number = as_float(lr)
        if number is None or not abs(number) < math.inf:
            raise ValueError(f'expected lr to be a finite number or a 0-d floating-point tensor, got {lr!r}')
        lr = number
    beta1 = check_number('beta1', beta1, 0, 1, 'number in [0, 1)')
    beta2 = check_number('beta2', beta2, 0, 1, 'number in [0, 1)')
    eps = check_number('eps', eps, 0, math.inf, 'finite number of at least 0')
    check_range(n, rows)
    check_once(rows)
    return latents, m, v, count, rows, gradient, lr, beta1, beta2, eps
