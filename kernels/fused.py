"""The two kernels: sampling with KL, and its gradient. One template each for all families.

A program works on a tile of ROWS samples by BLOCK dimensions. It finds the samples' rows in the table, loads their
parameters (the gather), draws the tile's noise from its counters alone (noise.py), and writes z and the samples' KL,
or, with the gradients of a loss in z and kl, the gradient in the parameters. Nothing else touches memory: in float32 a
Gaussian's forward pass reads 8 bytes an element and writes 4; its backward pass reads 12 and writes 8. (A gradient of the
table's shape, TO_TABLE, costs more: it starts as zeros, and repeated rows are added to it, in no fixed order.)

A row of the tile fits in one warp (BLOCK <= 128: 32 lanes with four dimensions each), so that the sum over dimensions is
a few shuffles. Four neighbouring dimensions share a Philox call and sit in one lane: its accesses are 16 bytes wide.

Rows outside the table are never read or written. Their z, kl and rows' gradient come out as NaN, which a training loop
notices; to say more, the host would have to wait for the device.
"""

import torch
import triton
import triton.language as tl

from kernels.families import family
from kernels.noise import philox_4x32_triton

WARPS = 4  # a program, 128 lanes
TILE_BYTES = 8192  # of a parameter, a program: in float32 16 elements a lane, which fit its registers


@triton.jit
def number(value):
    """A counter word: an integer argument, or the one that a pointer argument points at."""
    if value.dtype.is_ptr():
        value = tl.load(value)
    return value.to(tl.uint32)


@triton.jit
def tile_samples(rows, ids, draws, draw, N, B, ROWS: tl.constexpr):
    """The tile's samples i [ROWS], their rows in the table, whether to access them, and their counter words."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # 64 bits: tables beyond 2^31 elements
    exists = i < B
    row = i
    if rows is not None:
        row = tl.load(rows + i, mask=exists, other=0)
    id = row
    if ids is not None:
        id = tl.load(ids + i, mask=exists, other=0)
    draw = tl.zeros([ROWS], tl.uint32) + number(draw)
    if draws is not None:
        draw = tl.load(draws + i, mask=exists, other=0).to(tl.uint32)
    return i, row, exists, (row >= 0) & (row < N), id.to(tl.uint32), draw


@triton.jit
def tile_parameters(
    table,
    row,
    exists,
    valid,
    d,
    STRIDE_N: tl.constexpr,
    STRIDE_P: tl.constexpr,
    STRIDE_D: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The P parameters, each [ROWS, BLOCK], of dimensions d [BLOCK]; and which of the tile's elements exist."""
    inside = exists[:, None] & (d < D)[None, :]
    pointer = table + (row * STRIDE_N)[:, None] + (d.to(tl.int64) * STRIDE_D)[None, :]
    # Zeros are the prior, whose KL is 0: dimensions beyond D add nothing to the sum.
    absent = tl.where(valid, 0.0, float('nan')).to(table.dtype.element_ty)[:, None]
    tl.static_assert(P <= 2, 'a family has one or two parameters')
    theta = (tl.load(pointer, mask=inside & valid[:, None], other=absent).to(COMPUTE),)
    if P == 2:
        theta = (
            theta[0],
            tl.load(pointer + STRIDE_P, mask=inside & valid[:, None], other=absent).to(COMPUTE),
        )
    return theta, inside


