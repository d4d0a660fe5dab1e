"""Adam for the rows of a table: gather, update and scatter in one kernel.

A batch has a gradient for few rows of the table [N, K]. The kernel finds these rows of the table and of Adam's moments m
and v, updates all three and writes them back: in float32 an element reads 16 bytes (gradient, table, m, v) and writes 12,
28 in sum, whatever N is. A row adds 24: its number, and its count of steps, read and written. Nothing else touches memory.

Each row has its own count, since m and v start at 0 and are too small by the factor 1 - beta^count, count being the
number of gradients that went in. A row seen for the first time is corrected for one, when others have had thousands.
(torch.optim.SparseAdam corrects all rows by the number of steps of the whole table.)

A dense Adam, torch.optim.Adam, would read and write the whole table in every step, and move every row that it has seen
before, by the stale momentum of gradients that belonged to other steps.
"""

import math

import torch

from kernels import sampling
from kernels.elementary import exp, expm1, tl, triton
from kernels.sampling import check_numbers, check_range

WARPS = 2  # a program, 64 lanes (128 on AMD)
TILE = 512  # elements a program: 8 (or 4) a lane, at least 16 bytes of each tensor; few, for many programs


# -------------------------------------------------------------------------------------------- the kernel

if triton:
    # Numbers of any value, and arrays wherever they start: no kernel of its own for 1, multiples of 16, or a slice.
    @triton.jit(do_not_specialize=['N', 'B'], do_not_specialize_on_alignment=['count', 'rows', 'lr_tensor'])
    def row_adam_kernel(
        table,
        m,
        v,  # [N, K], in and out
        count,  # int64 [N], in and out
        rows,  # int64 [B]
        gradient,  # [B, K]
        lr: tl.float64,
        lr_tensor,  # a number; a pointer to one, or None
        N,
        B,
        K: tl.constexpr,
        BETA1: tl.constexpr,
        BETA2: tl.constexpr,
        LOG_BETA1: tl.constexpr,
        LOG_BETA2: tl.constexpr,
        EPS: tl.constexpr,
        COMPUTE: tl.constexpr,  # type of all arithmetic: that of the table
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """A program owns ROWS whole rows and takes them BLOCK columns at a time, so that nobody else looks at their counts."""
        i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # 64 bits: tables beyond 2^31 elements
        row = tl.load(rows + i, mask=i < B, other=-1)
        valid = (row >= 0) & (row < N)
        # Read and incremented in one: after a plain load and store a slow warp could read what a fast one has written.
        n = (tl.atomic_add(count + row, 1, mask=valid, sem='relaxed') + 1).to(COMPUTE)[:, None]  # [ROWS, 1]
        # 1 - beta^n = -(exp(n log beta) - 1). The power itself is near 1 for small n: the difference would lose its digits.
        x1, x2 = n * LOG_BETA1, n * LOG_BETA2
        correction1, correction2 = -expm1(x1, exp(x1)), -expm1(x2, exp(x2))
        if lr_tensor is not None:
            lr = tl.load(lr_tensor)
        step, scale = tl.full([], lr, COMPUTE) / correction1, 1 / tl.sqrt(correction2)
        for start in range(0, K, BLOCK):
            k = start + tl.arange(0, BLOCK)
            inside = valid[:, None] & (k < K)[None, :]
            at = (row * K)[:, None] + k[None, :]
            g = tl.load(gradient + (i * K)[:, None] + k[None, :], mask=inside)
            theta = tl.load(table + at, mask=inside)  # before the stores, which it would have to wait for
            m_new = BETA1 * tl.load(m + at, mask=inside) + (1 - BETA1) * g
            v_new = BETA2 * tl.load(v + at, mask=inside) + (1 - BETA2) * (g * g)
            # lr m_hat / (sqrt(v_hat) + eps), with the corrections of m_hat and v_hat taken out of the loop
            theta -= step * m_new / (tl.sqrt(v_new) * scale + EPS)
            tl.store(table + at, theta, mask=inside)
            tl.store(m + at, m_new, mask=inside)
            tl.store(v + at, v_new, mask=inside)


def tile(k):
    """ROWS and BLOCK for rows of k elements."""
    block = min(TILE, triton.next_power_of_2(max(k, 1)))
    return TILE // block, block


def log(beta):
    return math.log(beta) if beta else -math.inf


def launch(table, m, v, count, rows, gradient, lr, beta1, beta2, eps):
    """Run the kernel over the batch, as one grid of programs. Arguments as `check` returns them."""
    if not len(rows):  # a grid of no programs is an error
        return
    n, k = table.shape
    tile_rows, block = tile(k)
    lr, lr_tensor = (0.0, lr) if torch.is_tensor(lr) else (float(lr), None)
    with torch.cuda.device_of(table):  # Triton launches on the current GPU; on a CPU this does nothing
        row_adam_kernel[(triton.cdiv(len(rows), tile_rows),)](
            table,
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
            COMPUTE=tl.float64 if table.dtype == torch.float64 else tl.float32,
            ROWS=tile_rows,
            BLOCK=block,
            num_warps=WARPS,
        )
    torch.autograd.graph.increment_version(
        table
    )  # as after PyTorch's own: a graph that needs the old values says so


# ---------------------------------------------------------------------------------------------- the twin


@torch.no_grad()
def twin(table, m, v, count, rows, gradient, lr, beta1, beta2, eps):
    count[rows] += 1
    n = count[rows].to(table.dtype)[:, None]  # [B, 1]
    m_new = m[rows].lerp(gradient, 1 - beta1)
    v_new = v[rows].lerp(gradient * gradient, 1 - beta2)
    m[rows], v[rows] = m_new, v_new
    m_hat, v_hat = m_new / (1 - beta1**n), v_new / (1 - beta2**n)
    table[rows] -= lr * m_hat / (v_hat.sqrt() + eps)


# ---------------------------------------------------------------------------------------------- checks


def check_tensor(name, value, dtype, shape, device):
    """ValueError unless `value` is a tensor of this type and shape on `device`."""
    if (
        not torch.is_tensor(value)
        or value.dtype != dtype
        or list(value.shape) != shape
        or value.device != device
    ):
        got = (
            f'{value.dtype} {list(value.shape)} on {value.device}'
            if torch.is_tensor(value)
            else type(value).__name__
        )
        raise ValueError(f'expected {name} to be {dtype} {shape} on {device}, got {got}')


def check(table, m, v, count, rows, gradient, lr, beta1, beta2, eps):
    """The arguments as they came. ValueError that names what was expected and what came."""
    if not torch.is_tensor(table) or table.dim() != 2 or table.dtype not in (torch.float32, torch.float64):
        got = f'{table.dtype} {list(table.shape)}' if torch.is_tensor(table) else type(table).__name__
        raise ValueError(f'expected table to be float32 or float64 of shape [N, K], got {got}')
    (n, k), dtype, device = table.shape, table.dtype, table.device
    check_tensor('m', m, dtype, [n, k], device)
    check_tensor('v', v, dtype, [n, k], device)
    check_tensor('count', count, torch.int64, [n], device)
    for name, value in (
        ('table', table),
        ('m', m),
        ('v', v),
        ('count', count),
    ):  # in place, so a copy would not do
        if not value.is_contiguous():
            raise ValueError(f'expected {name} to be contiguous, got strides {value.stride()}')
    check_numbers('rows', rows, None, device)
    check_tensor('gradient', gradient, dtype, [len(rows), k], device)
    if torch.is_tensor(lr):
        if lr.dim() or not lr.is_floating_point() or lr.device != device:
            raise ValueError(
                f'expected lr to be a number or a 0-d floating-point tensor on {device}, '
                f'got {lr.dtype} {list(lr.shape)} on {lr.device}'
            )
    elif isinstance(lr, bool) or not isinstance(lr, (int, float)):
        raise ValueError(f'expected lr to be a number or a 0-d floating-point tensor, got {lr!r}')
    for name, beta in (('beta1', beta1), ('beta2', beta2)):
        if not isinstance(beta, (int, float)) or not 0 <= beta < 1:
            raise ValueError(f'expected {name} to be a number in [0, 1), got {beta!r}')
    if not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f'expected eps to be a number of at least 0, got {eps!r}')
    check_range(table, rows)
    return table, m, v, count, rows, gradient, lr, beta1, beta2, eps


