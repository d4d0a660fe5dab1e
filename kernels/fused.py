"""The two Triton kernels: sampling with KL, and its gradient. One template each serves all families.

    forward     z = T(e; params[row])     kl = sum over d of KL(q || p)      (formulas: families/)
    backward    the gradient in params[row], from the gradients in z and kl

Read `sample_kl_kernel` first, with the three functions above it. A program works on a tile of ROWS samples
by BLOCK dimensions. It finds the samples' rows, loads their parameters (the gather), draws the tile's noise
from its counters (noise.py), and writes z and kl, or the gradient in the parameters. Noise is never stored:
the backward pass draws it again, as in Triton's tutorial on low-memory dropout.

Bytes. In float32 a Gaussian's forward pass reads 8 bytes an element and writes 4; its backward pass reads 12
and writes 8. A gradient of the shape of params (SCATTER) costs more: it starts as zeros, and the gradients
of repeated rows are added to it, in no fixed order.

Layout. A row of the tile fits in one warp (BLOCK <= 128: 32 lanes with four dimensions each), so that the
sum over dimensions is a few shuffles. Four neighbouring dimensions share a Philox call and lie in one lane,
so that its accesses are 16 bytes wide.

Rows outside params are never read or written. Their z, kl and row of the gradient come out as NaN, which a
training loop notices; an error message would make the host wait for the device.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.families import family
from kernels.noise import philox_4x32_triton

WARPS = 4  # of a program: 128 lanes
TILE_BYTES = 8192  # of one parameter in a program: in float32 16 elements a lane, which fit its registers
SCALARS = ['N', 'B', 'k0', 'k1', 'step', 'draw']
INDICES = ['rows_ptr', 'ids_ptr', 'draws_ptr']
# Triton compiles a kernel again for scalars equal to 1 or divisible by 16, and for pointers that are not
# aligned to 16 bytes, as those of slices. One compiled kernel serves every value of the arguments named here.
ANY_VALUE = dict(do_not_specialize=SCALARS, do_not_specialize_on_alignment=INDICES)


@triton.jit
def counter_word(value):
    """A word of the counter, from an integer argument or from a pointer to one."""
    if value.dtype.is_ptr():
        value = tl.load(value)
    return value.to(tl.uint32)


@triton.jit
def tile_samples(rows_ptr, ids_ptr, draws_ptr, draw, N, B, ROWS: tl.constexpr):
    """For the tile's samples i: row, whether i exists, whether row exists, id and draw; each [ROWS]."""
    # 64 bits, since params may have more than 2^31 elements.
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = i < B
    row = i
    if rows_ptr is not None:
        row = tl.load(rows_ptr + i, mask=exists, other=0)
    id = row
    if ids_ptr is not None:
        id = tl.load(ids_ptr + i, mask=exists, other=0)
    draw = tl.zeros([ROWS], tl.uint32) + counter_word(draw)
    if draws_ptr is not None:
        draw = tl.load(draws_ptr + i, mask=exists, other=0).to(tl.uint32)
    return i, row, exists, (row >= 0) & (row < N), id.to(tl.uint32), draw


