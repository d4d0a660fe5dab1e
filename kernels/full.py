"""The two Triton kernels for Gaussians with a full covariance: sampling with KL, and its gradient.

    forward     z = mu + L e        kl        (formulas: families/gaussian_full.py)
    backward    the gradient in mu, s and T, from the gradients in z and kl

Read fused.py first, whose functions these kernels share. A program works on one sample. Nearly all of its
numbers are the D (D - 1) / 2 of T: each is read once, and in the backward pass its gradient is written once.
No matrix [D, D] is ever stored.

The tile. T's rows are read COUNT at a time, as a tensor [BLOCK / LANES, COUNT, LANES]: element (b, r, l) is
column j = LANES b + l of the tile's row r. Triton gives neighbouring lanes the last axis, and then the axis
before it: 16 lanes access 64 neighbouring bytes of a row, and a warp two rows at once. A sum over j is then
additions within a lane and four shuffles; with all 32 lanes along a row, it would be five for each row. With
eight lanes it would be three, but rows start anywhere: 32 bytes lie in two sectors of memory (of 32 bytes
each), 64 bytes in three.

The loop over T's rows is unrolled, 64 rows at a time: then the compiler knows which parts of a tile lie
wholly above the diagonal, and leaves them out. The noise e is drawn once for up to 128 dimensions, and serves
all rows. With more dimensions both would take the compiler minutes, and are not done.
"""

import triton
import triton.language as tl
from torch import Tensor

from kernels import fused
from kernels.elementary import exp
from kernels.families import family
from kernels.families.gaussian import GAUSSIAN
from kernels.fused import ANY_VALUE, tile_noise, tile_parameters, tile_samples

# The fastest of seven choices on an H100 (docs/gpu.md).
LANES = 16  # along a row of T
WARPS = 2  # of a program
TILE = 2048  # elements of T at a time: 32 a lane