# -------------------------------------------------------------------------------------- what callers use


def row_adam_(table, m, v, count, rows, gradient, *, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """One step of Adam (Kingma and Ba, 2015) for some rows of a table, in place.

    table     [N, K], float32 or float64, contiguous like all that changes.
    m, v      [N, K], the means of the gradients and of their squares; zeros to start with.
    count     int64 [N], the steps that each row has had; zeros to start with.
    rows      int64 [B], the rows to change, each at most once.
    gradient  [B, K], theirs.
    lr        a number, or a 0-d tensor, which a CUDA graph reads when it replays.

    Autograd does not see it. ValueError: an argument of the wrong shape, type, device or range; it names what was expected
    and what came. On a GPU a row out of range is passed over instead: to look at rows there, the host would have to wait.
    """
    arguments = check(table, m, v, count, rows, gradient, lr, beta1, beta2, eps)
    (launch if table.device.type == 'cuda' and triton else twin)(*arguments)


def row_adam_reference_(table, m, v, count, rows, gradient, *, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """The PyTorch twin of `row_adam_`: same arguments, same result, on every device. (There, PyTorch's indexing stops the
    program at a row out of range.)"""
    twin(*check(table, m, v, count, rows, gradient, lr, beta1, beta2, eps))


def row_adam_triton_(table, m, v, count, rows, gradient, *, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """`row_adam_` by the Triton kernel, whatever the device; on a CPU it needs TRITON_INTERPRET=1 in the environment.

    RuntimeError: it cannot run here; it says why.
    """
    arguments = check(table, m, v, count, rows, gradient, lr, beta1, beta2, eps)
    if not triton:
        raise RuntimeError(f'expected triton, got "{sampling.no_triton}"; kernels.row_adam_ runs without it')
    if table.device.type == 'cpu' and not sampling.fused.INTERPRETED:
        raise RuntimeError(
            'expected table on a GPU, got it on the CPU; there, set TRITON_INTERPRET=1 before the '
            'program starts, or use kernels.row_adam_'
        )
    launch(*arguments)