@triton.jit
def tile_parameters(
    params_ptr,
    row,  # [ROWS]
    exists,  # [ROWS]
    valid,  # [ROWS]
    d,  # [BLOCK]
    STRIDE_N: tl.constexpr,
    STRIDE_P: tl.constexpr,
    STRIDE_D: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The parameters of dimensions d, a tuple of P tensors [ROWS, BLOCK]; and which of the elements exist."""
    inside = exists[:, None] & (d < D)[None, :]
    ptr = params_ptr + (row * STRIDE_N)[:, None] + (d.to(tl.int64) * STRIDE_D)[None, :]
    # Dimensions beyond D get zeros, the prior, whose KL of 0 adds nothing to the sum. Rows outside params get
    # NaN.
    absent = tl.where(valid, 0.0, float('nan')).to(params_ptr.dtype.element_ty)[:, None]
    mask = inside & valid[:, None]
    tl.static_assert(P <= 2, 'a family has one or two parameters')
    params = (tl.load(ptr, mask=mask, other=absent).to(COMPUTE),)
    if P == 2:
        params = (params[0], tl.load(ptr + STRIDE_P, mask=mask, other=absent).to(COMPUTE))
    return params, inside


@triton.jit
def tile_noise(
    k0,
    k1,
    start,
    draw,  # [ROWS]
    id,  # [ROWS]
    step,
    dtype: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Standard noise [ROWS, BLOCK] for dimensions start ... start + BLOCK - 1."""
    shape: tl.constexpr = [ROWS, BLOCK // 4]
    block = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    w0, w1, w2, w3 = philox_4x32_triton(
        k0.to(tl.uint32),
        k1.to(tl.uint32),
        tl.broadcast_to(block[None, :], shape),
        tl.broadcast_to(draw[:, None], shape),
        tl.broadcast_to(id[:, None], shape),
        tl.broadcast_to(counter_word(step), shape),
    )
    e0, e1, e2, e3 = NOISE(w0, w1, w2, w3, dtype)  # [ROWS, BLOCK / 4] each
    # [ROWS, BLOCK / 4, 2, 2] -> [ROWS, BLOCK], the last two axes in the order e0, e1, e2, e3: neighbouring
    # dimensions stay in their lane.
    return tl.reshape(tl.join(tl.join(e0, e2), tl.join(e1, e3)), (ROWS, BLOCK))


@triton.jit(**ANY_VALUE)
def sample_kl_kernel(
    # [N, P, D], any strides. (Not `params`: Triton's launcher has a variable of that name, which would
    # replace it.)
    params_ptr,
    rows_ptr,  # int64 [B], or None
    ids_ptr,  # int64 [B], or None
    draws_ptr,  # int64 [B], or None
    z_ptr,  # [B, D], out
    kl_ptr,  # [B], out
    N,
    B,
    k0,  # key: int32
    k1,
    step,  # counter words: int32; step may also be a pointer to int64
    draw,
    STRIDE_N: tl.constexpr,
    STRIDE_P: tl.constexpr,
    STRIDE_D: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,  # type of all arithmetic: that of params, at least float32
    NOISE: tl.constexpr,  # the family's functions
    SAMPLE_KL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, row, exists, valid, id, draw = tile_samples(rows_ptr, ids_ptr, draws_ptr, draw, N, B, ROWS)
    total = tl.zeros([ROWS, BLOCK], COMPUTE)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        params, inside = tile_parameters(
            params_ptr, row, exists, valid, d, STRIDE_N, STRIDE_P, STRIDE_D, P, D, COMPUTE
        )
        e = tile_noise(k0, k1, start, draw, id, step, COMPUTE, NOISE, ROWS, BLOCK)
        z, kl = SAMPLE_KL(params, e)
        tl.store(z_ptr + (i * D)[:, None] + d[None, :], z.to(z_ptr.dtype.element_ty), mask=inside)
        total += kl
    tl.store(kl_ptr + i, tl.sum(total, 1), mask=exists)


@triton.jit(**ANY_VALUE)
def sample_kl_gradient_kernel(
    params_ptr,  # the first four as above
    rows_ptr,
    ids_ptr,
    draws_ptr,
    dz_ptr,  # [B, D], any strides, or None for 0
    dkl_ptr,  # [B], any stride, or None for 0
    gradient_ptr,  # out: [B, P, D], or with SCATTER [N, P, D]
    N,
    B,
    k0,
    k1,
    step,
    draw,
    STRIDE_N: tl.constexpr,
    STRIDE_P: tl.constexpr,
    STRIDE_D: tl.constexpr,
    DZ_STRIDE_B: tl.constexpr,
    DZ_STRIDE_D: tl.constexpr,
    DKL_STRIDE: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,
    NOISE: tl.constexpr,
    GRADIENT: tl.constexpr,
    SCATTER: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, row, exists, valid, id, draw = tile_samples(rows_ptr, ids_ptr, draws_ptr, draw, N, B, ROWS)
    dkl = tl.zeros([ROWS, 1], COMPUTE)
    if dkl_ptr is not None:
        dkl = tl.load(dkl_ptr + i * DKL_STRIDE, mask=exists, other=0.0).to(COMPUTE)[:, None]
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        params, inside = tile_parameters(
            params_ptr, row, exists, valid, d, STRIDE_N, STRIDE_P, STRIDE_D, P, D, COMPUTE
        )
        e = tl.zeros([ROWS, BLOCK], COMPUTE)
        dz = e
        if dz_ptr is not None:  # without dz the noise has no influence
            e = tile_noise(k0, k1, start, draw, id, step, COMPUTE, NOISE, ROWS, BLOCK)
            ptr = dz_ptr + (i * DZ_STRIDE_B)[:, None] + (d.to(tl.int64) * DZ_STRIDE_D)[None, :]
            dz = tl.load(ptr, mask=inside, other=0.0).to(COMPUTE)
        dparams = GRADIENT(params, e, dz, dkl)
        for p in tl.static_range(P):
            if SCATTER:
                ptr = gradient_ptr + (row * (P * D) + p * D)[:, None] + d[None, :]
                tl.atomic_add(ptr, dparams[p], mask=inside & valid[:, None], sem='relaxed')
            else:
                ptr = gradient_ptr + (i * (P * D) + p * D)[:, None] + d[None, :]
                tl.store(ptr, dparams[p].to(gradient_ptr.dtype.element_ty), mask=inside)


# ------------------------------------------------------------------------------------- launching


def int32(word):
    """The bits of a counter or key word as a signed 32-bit integer.

    Triton's type of an integer argument depends on its value; this gives one type, so one compiled kernel.
    """
    word &= 0xFFFFFFFF
    return word - (word >> 31 << 32)


def tile(d: int, itemsize: int = 4) -> tuple[int, int]:
    """ROWS and BLOCK for latent dimension d and arithmetic in itemsize bytes."""
    block = max(4, min(128, triton.next_power_of_2(d)))
    return TILE_BYTES // itemsize // block, block


def launch(kernel, batch, tile_rows, warps, tensors, constants, arguments):
    """Run a kernel over all samples, as one grid of programs of tile_rows samples each.

    tensors: the kernel's arguments after draws_ptr. constants: those that the other kernels lack. arguments:
    those of the operator `sample_kl`.
    """
    if not batch:  # Triton refuses a grid without programs
        return
    params, dist, seed, step, step_tensor, rows, ids, draw, draws = arguments
    with torch.cuda.device_of(params):  # Triton launches on the current GPU; on a CPU this does nothing
        kernel[(triton.cdiv(batch, tile_rows),)](
            params,
            *(x if x is None else x.contiguous() for x in (rows, ids, draws)),
            *tensors,
            len(params),
            batch,
            int32(seed),
            int32(seed >> 32),
            int32(step) if step_tensor is None else step_tensor,
            int32(draw),
            D=family(dist).latent_dim(params),
            COMPUTE=compute_type(params),
            NOISE=family(dist).noise_triton,
            num_warps=warps,
            enable_fp_fusion=True,
            **constants,
        )


def compute_type(params: Tensor):
    return tl.float64 if params.dtype == torch.float64 else tl.float32


def layout(params: Tensor) -> tuple[int, dict]:
    """Samples of a program, and the constants of both kernels that say how params and a tile lie."""
    _, p, d = params.shape
    rows, block = tile(d, compute_type(params).itemsize)
    strides = dict(zip(('STRIDE_N', 'STRIDE_P', 'STRIDE_D'), params.stride()))
    return rows, dict(P=p, ROWS=rows, BLOCK=block, **strides)


def new_outputs(params: Tensor, dist: str, rows) -> tuple[Tensor, Tensor]:
    """Memory for z [B, D] and kl [B]."""
    batch = len(params) if rows is None else len(rows)
    z = params.new_empty(batch, family(dist).latent_dim(params))
    return z, params.new_empty(batch, dtype=torch.promote_types(params.dtype, torch.float32))


def new_gradient(params: Tensor, rows, scatter: bool) -> Tensor:
    """Memory for the gradient in the batch's rows, [B, P, D], or with scatter in params, [N, P, D]."""
    if scatter:  # sums, so at least float32
        return params.new_zeros(params.shape, dtype=torch.promote_types(params.dtype, torch.float32))
    return params.new_empty(len(params) if rows is None else len(rows), *params.shape[1:])


def output_gradients(dz, dkl) -> tuple:
    """dz, which may be copied, dkl, and the constants that say how they lie."""
    if dz is not None and dz.stride(1) not in (0, 1):
        # Strides are compiled into the kernel, and those of a transposed dz depend on B: a kernel for each B.
        dz = dz.contiguous()
    dz_strides = (0, 0) if dz is None else dz.stride()
    dkl_stride = 0 if dkl is None else dkl.stride(0)
    return dz, dkl, dict(DZ_STRIDE_B=dz_strides[0], DZ_STRIDE_D=dz_strides[1], DKL_STRIDE=dkl_stride)


def sample_kl(
    params: Tensor, dist: str, seed: int, step: int, step_tensor, rows, ids, draw: int, draws
) -> tuple[Tensor, Tensor]:
    """The operator `sample_kl` of sampling.py in Triton: z [B, D] and kl [B]."""
    z, kl = new_outputs(params, dist, rows)
    tile_rows, constants = layout(params)
    constants['SAMPLE_KL'] = family(dist).sample_kl_triton
    arguments = params, dist, seed, step, step_tensor, rows, ids, draw, draws
    launch(sample_kl_kernel, len(z), tile_rows, WARPS, (z, kl), constants, arguments)
    return z, kl


def sample_kl_gradient(
    dz,
    dkl,
    scatter: bool,
    params: Tensor,
    dist: str,
    seed: int,
    step: int,
    step_tensor,
    rows,
    ids,
    draw,
    draws,
) -> Tensor:
    """The operator `sample_kl_gradient` of sampling.py in Triton: [B, P, D], or with scatter [N, P, D]."""
    gradient = new_gradient(params, rows, scatter)
    batch = len(params) if rows is None else len(rows)
    dz, dkl, strides = output_gradients(dz, dkl)
    tile_rows, constants = layout(params)
    constants |= strides | dict(GRADIENT=family(dist).gradient_triton, SCATTER=scatter)
    arguments = params, dist, seed, step, step_tensor, rows, ids, draw, draws
    launch(sample_kl_gradient_kernel, batch, tile_rows, WARPS, (dz, dkl, gradient), constants, arguments)
    return gradient.to(params.dtype)