@triton.jit
def tile_triangle(
    params_ptr,
    row,  # [1]
    valid,  # [1]
    i,  # [1, COUNT, 1]
    j,  # [BLOCK / LANES, 1, LANES]
    LANES: tl.constexpr,
    STRIDE_N: tl.constexpr,
    STRIDE_K: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """T_ij [BLOCK / LANES, COUNT, LANES], 0 on and above the diagonal and where there is no row i."""
    first = 2 * D + (i * (i - 1) >> 1)  # place of T_i0 in a row of params
    # Columns of row i; one comparison for an element instead of three.
    length = tl.where((i < D) & valid[:, None, None], i, 0)
    ptr = params_ptr + (row * STRIDE_N)[:, None, None] + first.to(tl.int64) * STRIDE_K + j * STRIDE_K
    # How many addresses are neighbours along each axis: by that the compiler sorts the axes, to give them to
    # lanes. Only LANES is true; the 2 says which axis comes next. Triton 3.6 would take the first, and twice
    # as many instructions. No access becomes wider than the last axis allows.
    return tl.load(tl.max_contiguous(ptr, [1, 2, LANES]), mask=j < length, other=0.0).to(COMPUTE)


@triton.jit
def sum_over_columns(x):
    """[BLOCK / LANES, COUNT, LANES] -> [1, COUNT]."""
    return tl.sum(tl.sum(x, 0), 1)[None, :]


@triton.jit(**ANY_VALUE)
def sample_kl_kernel(
    params_ptr,  # [N, K], any strides
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
    STRIDE_K: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,  # type of all arithmetic: that of params, at least float32
    NOISE: tl.constexpr,
    SAMPLE_KL: tl.constexpr,  # the Gaussian's, for T = 0
    UNROLLED: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    sample, row, exists, valid, id, draw = tile_samples(rows_ptr, ids_ptr, draws_ptr, draw, N, B, 1)
    total = tl.zeros([1, COUNT], COMPUTE)
    e = tile_noise(k0, k1, 0, draw, id, step, COMPUTE, NOISE, 1, BLOCK)  # [1, BLOCK]
    for base in range(0, D, UNROLLED):
        for start in tl.static_range(0, UNROLLED, COUNT):
            start_i = base + start
            d = start_i + tl.arange(0, COUNT)
            i = d[None, :, None]
            params, inside = tile_parameters(
                params_ptr, row, exists, valid, d, STRIDE_N, D * STRIDE_K, STRIDE_K, 2, D, COMPUTE
            )  # mu and s [1, COUNT]
            sum_te, sum_tt = tl.zeros([1, COUNT], COMPUTE), tl.zeros([1, COUNT], COMPUTE)
            for start_j in range(0, start_i + COUNT, BLOCK):
                if D > BLOCK:
                    e = tile_noise(k0, k1, start_j, draw, id, step, COMPUTE, NOISE, 1, BLOCK)
                j = start_j + tl.arange(0, BLOCK).reshape(BLOCK // LANES, 1, LANES)
                t = tile_triangle(params_ptr, row, valid, i, j, LANES, STRIDE_N, STRIDE_K, D, COMPUTE)
                # I + T instead of T: the diagonal's part of z is e_i.
                sum_te += sum_over_columns(tl.where(i == j, 1.0, t) * e.reshape(BLOCK // LANES, 1, LANES))
                sum_tt += sum_over_columns(t * t)
            z, kl = SAMPLE_KL(params, sum_te)
            sigma = exp(params[1])
            total += kl + 0.5 * sigma * sigma * sum_tt
            tl.store(z_ptr + (sample * D)[:, None] + d[None, :], z.to(z_ptr.dtype.element_ty), mask=inside)
    tl.store(kl_ptr + sample, tl.sum(total, 1), mask=exists)


@triton.jit(**ANY_VALUE)
def sample_kl_gradient_kernel(
    params_ptr,  # the first four as above
    rows_ptr,
    ids_ptr,
    draws_ptr,
    dz_ptr,  # [B, D], any strides, or None for 0
    dkl_ptr,  # [B], any stride, or None for 0
    gradient_ptr,  # out: [B, K], or with SCATTER [N, K]
    N,
    B,
    k0,
    k1,
    step,
    draw,
    STRIDE_N: tl.constexpr,
    STRIDE_K: tl.constexpr,
    DZ_STRIDE_B: tl.constexpr,
    DZ_STRIDE_D: tl.constexpr,
    DKL_STRIDE: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,
    NOISE: tl.constexpr,
    GRADIENT: tl.constexpr,
    SCATTER: tl.constexpr,
    UNROLLED: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    sample, row, exists, valid, id, draw = tile_samples(rows_ptr, ids_ptr, draws_ptr, draw, N, B, 1)
    dkl = tl.zeros([1, 1], COMPUTE)
    if dkl_ptr is not None:
        dkl = tl.load(dkl_ptr + sample * DKL_STRIDE, mask=exists, other=0.0).to(COMPUTE)[:, None]
    gradient_ptr += (row if SCATTER else sample)[:, None] * (D * (D + 3) // 2)  # [1, 1]
    stored = valid if SCATTER else exists  # [1]
    e = tile_noise(k0, k1, 0, draw, id, step, COMPUTE, NOISE, 1, BLOCK)  # [1, BLOCK]
    for base in range(0, D, UNROLLED):
        for start in tl.static_range(0, UNROLLED, COUNT):
            start_i = base + start
            d = start_i + tl.arange(0, COUNT)
            i = d[None, :, None]
            params, inside = tile_parameters(
                params_ptr, row, exists, valid, d, STRIDE_N, D * STRIDE_K, STRIDE_K, 2, D, COMPUTE
            )  # mu and s [1, COUNT]
            dz = tl.zeros([1, COUNT], COMPUTE)
            if dz_ptr is not None:
                ptr = dz_ptr + (sample * DZ_STRIDE_B)[:, None] + (d.to(tl.int64) * DZ_STRIDE_D)[None, :]
                dz = tl.load(ptr, mask=inside, other=0.0).to(COMPUTE)
            sigma = exp(params[1])
            by_z, by_kl = dz * sigma, dkl * sigma * sigma  # [1, COUNT]
            sum_te, sum_tt = tl.zeros([1, COUNT], COMPUTE), tl.zeros([1, COUNT], COMPUTE)
            for start_j in range(0, start_i + COUNT, BLOCK):
                if D > BLOCK:
                    e = tile_noise(k0, k1, start_j, draw, id, step, COMPUTE, NOISE, 1, BLOCK)
                j = start_j + tl.arange(0, BLOCK).reshape(BLOCK // LANES, 1, LANES)
                t = tile_triangle(params_ptr, row, valid, i, j, LANES, STRIDE_N, STRIDE_K, D, COMPUTE)
                e_j = e.reshape(BLOCK // LANES, 1, LANES)
                sum_te += sum_over_columns(tl.where(i == j, 1.0, t) * e_j)
                sum_tt += sum_over_columns(t * t)
                dt = by_z[:, :, None] * e_j + by_kl[:, :, None] * t
                first = 2 * D + (i * (i - 1) >> 1)
                length = tl.where((i < D) & stored[:, None, None], i, 0)
                # The same layout as that of t.
                dt_ptr = gradient_ptr[:, :, None] + first + j
                add_or_store(tl.max_contiguous(dt_ptr, [1, 2, LANES]), dt, j < length, SCATTER)
            dmu, ds = GRADIENT(params, sum_te, dz, dkl)
            inside &= stored[:, None]
            add_or_store(gradient_ptr + d[None, :], dmu, inside, SCATTER)
            add_or_store(gradient_ptr + D + d[None, :], ds + by_kl * sum_tt, inside, SCATTER)


@triton.jit
def add_or_store(ptr, value, mask, ADD: tl.constexpr):
    if ADD:
        tl.atomic_add(ptr, value, mask=mask, sem='relaxed')
    else:
        tl.store(ptr, value.to(ptr.dtype.element_ty), mask=mask)


# ------------------------------------------------------------------------------------- launching


def layout(params: Tensor) -> dict:
    """The constants of both kernels that say how params and a tile lie."""
    d = family('gaussian-full').latent_dim(params)
    block = max(LANES, min(128, triton.next_power_of_2(d)))
    count = min(TILE // block, triton.next_power_of_2(max(d, 1)))
    unrolled = max(count, min(64, triton.next_power_of_2(d))) if d <= block else count
    strides = dict(STRIDE_N=params.stride(0), STRIDE_K=params.stride(1))
    return dict(UNROLLED=unrolled, COUNT=count, BLOCK=block, LANES=LANES, **strides)


def sample_kl(params: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """The operator `sample_kl` of sampling.py for packed params [N, K]: z [B, D] and kl [B]."""
    dist, *_, rows, _, _, _ = arguments
    z, kl = fused.new_outputs(params, dist, rows)
    constants = layout(params)
    constants['SAMPLE_KL'] = GAUSSIAN.sample_kl_triton
    arguments = params, *arguments
    fused.launch(sample_kl_kernel, len(z), 1, WARPS, (z, kl), constants, arguments)
    return z, kl


def sample_kl_gradient(dz, dkl, scatter: bool, params: Tensor, *arguments) -> Tensor:
    """The operator `sample_kl_gradient` of sampling.py for packed params: [B, K], or with scatter [N, K]."""
    *_, rows, _, _, _ = arguments
    gradient = fused.new_gradient(params, rows, scatter)
    batch = len(params) if rows is None else len(rows)
    dz, dkl, strides = fused.output_gradients(dz, dkl)
    constants = layout(params)
    constants |= strides | dict(GRADIENT=GAUSSIAN.gradient_triton, SCATTER=scatter)
    tensors, arguments = (dz, dkl, gradient), (params, *arguments)
    fused.launch(sample_kl_gradient_kernel, batch, 1, WARPS, tensors, constants, arguments)
    return gradient.to(params.dtype)
