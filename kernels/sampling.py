"""Reparameterised samples and their KL, fused as callers see it.

`sample_kl` and its gradient are operators of PyTorch's dispatcher, which picks Triton (fused.py) on a GPU and plain
PyTorch elsewhere; `torch.compile` sees one operator. `sample_kl_reference` is plain PyTorch on every device, with
PyTorch's own autograd; it is also the definition that the kernels must equal element by element. Outside of
`torch.compile` a CPU runs it directly.
"""

import numpy as np
import torch

from kernels.families import family
from kernels.noise import philox_4x32, uniform

try:
    from kernels import fused
except ImportError as error:
    fused, no_triton = None, error

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


# ------------------------------------------------------------------------------------------------ checks


def check_numbers(name, value, length, device):
    """ValueError unless `value` is int64 [length] on `device`."""
    if not torch.is_tensor(value) or value.dtype != torch.int64 or value.dim() != 1:
        got = f'{value.dtype} {list(value.shape)}' if torch.is_tensor(value) else type(value).__name__
        raise ValueError(f'expected {name} to be an int64 tensor of shape [B], got {got}')
    if length is not None and value.shape[0] != length:
        raise ValueError(
            f'expected {name} to have {length} entries, one for each sample, got {value.shape[0]}'
        )
    if value.device != device:
        raise ValueError(f'expected {name} on {device}, got it on {value.device}')


def check_key(seed, step, device):
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f'expected seed to be an int in [0, 2**64), got {seed!r}')
    if torch.is_tensor(step):
        if step.dtype != torch.int64 or step.dim() or step.device != device:
            raise ValueError(
                f'expected step to be an int or a 0-d int64 tensor on {device}, '
                f'got {step.dtype} {list(step.shape)} on {step.device}'
            )
    elif isinstance(step, bool) or not isinstance(step, int):
        raise ValueError(f'expected step to be an int or a 0-d int64 tensor, got {step!r}')


def check(params, dist, seed, step, rows, ids, draw):
    """The arguments of sample_kl as the operators take them: what may be a number or a tensor as two arguments, and
    numbers in 64 signed bits. ValueError that names what was expected and what came."""
    names = family(dist).parameters
    if not torch.is_tensor(params) or params.dim() != 3 or params.shape[1] != len(names):
        got = list(params.shape) if torch.is_tensor(params) else type(params).__name__
        raise ValueError(
            f'expected params of shape [N, {len(names)}, D] for {dist} ({", ".join(names)}), got {got}'
        )
    if params.dtype not in FLOATS:
        raise ValueError(f'expected params to be float32, float64, bfloat16 or float16, got {params.dtype}')
    check_key(seed, step, params.device)
    if rows is not None:
        check_numbers('rows', rows, None, params.device)
    batch = params.shape[0] if rows is None else rows.shape[0]
    if ids is not None:
        check_numbers('ids', ids, batch, params.device)
    if torch.is_tensor(draw):
        check_numbers('draw', draw, batch, params.device)
    elif isinstance(draw, bool) or not isinstance(draw, int):
        raise ValueError(f'expected draw to be an int or an int64 tensor of shape [B], got {draw!r}')
    step, step_tensor = (0, step) if torch.is_tensor(step) else (step % 2**32, None)
    draw, draws = (0, draw) if torch.is_tensor(draw) else (draw % 2**32, None)
    seed = seed if seed < 2**63 else seed - 2**64
    return params, dist, seed, step, step_tensor, rows, ids, draw, draws


def check_range(params, rows):
    """ValueError unless rows are rows of params; only on a CPU, since it would make the host wait for a GPU. There
    the kernels give NaN for such rows, and PyTorch's indexing stops the program."""
    if rows is not None and rows.device.type == 'cpu' and len(rows):
        low, high = (int(x) for x in rows.aminmax())
        if low < 0 or high >= len(params):
            raise ValueError(f'expected rows in [0, {len(params)}), got {low} to {high}')


def check_gradient(name, value, shape, device):
    if value is None:
        return
    if (
        not torch.is_tensor(value)
        or list(value.shape) != shape
        or value.dtype not in FLOATS
        or value.device != device
    ):
        got = (
            f'{value.dtype} {list(value.shape)} on {value.device}'
            if torch.is_tensor(value)
            else type(value).__name__
        )
        raise ValueError(
            f'expected {name} to be None or a floating-point tensor {shape} on {device}, got {got}'
        )


# ---------------------------------------------------------------------------------------------- the twin


