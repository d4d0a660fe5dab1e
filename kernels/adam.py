"""Adam for some rows of a tensor of latents: gather, update and scatter in one kernel.

A batch has a gradient g for B rows of latents [N, K]. For each of these rows (Kingma and Ba, "Adam", 2015):

    count <- count + 1
    m <- beta1 m + (1 - beta1) g           m_hat = m / (1 - beta1^count)
    v <- beta2 v + (1 - beta2) g^2         v_hat = v / (1 - beta2^count)
    latents <- latents - lr m_hat / (sqrt(v_hat) + eps)

Read `update_reference` first: it is this in PyTorch. The Triton kernel computes the same and reads 16 bytes
an element in float32 (gradient, latents, m, v) and writes 12, whatever N is. A row adds 24: its index and
its count, which is read and written.

count belongs to a row: m and v start at 0 and are too small by the factor 1 - beta^count, with count the
number of gradients that went into them. torch.optim.SparseAdam corrects every row by the number of all steps
instead, and a dense Adam would read and write all N rows in each step, and move rows without a gradient by
old momentum.
"""

import math

import torch
from torch import Tensor

from kernels.checks import check_row_adam, check_triton
from kernels.elementary import exp, expm1, tl, triton

LANE = 8  # elements of a lane (4 on AMD): enough for accesses of 16 bytes
# Elements of a program: few, for many programs a batch; but a row belongs to one program, and that of a full
# covariance is long.
TILE, LONG_TILE = 512, 2048


# ----------------------------------------------------------------------------------- the reference


@torch.no_grad()
def update_reference(latents, m, v, count, rows, gradient, lr, beta1, beta2, eps):
    """One step, in place. The arguments are those of `row_adam_`.

    index_select, index_copy_ and index_add_ read x[rows], set x[rows] and add to it, in less time.
    """
    n = count.index_select(0, rows) + 1  # [B]
    count.index_copy_(0, rows, n)
    n = n.to(latents.dtype)[:, None]  # [B, 1]
    m_new = m.index_select(0, rows).lerp(gradient, 1 - beta1)  # [B, K]
    v_new = v.index_select(0, rows).lerp(gradient * gradient, 1 - beta2)
    m.index_copy_(0, rows, m_new)
    v.index_copy_(0, rows, v_new)
    m_hat, v_hat = m_new / (1 - beta1**n), v_new / (1 - beta2**n)
    latents.index_add_(0, rows, lr * m_hat / (v_hat.sqrt() + eps), alpha=-1)


# -------------------------------------------------------------------------------------- the kernel

