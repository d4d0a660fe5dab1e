"""Reparameterised samples and their KL, fused as callers see it.

`sample_kl` picks the implementation for the device of its arguments. `sample_kl_reference` is plain
PyTorch and runs everywhere; it is also the definition that any kernel must equal element by element.
"""
import torch

from kernels.families import family
from kernels.noise import philox_4x32, uniform

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_numbers(name, value, length, device):
    """ValueError unless `value` is int64 [length] on `device`."""
    if not torch.is_tensor(value) or value.dtype != torch.int64 or value.dim() != 1:
        got = f'{value.dtype} {list(value.shape)}' if torch.is_tensor(value) else type(value).__name__
        raise ValueError(f'expected {name} to be an int64 tensor of shape [B], got {got}')
    if length is not None and len(value) != length:
        raise ValueError(f'expected {name} to have {length} entries, one for each sample, got {len(value)}')
    if value.device != device:
        raise ValueError(f'expected {name} on the device of params, {device}, got {value.device}')


def check_key(seed, step, device):
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2 ** 64:
        raise ValueError(f'expected seed to be an int in [0, 2**64), got {seed!r}')
    if torch.is_tensor(step):
        if step.dtype != torch.int64 or step.dim() or step.device != device:
            raise ValueError(f'expected step to be an int or a 0-d int64 tensor on {device}, '
                             f'got {step.dtype} {list(step.shape)} on {step.device}')
    elif isinstance(step, bool) or not isinstance(step, int):
        raise ValueError(f'expected step to be an int or a 0-d int64 tensor, got {step!r}')


def check(params, dist, seed, step, rows, ids, draw):
    """ValueError that names what was expected and what came, for every argument of sample_kl."""
    names = family(dist).parameters
    if not torch.is_tensor(params) or params.dim() != 3 or params.shape[1] != len(names):
        got = list(params.shape) if torch.is_tensor(params) else type(params).__name__
        raise ValueError(f'expected params of shape [N, {len(names)}, D] for {dist} ({", ".join(names)}), got {got}')
    if params.dtype not in FLOATS:
        raise ValueError(f'expected params to be float32, float64, bfloat16 or float16, got {params.dtype}')
    check_key(seed, step, params.device)
    if rows is not None:
        check_numbers('rows', rows, None, params.device)
        # On a GPU the comparison would make the host wait for the device; there the gather itself asserts.
        if rows.device.type == 'cpu' and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(params):
            raise ValueError(f'expected rows in [0, {len(params)}), got {int(rows.min())} to {int(rows.max())}')
    batch = len(params) if rows is None else len(rows)
    if ids is not None:
        check_numbers('ids', ids, batch, params.device)
    if torch.is_tensor(draw):
        check_numbers('draw', draw, batch, params.device)
    elif isinstance(draw, bool) or not isinstance(draw, int):
        raise ValueError(f'expected draw to be an int or an int64 tensor of shape [B], got {draw!r}')


def standard_noise(dist, ids, dim, *, seed, step, draw, dtype):
    """Draws from the prior, [B, dim], for the numbers ids [B]: one Philox call serves four neighbouring dimensions."""
    blocks = torch.arange((dim + 3) // 4, device=ids.device)                      # [D/4]
    draw = draw[:, None] if torch.is_tensor(draw) else draw
    words = philox_4x32(seed, blocks, draw, ids[:, None], step)                   # [4, B, D/4]
    noise = family(dist).noise(uniform(words, dtype))                             # [4, B, D/4]
    return noise.permute(1, 2, 0).flatten(1)[:, :dim]


def sample_kl_reference(params, dist, *, seed, step, rows=None, ids=None, draw=0):
    """The PyTorch twin of `sample_kl`: same arguments, same result, on every device."""
    check(params, dist, seed, step, rows, ids, draw)
    theta = params if rows is None else params[rows]                              # [B, P, D]
    if ids is None:
        ids = torch.arange(len(theta), device=params.device) if rows is None else rows
    dtype = torch.promote_types(params.dtype, torch.float32)                      # half types compute in float32
    theta = theta.to(dtype)
    e = standard_noise(dist, ids, params.shape[2], seed=seed, step=step, draw=draw, dtype=dtype)
    z = family(dist).sample(theta, e)                                             # [B, D]
    kl = family(dist).kl(theta).sum(-1)                                           # [B]
    return z.to(params.dtype), kl


def sample_kl(params, dist, *, seed, step, rows=None, ids=None, draw=0):
    """One reparameterised sample z ~ q(z; params) for each row, and KL(q || prior), differentiable in params.

    params  [N, P, D] posterior parameters, P per dimension as FAMILIES[dist] lists them; float32, float64,
            bfloat16 or float16.
    dist    'gaussian', 'laplace' or 'exponential'.
    seed    int in [0, 2^64). step: int or 0-d int64 tensor. Together with the number of the row, of the
            draw and of the dimension they determine the noise, and nothing else does; numbers of rows,
            draws and steps count modulo 2^32.
    rows    int64 [B], the rows to sample; None: all N in order.
    ids     int64 [B], the numbers that the noise belongs to, where they are not the rows themselves.
    draw    int or int64 [B]: equal rows with draws 0, 1, 2, ... are independent Monte-Carlo samples.

    Returns z [B, D] in the dtype of params and kl [B] in nats, float32 (float64 for float64 params).
    ValueError: an argument of the wrong shape, type, device or range; it names what was expected and what came.
    """
    return sample_kl_reference(params, dist, seed=seed, step=step, rows=rows, ids=ids, draw=draw)


def sample_prior(dist, shape, *, seed, step=0, dtype=torch.float32, device='cpu'):
    """Draws from the prior, [N, D] = shape, with the noise that sample_kl would use for rows 0 to N - 1.

    ValueError: an unknown family, a shape that is not two sizes, a seed or step as in sample_kl.
    """
    family(dist)
    if len(shape) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f'expected shape to be (N, D), two sizes of at least 0, got {tuple(shape)}')
    if dtype not in FLOATS:
        raise ValueError(f'expected dtype to be float32, float64, bfloat16 or float16, got {dtype}')
    ids = torch.arange(shape[0], device=device)
    check_key(seed, step, ids.device)
    compute = torch.promote_types(dtype, torch.float32)
    return standard_noise(dist, ids, shape[1], seed=seed, step=step, draw=0, dtype=compute).to(dtype)