def standard_noise(dist, ids, dim, *, seed, step, draw, dtype):
    """Draws from the prior, [B, dim], for the numbers ids [B]: one Philox call serves four neighbouring dimensions. On a
    GPU the numbers are copied to the host, and the words back."""
    step = step.cpu().numpy() if torch.is_tensor(step) else step
    draw = draw.cpu().numpy()[:, None] if torch.is_tensor(draw) else draw
    words = philox_4x32(
        seed, np.arange((dim + 3) // 4), draw, ids.cpu().numpy()[:, None], step
    )  # [B, D/4, 4]
    return family(dist).noise(uniform(words, dtype, ids.device)).flatten(1)[:, :dim].contiguous()


def posteriors(params, rows):
    """The samples' parameters [B, P, D], in the type of all arithmetic: half types compute in float32."""
    return (params if rows is None else params[rows]).to(torch.promote_types(params.dtype, torch.float32))


def posterior_noise(theta, dist, seed, step, step_tensor, rows, ids, draw, draws):
    """Standard noise [B, D] for theta [B, P, D]."""
    if ids is None:
        ids = torch.arange(len(theta), device=theta.device) if rows is None else rows
    return standard_noise(
        dist,
        ids,
        theta.shape[2],
        seed=seed % 2**64,
        step=step if step_tensor is None else step_tensor,
        draw=draw if draws is None else draws,
        dtype=theta.dtype,
    )


def sample_kl_twin(params, dist, seed, step, step_tensor, rows, ids, draw, draws):
    check_range(params, rows)
    theta = posteriors(params, rows)
    e = posterior_noise(theta, dist, seed, step, step_tensor, rows, ids, draw, draws)
    z = family(dist).sample(theta, e).to(params.dtype).contiguous()
    return z, family(dist).kl(theta).sum(-1)


def sample_kl_gradient_twin(dz, dkl, to_table, params, dist, seed, step, step_tensor, rows, ids, draw, draws):
    check_range(params, rows)
    theta = posteriors(params, rows)
    e = posterior_noise(theta, dist, seed, step, step_tensor, rows, ids, draw, draws)
    dz = torch.zeros_like(e) if dz is None else dz.to(e.dtype)  # [B, D]
    dkl = e.new_zeros(len(e), 1) if dkl is None else dkl.to(e.dtype)[:, None]  # [B, 1]
    gradient = family(dist).gradient(theta, e, dz, dkl)  # [B, P, D]
    if to_table:
        gradient = gradient.new_zeros(params.shape).index_add_(0, rows, gradient)
    return gradient.to(params.dtype).contiguous()


# --------------------------------------------------------------------------------------------- operators

ARGUMENTS = (
    'Tensor params, str dist, int seed, SymInt step, Tensor? step_tensor, Tensor? rows, Tensor? ids, '
    'SymInt draw, Tensor? draws'
)


def register(name, sample_kl, sample_kl_gradient):
    """The operators autodecoder::NAME, which gives z and kl, and autodecoder::NAME_gradient, its derivative.

    The derivative draws the noise again. It is the gradient in the batch's rows, [B, P, D], or, to_table, in params,
    [N, P, D], where a row that came twice has two gradients added. dz or dkl None: zero.
    """
    operator = torch.library.custom_op(
        f'autodecoder::{name}', sample_kl, mutates_args=(), schema=f'({ARGUMENTS}) -> (Tensor z, Tensor kl)'
    )
    gradient = torch.library.custom_op(
        f'autodecoder::{name}_gradient',
        sample_kl_gradient,
        mutates_args=(),
        schema=f'(Tensor? dz, Tensor? dkl, bool to_table, {ARGUMENTS}) -> Tensor',
    )

    @operator.register_fake  # shapes and types without numbers, for torch.compile
    def _(params, dist, seed, step, step_tensor, rows, ids, draw, draws):
        # shape[0], not len, which would make a compiled program one for this size only
        batch = params.shape[0] if rows is None else rows.shape[0]
        return (
            params.new_empty(batch, params.shape[2]),
            params.new_empty(batch, dtype=torch.promote_types(params.dtype, torch.float32)),
        )

    @gradient.register_fake
    def _(dz, dkl, to_table, params, dist, seed, step, step_tensor, rows, ids, draw, draws):
        batch = params.shape[0] if rows is None or to_table else rows.shape[0]
        return params.new_empty(batch, *params.shape[1:])

    def save(ctx, inputs, output):
        params, ctx.dist, ctx.seed, ctx.step, step_tensor, rows, ids, ctx.draw, draws = inputs
        ctx.save_for_backward(params, step_tensor, rows, ids, draws)
        ctx.set_materialize_grads(False)  # an output that was not used costs nothing

    def backward(ctx, dz, dkl):
        params, step_tensor, rows, ids, draws = ctx.saved_tensors
        dparams = gradient(
            dz,
            dkl,
            rows is not None,
            params,
            ctx.dist,
            ctx.seed,
            ctx.step,
            step_tensor,
            rows,
            ids,
            ctx.draw,
            draws,
        )
        return dparams, *[None] * 8

    operator.register_autograd(backward, setup_context=save)
    return operator, gradient


sample_kl_operator, gradient_operator = register('sample_kl', sample_kl_twin, sample_kl_gradient_twin)
if fused:
    sample_kl_operator.register_kernel('cuda')(fused.sample_kl)
    gradient_operator.register_kernel('cuda')(fused.sample_kl_gradient)
    triton_operator, _ = register('sample_kl_triton', fused.sample_kl, fused.sample_kl_gradient)


# -------------------------------------------------------------------------------------- what callers use


def sample_kl(params, dist, *, seed, step, rows=None, ids=None, draw=0):
    """One reparameterised sample z ~ q(z; params) for each row, and KL(q || prior), differentiable in params.

    params  [N, P, D] posterior parameters, P per dimension as FAMILIES[dist] lists them; float32, float64,
            bfloat16 or float16; any strides.
    dist    'gaussian', 'laplace' or 'exponential'.
    seed    int in [0, 2^64). step: int or 0-d int64 tensor. Together with the number of the row, of the
            draw and of the dimension they determine the noise, and nothing else does; numbers of rows,
            draws and steps count modulo 2^32.
    rows    int64 [B], the rows to sample; None: all N in order.
    ids     int64 [B], the numbers that the noise belongs to, where they are not the rows themselves.
    draw    int or int64 [B]: equal rows with draws 0, 1, 2, ... are independent Monte-Carlo samples.

    Returns z [B, D] in the dtype of params and kl [B] in nats, float32 (float64 for float64 params).
    ValueError: an argument of the wrong shape, type, device or range; it names what was expected and what came. On a
    GPU a row out of range gives NaN instead: to look at rows there, the host would have to wait.
    """
    arguments = check(params, dist, seed, step, rows, ids, draw)
    if arguments[0].device.type == 'cpu' and not torch.compiler.is_compiling():
        return sample_kl_twin(
            *arguments
        )  # what the operator would run, less the operator's fifth of the time
    return sample_kl_operator(*arguments)


def sample_kl_reference(params, dist, *, seed, step, rows=None, ids=None, draw=0):
    """The PyTorch twin of `sample_kl`: same arguments, same result, on every device. (`sample_kl` has first derivatives
    only.)"""
    return sample_kl_twin(*check(params, dist, seed, step, rows, ids, draw))


def sample_kl_triton(params, dist, *, seed, step, rows=None, ids=None, draw=0):
    """`sample_kl` by the Triton kernels, whatever the device; on a CPU they need TRITON_INTERPRET=1 in the environment.

    RuntimeError: they cannot run here; it says why.
    """
    arguments = check(params, dist, seed, step, rows, ids, draw)
    if not fused:
        raise RuntimeError(f'expected triton, got "{no_triton}"; kernels.sample_kl runs without it')
    if params.device.type == 'cpu' and not fused.INTERPRETED:
        raise RuntimeError(
            'expected params on a GPU, got them on the CPU; there, set TRITON_INTERPRET=1 before the '
            'program starts, or use kernels.sample_kl'
        )
    check_range(params, rows)
    return triton_operator(*arguments)


def sample_kl_gradient(params, dist, dz, dkl, *, seed, step, rows=None, ids=None, draw=0):
    """The gradient of a loss in the batch's rows, for an optimiser that works on rows: what autograd gives for
    params[rows], without a tensor of the table's size. The noise is drawn again.

    dz      [B, D], the loss's gradient in z; None for 0.
    dkl     [B], its gradient in kl; None for 0.
    The others are the arguments that sample_kl had.

    Returns [B, P, D] in the dtype of params. ValueError as in sample_kl.
    """
    arguments = check(
        params.detach() if torch.is_tensor(params) else params, dist, seed, step, rows, ids, draw
    )
    batch = params.shape[0] if rows is None else rows.shape[0]
    check_gradient('dz', dz, [batch, params.shape[2]], params.device)
    check_gradient('dkl', dkl, [batch], params.device)
    return gradient_operator(dz, dkl, False, *arguments)


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