if triton:
    # One compiled kernel serves all N and B, and arrays wherever they start: see ANY_VALUE in fused.py.
    @triton.jit(
        do_not_specialize=['N', 'B'], do_not_specialize_on_alignment=['count_ptr', 'rows_ptr', 'lr_ptr']
    )
    def row_adam_kernel(
        latents_ptr,  # [N, K], in and out
        m_ptr,  # [N, K], in and out
        v_ptr,  # [N, K], in and out
        count_ptr,  # int64 [N], in and out
        rows_ptr,  # int64 [B]
        gradient_ptr,  # [B, K]
        lr: tl.float64,
        lr_ptr,  # a number to use instead of lr, or None
        N,
        B,
        K: tl.constexpr,
        BETA1: tl.constexpr,
        BETA2: tl.constexpr,
        LOG_BETA1: tl.constexpr,
        LOG_BETA2: tl.constexpr,
        EPS: tl.constexpr,
        COMPUTE: tl.constexpr,  # type of all arithmetic: that of latents
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """A program updates ROWS whole rows, BLOCK columns at a time; so a count belongs to one program."""
        # 64 bits, since latents may have more than 2^31 elements.
        i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        row = tl.load(rows_ptr + i, mask=i < B, other=-1)
        valid = (row >= 0) & (row < N)
        # Several threads hold the same row. With a load and a store, a slow thread could read what a fast one
        # had already written; an atomic operation happens once and gives all of them the same result.
        n = tl.atomic_add(count_ptr + row, 1, mask=valid, sem='relaxed') + 1
        n = n.to(COMPUTE)[:, None]  # [ROWS, 1]
        # 1 - beta^n = -expm1(n log beta). For small n, beta^n is near 1, and the difference loses digits.
        x1, x2 = n * LOG_BETA1, n * LOG_BETA2
        correction1, correction2 = -expm1(x1, exp(x1)), -expm1(x2, exp(x2))
        if lr_ptr is not None:
            lr = tl.load(lr_ptr)
        # lr m_hat / (sqrt(v_hat) + eps), with the corrections of m_hat and v_hat taken out of the loop.
        step, scale = tl.full([], lr, COMPUTE) / correction1, 1 / tl.sqrt(correction2)
        for start in range(0, K, BLOCK):
            k = start + tl.arange(0, BLOCK)
            inside = valid[:, None] & (k < K)[None, :]
            at = (row * K)[:, None] + k[None, :]
            # All loads come before the stores: the compiler does not move a load above a store.
            g = tl.load(gradient_ptr + (i * K)[:, None] + k[None, :], mask=inside)
            latents = tl.load(latents_ptr + at, mask=inside)
            m = BETA1 * tl.load(m_ptr + at, mask=inside) + (1 - BETA1) * g
            v = BETA2 * tl.load(v_ptr + at, mask=inside) + (1 - BETA2) * (g * g)
            tl.store(latents_ptr + at, latents - step * m / (tl.sqrt(v) * scale + EPS), mask=inside)
            tl.store(m_ptr + at, m, mask=inside)
            tl.store(v_ptr + at, v, mask=inside)


def tile(k: int) -> tuple[int, int, int]:
    """ROWS and BLOCK for rows of k elements, and the warps of a program."""
    block = min(LONG_TILE, triton.next_power_of_2(max(k, 1)))
    rows = max(1, TILE // block)
    return rows, block, rows * block // (32 * LANE)


def log(beta: float) -> float:
    return math.log(beta) if beta else -math.inf  # a beta of 0 needs no correction: 1 - exp(-inf) = 1


def launch(latents, m, v, count, rows, gradient, lr, beta1, beta2, eps):
    """Run the kernel over the batch, as one grid of programs. The arguments are those of `row_adam_`."""
    if not len(rows):  # Triton refuses a grid without programs
        return
    n, k = latents.shape
    tile_rows, block, warps = tile(k)
    lr, lr_tensor = (0.0, lr) if torch.is_tensor(lr) else (float(lr), None)
    with torch.cuda.device_of(latents):  # Triton launches on the current GPU; on a CPU this does nothing
        row_adam_kernel[(triton.cdiv(len(rows), tile_rows),)](
            latents,
            m,
            v,
            count,
            rows.contiguous(),
            gradient.contiguous(),
            lr,
            lr_tensor,
            n,
            len(rows),
            K=k,
            BETA1=beta1,
            BETA2=beta2,
            LOG_BETA1=log(beta1),
            LOG_BETA2=log(beta2),
            EPS=eps,
            COMPUTE=tl.float64 if latents.dtype == torch.float64 else tl.float32,
            ROWS=tile_rows,
            BLOCK=block,
            num_warps=warps,
        )
    # As PyTorch's in-place operations do, so that backward() raises an error if it needs the old values.
    torch.autograd.graph.increment_version(latents)


# -------------------------------------------------------------------------------- what callers use


def row_adam_(
    latents: Tensor,
    m: Tensor,
    v: Tensor,
    count: Tensor,
    rows: Tensor,
    gradient: Tensor,
    *,
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """One step of Adam (Kingma and Ba, 2015) for some rows of latents, in place.

    latents   [N, K], float32 or float64. The first four are contiguous, since they are changed in place.
    m, v      [N, K], the running means of the gradients and of their squares; zeros to start with.
    count     int64 [N], the number of steps that each row has had; zeros to start with.
    rows      int64 [B], the rows to change, each at most once.
    gradient  [B, K], their gradients.
    lr        the learning rate: a number, or a 0-d tensor, which a CUDA graph reads when it replays.

    Autograd does not record the step.

    ValueError: an argument of the wrong shape, type, device or range, a row that occurs twice, latents, m, v
    or count that share memory; it names what was expected and what came. On a GPU the values in rows and lr
    are not checked, since that would make the host wait for the device: rows out of range are skipped there,
    and a row that occurs twice is updated wrongly.
    """
    arguments = check_row_adam(latents, m, v, count, rows, gradient, lr, beta1, beta2, eps)
    (launch if latents.device.type == 'cuda' and triton else update_reference)(*arguments)


def row_adam_reference_(
    latents: Tensor,
    m: Tensor,
    v: Tensor,
    count: Tensor,
    rows: Tensor,
    gradient: Tensor,
    *,
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """`row_adam_` in plain PyTorch on every device: same arguments, same result.

    On a GPU, PyTorch's indexing stops the program at a row out of range.
    """
    update_reference(*check_row_adam(latents, m, v, count, rows, gradient, lr, beta1, beta2, eps))


def row_adam_triton_(
    latents: Tensor,
    m: Tensor,
    v: Tensor,
    count: Tensor,
    rows: Tensor,
    gradient: Tensor,
    *,
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """`row_adam_` by the Triton kernel on every device; a CPU needs TRITON_INTERPRET=1 in the environment.

    RuntimeError: Triton cannot run here; the message says why.
    """
    arguments = check_row_adam(latents, m, v, count, rows, gradient, lr, beta1, beta2, eps)
    check_triton('latents', latents, 'row_adam_')
    launch(*arguments)
