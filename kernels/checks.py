"""Checks of the arguments of sampling.py and adam.py. Read this file last.

Each check passes, or raises an error that names what was expected and what came: a ValueError where an
argument is wrong, a RuntimeError where Triton cannot run.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.elementary import INTERPRETED, no_triton, triton
from kernels.families import family

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def describe(value: Any, with_device: bool = False) -> str:
    """What came: a tensor's type, shape and, if asked, device; the class of anything else."""
    if not torch.is_tensor(value):
        return type(value).__name__
    return f'{value.dtype} {list(value.shape)}' + (f' on {value.device}' if with_device else '')


# ------------------------------------------------------------------------- arguments of both files


def check_int64(name: str, value: Any, length: int | None, device: torch.device) -> None:
    """`value` must be int64 [B] on `device`, with B = `length` unless that is None."""
    if not torch.is_tensor(value) or value.dtype != torch.int64 or value.dim() != 1:
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
    ):
        raise ValueError(
            f'expected {name} to be {expected or dtypes[0]} {shape} on {device}, got {describe(value, True)}'
        )


def check_range(n: int, rows: Tensor | None) -> None:
    """`rows` on a CPU must lie in [0, n).

    On a GPU this is not checked, because the host would have to wait for the device: there the kernels give
    NaN for such rows or skip them, and PyTorch's own indexing stops the program.
    """
    if rows is not None and rows.device.type == 'cpu' and len(rows):
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


def check_key(seed: Any, step: Any, device: torch.device) -> None:
    """The noise's key and step."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f'expected seed to be an int in [0, 2**64), got {seed!r}')
    if torch.is_tensor(step):
        if step.dtype != torch.int64 or step.dim() or step.device != device:
            raise ValueError(
                f'expected step to be an int or a 0-d int64 tensor on {device}, got {describe(step, True)}'
            )
    elif isinstance(step, bool) or not isinstance(step, int):
        raise ValueError(f'expected step to be an int or a 0-d int64 tensor, got {step!r}')


def check_sample_kl(params: Any, dist: Any, seed: Any, step: Any, rows: Any, ids: Any, draw: Any) -> None:
    """The arguments of `sample_kl`, except for the range of rows."""
    names = family(dist).parameters
    if not torch.is_tensor(params) or params.dim() != 3 or params.shape[1] != len(names):
        raise ValueError(
            f'expected params of shape [N, {len(names)}, D] for {dist} ({", ".join(names)}), '
            f'got {list(params.shape) if torch.is_tensor(params) else type(params).__name__}'
        )
    if params.dtype not in FLOATS:
        raise ValueError(f'expected params to be float32, float64, bfloat16 or float16, got {params.dtype}')
    check_key(seed, step, params.device)
    if rows is not None:
        check_int64('rows', rows, None, params.device)
    batch = params.shape[0] if rows is None else rows.shape[0]
    if ids is not None:
        check_int64('ids', ids, batch, params.device)
    if torch.is_tensor(draw):
        check_int64('draw', draw, batch, params.device)
    elif isinstance(draw, bool) or not isinstance(draw, int):
        raise ValueError(f'expected draw to be an int or an int64 tensor of shape [B], got {draw!r}')


def check_gradient(name: str, value: Any, shape: list[int], device: torch.device) -> None:
    """`value` must be None or a floating-point tensor of this shape on `device`."""
    if value is not None:
        check_tensor(name, value, FLOATS, shape, device, expected='None or a floating-point tensor')


def check_prior(dist: Any, shape: Any, dtype: Any) -> None:
    """The arguments of `sample_prior`, except for seed and step."""
    family(dist)
    if len(shape) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f'expected shape to be (N, D), two sizes of at least 0, got {tuple(shape)}')
    if dtype not in FLOATS:
        raise ValueError(f'expected dtype to be float32, float64, bfloat16 or float16, got {dtype}')


# -------------------------------------------------------------------------------------------- Adam


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
    """The arguments of `row_adam_`. Returns them as they came."""
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
    check_int64('rows', rows, None, device)
    check_tensor('gradient', gradient, (dtype,), [len(rows), k], device)
    if torch.is_tensor(lr):
        if lr.dim() or not lr.is_floating_point() or lr.device != device:
            raise ValueError(
                f'expected lr to be a number or a 0-d floating-point tensor on {device}, '
                f'got {describe(lr, True)}'
            )
    elif isinstance(lr, bool) or not isinstance(lr, (int, float)):
        raise ValueError(f'expected lr to be a number or a 0-d floating-point tensor, got {lr!r}')
    for name, beta in (('beta1', beta1), ('beta2', beta2)):
        if not isinstance(beta, (int, float)) or not 0 <= beta < 1:
            raise ValueError(f'expected {name} to be a number in [0, 1), got {beta!r}')
    if not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f'expected eps to be a number of at least 0, got {eps!r}')
    check_range(n, rows)
    return latents, m, v, count, rows, gradient, lr, beta1, beta2, eps