@triton.jit
def tile_noise(
    k0,
    k1,
    start,
    draw,
    id,
    step,
    dtype: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Standard noise [ROWS, BLOCK] for dimensions start ... start + BLOCK."""
    shape: tl.constexpr = [ROWS, BLOCK // 4]
    block = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    w0, w1, w2, w3 = philox_4x32_triton(
        k0.to(tl.uint32),
        k1.to(tl.uint32),
        tl.broadcast_to(block[None, :], shape),
        tl.broadcast_to(draw[:, None], shape),
        tl.broadcast_to(id[:, None], shape),
        tl.broadcast_to(number(step), shape),
    )
    e0, e1, e2, e3 = NOISE(w0, w1, w2, w3, dtype)  # each [ROWS, BLOCK / 4]
    # [..., 2, 2] -> [ROWS, BLOCK] in the order e0, e1, e2, e3: neighbours stay in their lane
    return tl.reshape(tl.join(tl.join(e0, e2), tl.join(e1, e3)), (ROWS, BLOCK))


NUMBERS = [
    'N',
    'B',
    'k0',
    'k1',
    'step',
    'draw',
]  # of any value: no kernel of its own for 1 or multiples of 16
INDICES = ['rows', 'ids', 'draws']  # wherever they start: a slice needs no kernel of its own


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=INDICES)
def sample_kl_kernel(
    table,  # params [N, P, D], any strides (the name params is taken in Triton's launcher)
    rows,
    ids,
    draws,  # int64 [B] or None
    z,  # [B, D], out
    kl,  # [B], out
    N,
    B,
    k0,
    k1,
    step,
    draw,  # key and counter words: int32; step also a pointer to int64
    STRIDE_N: tl.constexpr,
    STRIDE_P: tl.constexpr,
    STRIDE_D: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    COMPUTE: tl.constexpr,  # type of all arithmetic: that of params, at least float32
    NOISE: tl.constexpr,
    SAMPLE_KL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, row, exists, valid, id, draw = tile_samples(rows, ids, draws, draw, N, B, ROWS)
    total = tl.zeros([ROWS, BLOCK], COMPUTE)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        theta, inside = tile_parameters(
            table, row, exists, valid, d, STRIDE_N, STRIDE_P, STRIDE_D, P, D, COMPUTE
        )
        e = tile_noise(k0, k1, start, draw, id, step, COMPUTE, NOISE, ROWS, BLOCK)
        sample, kl_part = SAMPLE_KL(theta, e)
        tl.store(z + (i * D)[:, None] + d[None, :], sample.to(z.dtype.element_ty), mask=inside)
        total += kl_part
    tl.store(kl + i, tl.sum(total, 1), mask=exists)


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=INDICES)
def sample_kl_gradient_kernel(
    table,
    rows,
    ids,
    draws,  # as above
    dz,
    dkl,  # [B, D] and [B], any strides, or None for 0
    gradient,  # out: [B, P, D], or with TO_TABLE [N, P, D]
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
    TO_TABLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, row, exists, valid, id, draw = tile_samples(rows, ids, draws, draw, N, B, ROWS)
    dkl_row = tl.zeros([ROWS, 1], COMPUTE)
    if dkl is not None:
        dkl_row = tl.load(dkl + i * DKL_STRIDE, mask=exists, other=0.0).to(COMPUTE)[:, None]
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        theta, inside = tile_parameters(
            table, row, exists, valid, d, STRIDE_N, STRIDE_P, STRIDE_D, P, D, COMPUTE
        )
        e = tl.zeros([ROWS, BLOCK], COMPUTE)
        dz_tile = e
        if dz is not None:
            e = tile_noise(k0, k1, start, draw, id, step, COMPUTE, NOISE, ROWS, BLOCK)
            dz_tile = tl.load(
                dz + (i * DZ_STRIDE_B)[:, None] + (d.to(tl.int64) * DZ_STRIDE_D)[None, :],
                mask=inside,
                other=0.0,
            ).to(COMPUTE)
        dtheta = GRADIENT(theta, e, dz_tile, dkl_row)
        for p in tl.static_range(P):
            if TO_TABLE:  # a row that came several times has its gradients added
                tl.atomic_add(
                    gradient + (row * (P * D) + p * D)[:, None] + d[None, :],
                    dtheta[p],
                    mask=inside & valid[:, None],
                    sem='relaxed',
                )
            else:
                tl.store(
                    gradient + (i * (P * D) + p * D)[:, None] + d[None, :],
                    dtheta[p].to(gradient.dtype.element_ty),
                    mask=inside,
                )


INTERPRETED = not isinstance(
    sample_kl_kernel, triton.JITFunction
)  # TRITON_INTERPRET=1: runs on a CPU, slowly


def int32(word):
    """The bits of a counter or key word as a signed 32-bit integer: one type for all values, so one compiled kernel."""
    word &= 0xFFFFFFFF
    return word - (word >> 31 << 32)


def tile(d, itemsize=4):
    """ROWS and BLOCK for latent dimension d, arithmetic in itemsize bytes."""
    block = max(4, min(128, triton.next_power_of_2(d)))
    return TILE_BYTES // itemsize // block, block


def launch(kernel, batch, tensors, params, dist, seed, step, step_tensor, rows, ids, draw, draws, constants):
    """Run the kernel over all samples, as one grid of programs. tensors: its arguments after draws."""
    if not batch:  # a grid of no programs is an error
        return
    n, p, d = params.shape
    compute = tl.float64 if params.dtype == torch.float64 else tl.float32
    tile_rows, block = tile(d, compute.itemsize)
    numbers = (x if x is None else x.contiguous() for x in (rows, ids, draws))
    with torch.cuda.device_of(params):  # Triton launches on the current GPU; on a CPU this does nothing
        kernel[(triton.cdiv(batch, tile_rows),)](
            params,
            *numbers,
            *tensors,
            n,
            batch,
            int32(seed),
            int32(seed >> 32),
            int32(step) if step_tensor is None else step_tensor,
            int32(draw),
            *params.stride(),
            P=p,
            D=d,
            COMPUTE=compute,
            NOISE=family(dist).noise_triton,
            ROWS=tile_rows,
            BLOCK=block,
            num_warps=WARPS,
            enable_fp_fusion=True,
            **constants,
        )


def sample_kl(params, dist, seed, step, step_tensor, rows, ids, draw, draws):
    """The operator `sample_kl` of sampling.py: z [B, D] and kl [B]."""
    batch = len(params) if rows is None else len(rows)
    z = params.new_empty(batch, params.shape[2])
    kl = params.new_empty(batch, dtype=torch.promote_types(params.dtype, torch.float32))
    launch(
        sample_kl_kernel,
        batch,
        (z, kl),
        params,
        dist,
        seed,
        step,
        step_tensor,
        rows,
        ids,
        draw,
        draws,
        dict(SAMPLE_KL=family(dist).sample_kl_triton),
    )
    return z, kl


def sample_kl_gradient(dz, dkl, to_table, params, dist, seed, step, step_tensor, rows, ids, draw, draws):
    """The operator `sample_kl_gradient` of sampling.py: [B, P, D], or to_table [N, P, D]."""
    batch = len(params) if rows is None else len(rows)
    if to_table:  # sums, so at least float32
        gradient = params.new_zeros(params.shape, dtype=torch.promote_types(params.dtype, torch.float32))
    else:
        gradient = params.new_empty(batch, *params.shape[1:])
    if dz is not None and dz.stride(1) not in (
        0,
        1,
    ):  # strides that depend on B would make a kernel for each B
        dz = dz.contiguous()
    dz_strides = (0, 0) if dz is None else dz.stride()
    dkl_stride = 0 if dkl is None else dkl.stride(0)
    launch(
        sample_kl_gradient_kernel,
        batch,
        (dz, dkl, gradient),
        params,
        dist,
        seed,
        step,
        step_tensor,
        rows,
        ids,
        draw,
        draws,
        dict(
            DZ_STRIDE_B=dz_strides[0],
            DZ_STRIDE_D=dz_strides[1],
            DKL_STRIDE=dkl_stride,
            GRADIENT=family(dist).gradient_triton,
            TO_TABLE=to_table,
        ),
    )
    return gradient.to(params.dtype)
