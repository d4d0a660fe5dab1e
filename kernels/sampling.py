"""Reparameterised samples from the posteriors and their KL to the prior, in one operation.

For sample i with posterior parameters params[rows[i]] and standard noise e_i ~ p (noise.py),

    z_i = T(e_i; params[rows[i]])                             for instance mu + sigma e
    kl_i = sum over dimensions d of KL(q(z_d) || p(z_d))      in closed form

with T and KL from families/ (the reparameterisation trick; Kingma and Welling, "Auto-encoding variational
Bayes", 2014). Read `forward_reference` first: it is the definition, in PyTorch. The Triton kernels
(fused.py) compute the same, element by element. Both are registered as operators of PyTorch's dispatcher,
which picks Triton on a GPU and the reference elsewhere; `torch.compile` sees one operator. What callers use
is at the end.
"""

import numpy as np
import torch
from torch import Tensor

from kernels import checks
from kernels.elementary import triton
from kernels.families import family
from kernels.noise import philox_4x32, uniform

if triton:
    from kernels import full, fused


# ----------------------------------------------------------------------------------- the reference


def standard_noise(dist, ids, dim, *, seed, step, draw, dtype):
    """Draws from the prior, [B, dim], for ids [B].

    One Philox call serves four neighbouring dimensions. Philox runs on the host: on a GPU the ids are copied
    there, and the words back.
    """
    step = step.cpu().numpy() if torch.is_tensor(step) else step
    draw = draw.cpu().numpy()[:, None] if torch.is_tensor(draw) else draw
    blocks = np.arange((dim + 3) // 4)  # of four dimensions
    words = philox_4x32(seed, blocks, draw, ids.cpu().numpy()[:, None], step)  # [B, D/4, 4]
    return family(dist).noise(uniform(words, dtype, ids.device)).flatten(1)[:, :dim].contiguous()


def params_and_noise(params, dist, seed, step, step_tensor, rows, ids, draw, draws):
    """The batch's parameters [B, P, D] and standard noise [B, D], in the type of all arithmetic.

    The arguments are those of the operators (`operator_arguments`). Half-precision types compute in float32.
    """
    checks.check_range(len(params), rows)
    params = (params if rows is None else params[rows]).to(torch.promote_types(params.dtype, torch.float32))
    if ids is None:
        ids = torch.arange(len(params), device=params.device) if rows is None else rows
    return params, standard_noise(
        dist,
        ids,
        family(dist).latent_dim(params),
        seed=seed % 2**64,
        step=step if step_tensor is None else step_tensor,
        draw=draw if draws is None else draws,
        dtype=params.dtype,
    )


def forward_reference(params, dist, seed, step, step_tensor, rows, ids, draw, draws):
    """z [B, D] and kl [B]."""
    batch_params, e = params_and_noise(params, dist, seed, step, step_tensor, rows, ids, draw, draws)
    z = family(dist).sample(batch_params, e).to(params.dtype).contiguous()
    return z, family(dist).kl(batch_params).sum(-1)


def gradient_reference(dz, dkl, scatter, params, dist, seed, step, step_tensor, rows, ids, draw, draws):
    """The derivative of `forward_reference`: from the gradients in z and kl to that in the parameters.

    It is [B, P, D], for the batch's rows, or with `scatter` [N, P, D], for all of params.
    """
    batch_params, e = params_and_noise(params, dist, seed, step, step_tensor, rows, ids, draw, draws)
    dz = torch.zeros_like(e) if dz is None else dz.to(e.dtype)  # [B, D]
    dkl = e.new_zeros(len(e), 1) if dkl is None else dkl.to(e.dtype)[:, None]  # [B, 1]
    gradient = family(dist).gradient(batch_params, e, dz, dkl)  # [B, P, D]
    if scatter:
        gradient = gradient.new_zeros(params.shape).index_add_(0, rows, gradient)
    return gradient.to(params.dtype).contiguous()


# ----------------------------------------------------------------------------------- the operators

ARGUMENTS = (
    'Tensor params, str dist, int seed, SymInt step, Tensor? step_tensor, Tensor? rows, Tensor? ids, '
    'SymInt draw, Tensor? draws'
)


def operator_arguments(params, dist, seed, step, rows, ids, draw):
    """The arguments of `sample_kl`, checked, as the operators take them.

    An operator's argument has one type. So step and draw, which are each a number or a tensor, become two
    arguments, and numbers are reduced to what fits 64 signed bits.
    """
    params, dist, seed, step, rows, ids, draw = checks.check_sample_kl(
        params, dist, seed, step, rows, ids, draw
    )
    step, step_tensor = (0, step) if torch.is_tensor(step) else (step % 2**32, None)
    draw, draws = (0, draw) if torch.is_tensor(draw) else (draw % 2**32, None)
    seed = seed if seed < 2**63 else seed - 2**64
    return params, dist, seed, step, step_tensor, rows, ids, draw, draws


def register(name, forward, gradient):
    """The operators autodecoder::NAME, which gives z and kl, and autodecoder::NAME_gradient, its derivative.

    The derivative draws the noise again instead of storing it. A gradient dz or dkl that is None counts as
    zero. With `scatter`, the gradients of a row that occurs twice are added.
    """
    operator = torch.library.custom_op(
        f'autodecoder::{name}', forward, mutates_args=(), schema=f'({ARGUMENTS}) -> (Tensor z, Tensor kl)'
    )
    gradient_operator = torch.library.custom_op(
        f'autodecoder::{name}_gradient',
        gradient,
        mutates_args=(),
        schema=f'(Tensor? dz, Tensor? dkl, bool scatter, {ARGUMENTS}) -> Tensor',
    )

    # The "fake" versions tell torch.compile shapes and types. They use shape[0] and not len(), which would
    # make the compiled program one for a single batch size.
    @operator.register_fake
    def _(params, dist, seed, step, step_tensor, rows, ids, draw, draws):
        batch = params.shape[0] if rows is None else rows.shape[0]
        kl_dtype = torch.promote_types(params.dtype, torch.float32)
        z = params.new_empty(batch, family(dist).latent_dim(params))
        return z, params.new_empty(batch, dtype=kl_dtype)

    @gradient_operator.register_fake
    def _(dz, dkl, scatter, params, dist, seed, step, step_tensor, rows, ids, draw, draws):
        batch = params.shape[0] if rows is None or scatter else rows.shape[0]
        return params.new_empty(batch, *params.shape[1:])

    def save(ctx, inputs, output):
        params, ctx.dist, ctx.seed, ctx.step, step_tensor, rows, ids, ctx.draw, draws = inputs
        ctx.save_for_backward(params, step_tensor, rows, ids, draws)
        ctx.set_materialize_grads(False)  # the gradient of an unused output is None, not a tensor of zeros

    def backward(ctx, dz, dkl):
        params, step_tensor, rows, ids, draws = ctx.saved_tensors
        arguments = params, ctx.dist, ctx.seed, ctx.step, step_tensor, rows, ids, ctx.draw, draws
        return gradient_operator(dz, dkl, rows is not None, *arguments), *[None] * 8

    operator.register_autograd(backward, setup_context=save)
    return operator, gradient_operator


def forward_triton(params, dist, *rest):
    """`forward_reference` by the Triton kernels."""
    return (full if family(dist).packed else fused).sample_kl(params, dist, *rest)


def gradient_triton(dz, dkl, scatter, params, dist, *rest):
    """`gradient_reference` by the Triton kernels."""
    module = full if family(dist).packed else fused
    return module.sample_kl_gradient(dz, dkl, scatter, params, dist, *rest)


sample_kl_operator, gradient_operator = register('sample_kl', forward_reference, gradient_reference)
if triton:
    sample_kl_operator.register_kernel('cuda')(forward_triton)
    gradient_operator.register_kernel('cuda')(gradient_triton)
    triton_operator, _ = register('sample_kl_triton', forward_triton, gradient_triton)


# -------------------------------------------------------------------------------- what callers use


def sample_kl(
    params: Tensor,
    dist: str,
    *,
    seed: int,
    step: int | Tensor,
    rows: Tensor | None = None,
    ids: Tensor | None = None,
    draw: int | Tensor = 0,
) -> tuple[Tensor, Tensor]:
    """One reparameterised sample z ~ q(z; params) for each row, and KL(q || prior), differentiable in params.

    params  [N, P, D], P posterior parameters for each dimension as FAMILIES[dist] lists them (gaussian-full:
            [N, K], K = D (D + 3) / 2); float32, float64, bfloat16 or float16; any strides.
    dist    the family, a name in FAMILIES.
    seed    int in [0, 2^64).
    step    int or 0-d int64 tensor.
    rows    int64 [B], the rows to sample; None: all N in order.
    ids     int64 [B], the ids of the samples' noise; None: their rows.
    draw    int or int64 [B]: equal ids with draws 0, 1, 2, ... are independent Monte-Carlo samples.

    The noise is a function of seed, step, id, draw and dimension alone; step, id and draw count modulo 2^32.

    Returns z [B, D] in the dtype of params, and kl [B] in nats, float32 (float64 for float64 params). They
    have first derivatives only.

    ValueError: an argument of the wrong shape, type, device or range; it names what was expected and what
    came. On a GPU, rows out of range are not an error, since checking them would make the host wait for the
    device: their z and kl are NaN.
    """
    arguments = operator_arguments(params, dist, seed, step, rows, ids, draw)
    if params.device.type == 'cpu' and not torch.compiler.is_compiling():
        # The operator would run the same function; calling it directly saves a fifth of the time.
        return forward_reference(*arguments)
    return sample_kl_operator(*arguments)


def sample_kl_reference(
    params: Tensor,
    dist: str,
    *,
    seed: int,
    step: int | Tensor,
    rows: Tensor | None = None,
    ids: Tensor | None = None,
    draw: int | Tensor = 0,
) -> tuple[Tensor, Tensor]:
    """`sample_kl` in plain PyTorch on every device: same arguments and results, all derivatives."""
    return forward_reference(*operator_arguments(params, dist, seed, step, rows, ids, draw))


def sample_kl_triton(
    params: Tensor,
    dist: str,
    *,
    seed: int,
    step: int | Tensor,
    rows: Tensor | None = None,
    ids: Tensor | None = None,
    draw: int | Tensor = 0,
) -> tuple[Tensor, Tensor]:
    """`sample_kl` by the Triton kernels on every device; a CPU needs TRITON_INTERPRET=1 in the environment.

    RuntimeError: Triton cannot run here; the message says why.
    """
    arguments = operator_arguments(params, dist, seed, step, rows, ids, draw)
    checks.check_triton('params', params, 'sample_kl')
    checks.check_range(params.shape[0], rows)
    return triton_operator(*arguments)


def sample_kl_gradient(
    params: Tensor,
    dist: str,
    dz: Tensor | None,
    dkl: Tensor | None,
    *,
    seed: int,
    step: int | Tensor,
    rows: Tensor | None = None,
    ids: Tensor | None = None,
    draw: int | Tensor = 0,
) -> Tensor:
    """The gradient of a loss in the batch's rows, for an optimiser that works on rows.

    It is what autograd gives for params[rows], without a tensor of the size of params.

    dz      [B, D], the loss's gradient in z; None for 0.
    dkl     [B], its gradient in kl; None for 0.
    The others are the arguments that `sample_kl` had.

    Returns [B, P, D] (or [B, K]) in the dtype of params. ValueError as in `sample_kl`.
    """
    _, *arguments = operator_arguments(params, dist, seed, step, rows, ids, draw)
    batch = params.shape[0] if rows is None else rows.shape[0]
    checks.check_gradient('dz', dz, [batch, family(dist).latent_dim(params)], params.device)
    checks.check_gradient('dkl', dkl, [batch], params.device)
    return gradient_operator(dz, dkl, False, params.detach(), *arguments)


def sample_prior(
    dist: str,
    shape: tuple[int, int],
    *,
    seed: int,
    step: int | Tensor = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = 'cpu',
) -> Tensor:
    """Draws from the prior, [N, D] = shape, with the noise that `sample_kl` would use for rows 0 to N - 1.

    ValueError: an unknown family, dtype or device, a shape that is not two sizes, a seed or step as in
    `sample_kl`.
    """
    n, d = checks.check_prior(dist, shape, dtype, device)
    ids = torch.arange(n, device=device)
    seed, step = checks.check_key(seed, step, ids.device)
    return standard_noise(
        dist, ids, d, seed=seed, step=step, draw=0, dtype=torch.promote_types(dtype, torch.float32)
    ).to(dtype)
