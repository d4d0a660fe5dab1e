import math
import sys

import pytest
import torch

import kernels
from kernels import adam

triton = None
if sys.platform == 'linux':  # elsewhere there is no triton to install; here its absence is an error
    import triton
needs_triton = pytest.mark.skipif(not triton, reason='triton is published for Linux only')
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='a CUDA graph cannot be captured without a GPU'
)
# The interpreter computes what nobody stores as well: lanes without an element, series outside their range.
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning:triton.runtime.interpreter')

IMPLEMENTATIONS = [kernels.row_adam_, kernels.row_adam_reference_] + (
    [kernels.row_adam_triton_] if triton else []
)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def start(table):
    """A fresh state: table, m, v, count."""
    return (
        table,
        torch.zeros_like(table),
        torch.zeros_like(table),
        torch.zeros(len(table), dtype=torch.int64, device=DEVICE),
    )


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        DEVICE, dtype
    )


def first_step(n, lr=0.1, beta1=0.9, beta2=0.999):
    """How far a row moves from zero moments by a gradient of 1, if it is told to be its n-th."""
    correction1, correction2 = (-math.expm1(n * math.log(beta)) for beta in (beta1, beta2))
    return lr * (1 - beta1) / correction1 / math.sqrt((1 - beta2) / correction2)


# --------------------------------------------------------------------------------- Triton equals the twin


@needs_triton
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('b', [1, 3, 64])
@pytest.mark.parametrize('k', [1, 7, 60, 120, 128, 200, 1000])
def test_triton_equals_the_twin(b, k, dtype):
    n = b + 2  # some rows are left out in each step
    actual, twin, exact = (
        start(torch.zeros(n, k, device=DEVICE, dtype=t)) for t in (dtype, dtype, torch.float64)
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        rows = torch.randperm(n, generator=generator)[:b].to(DEVICE)
        gradient = random(b, k, dtype=dtype, seed=step)
        kernels.row_adam_triton_(*actual, rows, gradient, lr=0.1)
        kernels.row_adam_reference_(*twin, rows, gradient, lr=0.1)
        kernels.row_adam_reference_(*exact, rows, gradient.double(), lr=0.1)
    assert torch.equal(actual[3], twin[3]) and actual[3].sum() == 5 * b
    rtol = 1e-6 if dtype == torch.float32 else 1e-12
    for a, e in zip(actual, exact):
        torch.testing.assert_close(a.double(), e.double(), rtol=rtol, atol=0.3 * rtol)
    for a, e in zip(actual, twin):  # in float32 the twin's 1 - beta2^count has lost digits, up to 2e-5 of it
        torch.testing.assert_close(a, e, rtol=20 * rtol, atol=3 * rtol)


@needs_triton
@pytest.mark.parametrize('betas', [(0.9, 0.999), (0.5, 0.99), (0.0, 0.9), (0.9, 0.0), (0, 0)])
def test_other_settings(betas):
    actual, exact = (
        start(torch.zeros(4, 5, device=DEVICE)),
        start(torch.zeros(4, 5, device=DEVICE, dtype=torch.float64)),
    )
    settings = dict(lr=1, beta1=betas[0], beta2=betas[1], eps=0.1)
    for step in range(3):
        gradient = random(4, 5, seed=step)
        kernels.row_adam_triton_(*actual, torch.arange(4, device=DEVICE), gradient, **settings)
        kernels.row_adam_reference_(*exact, torch.arange(4, device=DEVICE), gradient.double(), **settings)
    for a, e in zip(actual, exact):
        torch.testing.assert_close(a.double(), e.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
@pytest.mark.parametrize('n', [1, 2, 3, 10, 100, 1000, 10_000, 1_000_000, 2**40])
def test_the_correction_is_accurate_for_every_count(row_adam_, n):
    state = start(torch.zeros(1, 3, device=DEVICE))
    state[3].fill_(n - 1)
    row_adam_(*state, torch.tensor([0], device=DEVICE), torch.ones(1, 3, device=DEVICE), lr=0.1)
    assert state[3].item() == n
    torch.testing.assert_close(
        state[0],
        torch.full_like(state[0], -first_step(n)),
        atol=0,
        rtol=1e-6 if row_adam_ is adam.row_adam_triton_ else 2e-5,
    )


@needs_triton
def test_no_nan_where_the_twin_has_none():
    gradient = torch.tensor([0, 1e-30, -1e-30, 1e-20, 1e30, -1e30, 1e-3, 1.0], device=DEVICE)[:, None].repeat(
        1, 5
    )
    actual, twin = start(torch.zeros(8, 5, device=DEVICE)), start(torch.zeros(8, 5, device=DEVICE))
    for sign in (1, 1, -1):
        kernels.row_adam_triton_(*actual, torch.arange(8, device=DEVICE), sign * gradient, lr=0.1)
        kernels.row_adam_reference_(*twin, torch.arange(8, device=DEVICE), sign * gradient, lr=0.1)
        for a, e in zip(actual, twin):
            torch.testing.assert_close(a[~e.isnan()], e[~e.isnan()], rtol=1e-5, atol=1e-6)
    assert not actual[0].isnan().any()


# ---------------------------------------------------------------------------- equals PyTorch's optimisers


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
@pytest.mark.parametrize('rows', [[7, 2, 5], list(range(10))])
def test_equals_sparse_adam_where_all_rows_have_the_same_count(row_adam_, rows):
    table, rows = random(10, 6, dtype=torch.float64), torch.tensor(rows, device=DEVICE)
    reference = table.clone().requires_grad_()
    # Its eps is not corrected for the count: small, so that it does not matter.
    optimiser = torch.optim.SparseAdam([reference], lr=0.1, eps=1e-12)
    state = start(table)
    for step in range(5):
        gradient = random(len(rows), 6, dtype=torch.float64, seed=step)
        reference.grad = torch.sparse_coo_tensor(rows[None], gradient, table.shape, check_invariants=True)
        optimiser.step()
        row_adam_(*state, rows, gradient, lr=0.1, eps=1e-12)
    torch.testing.assert_close(table, reference.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
@pytest.mark.parametrize('dtype, rtol', [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_dense_adam_where_all_rows_come_each_step(row_adam_, dtype, rtol):
    reference = random(10, 6, dtype=dtype).requires_grad_()
    optimiser = torch.optim.Adam([reference], lr=0.1, betas=(0.9, 0.99))
    state = start(reference.detach().clone())
    for step in range(5):
        reference.grad = random(10, 6, dtype=dtype, seed=step)
        optimiser.step()
        rows = torch.randperm(10, generator=torch.Generator().manual_seed(step)).to(DEVICE)
        row_adam_(*state, rows, reference.grad[rows], lr=0.1, beta2=0.99)
    torch.testing.assert_close(state[0], reference.detach(), rtol=rtol, atol=rtol)


# ------------------------------------------------------------------------------------------ rows by themselves


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
def test_a_row_seen_rarely_is_corrected_by_its_own_count(row_adam_):
    state = start(torch.zeros(2, 3, device=DEVICE))
    for _ in range(9):
        row_adam_(*state, torch.tensor([0], device=DEVICE), torch.ones(1, 3, device=DEVICE), lr=0.1)
    gradient = torch.tensor([[1e-3, -5.0, 70.0], [1.0, 1.0, 1.0]], device=DEVICE)
    row_adam_(*state, torch.tensor([1, 0], device=DEVICE), gradient, lr=0.1)
    torch.testing.assert_close(state[0][1], -0.1 * gradient[0].sign(), rtol=2e-5, atol=0)
    assert state[3].tolist() == [10, 1]


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
def test_other_rows_stay_bit_for_bit(row_adam_):
    state = random(9, 7), random(9, 7, seed=1), random(9, 7, seed=2).abs(), torch.arange(9, device=DEVICE)
    before = [x.clone() for x in state]
    row_adam_(*state, torch.tensor([4, 0], device=DEVICE), random(2, 7), lr=0.1)
    for x, old in zip(state, before):
        assert torch.equal(x[[1, 2, 3, 5, 6, 7, 8]], old[[1, 2, 3, 5, 6, 7, 8]])
        assert not torch.isclose(x[[4, 0]], old[[4, 0]]).all(-1).any()


@needs_triton
def test_rows_outside_the_table_are_never_accessed():
    tensors = [random(5, 7), random(5, 7, seed=1), random(5, 7, seed=2).abs()]
    # The middle of larger tensors, whose ends would change
    state, expected = ([x.clone() for x in tensors] + [torch.arange(5, device=DEVICE)] for _ in range(2))
    arguments = 0.1, 0.9, 0.999, 1e-8
    adam.launch(
        *(x[1:4] for x in state),
        torch.tensor([-1, 3, 1, 2**40], device=DEVICE),
        random(4, 7, seed=3),
        *arguments,
    )
    kernels.row_adam_reference_(
        *(x[1:4] for x in expected), torch.tensor([1], device=DEVICE), random(4, 7, seed=3)[2:3], lr=0.1
    )
    for x, e in zip(state, expected):
        torch.testing.assert_close(x, e)
        assert torch.equal(x[[0, 1, 3, 4]], e[[0, 1, 3, 4]])


# --------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_learning_rate_may_be_a_tensor(row_adam_, dtype):
    states = [start(random(4, 3, dtype=dtype)) for _ in range(3)]
    rates = 0.25, torch.tensor(0.25, device=DEVICE), torch.tensor(0.25, device=DEVICE, dtype=torch.float64)
    for state, lr in zip(states, rates):
        row_adam_(*state, torch.tensor([2, 0], device=DEVICE), random(2, 3, dtype=dtype), lr=lr)
        torch.testing.assert_close(state[0], states[0][0], rtol=0, atol=0)


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
def test_an_empty_batch_changes_nothing(row_adam_):
    state = random(4, 3), random(4, 3, seed=1), random(4, 3, seed=2).abs(), torch.arange(4, device=DEVICE)
    before = [x.clone() for x in state]
    row_adam_(
        *state, torch.zeros(0, dtype=torch.int64, device=DEVICE), torch.zeros(0, 3, device=DEVICE), lr=0.1
    )
    assert all(torch.equal(x, old) for x, old in zip(state, before))


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
def test_rows_and_gradient_may_be_views(row_adam_):
    actual, expected = start(random(8, 3)), start(random(8, 3))
    rows, gradient = torch.arange(8, device=DEVICE)[1::2], random(3, 4).T
    row_adam_(*actual, rows, gradient, lr=0.1)
    row_adam_(*expected, rows.clone(), gradient.contiguous(), lr=0.1)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected))


@pytest.mark.parametrize('row_adam_', IMPLEMENTATIONS)
def test_autograd_does_not_see_the_step_but_that_the_table_changed(row_adam_):
    state = start(random(4, 3).requires_grad_())
    loss = state[0].square().sum()
    row_adam_(*state, torch.tensor([2, 0], device=DEVICE), random(2, 3).requires_grad_(), lr=0.1)
    assert state[0].is_leaf and not any(x.requires_grad for x in state[1:])
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@needs_gpu
def test_a_cuda_graph_replays_with_another_learning_rate():
    captured, expected = start(random(8, 60)), start(random(8, 60))
    rows, gradient, lr = torch.tensor([5, 1], device='cuda'), random(2, 60), torch.zeros((), device='cuda')
    side = torch.cuda.Stream()  # a first run outside the graph compiles the kernel
    with torch.cuda.stream(side):
        kernels.row_adam_(*start(random(8, 60)), rows, gradient, lr=lr)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.row_adam_(*captured, rows, gradient, lr=lr)
    for rate in (0.1, 0.2, 0.05):
        lr.fill_(rate)
        graph.replay()
        kernels.row_adam_(*expected, rows, gradient, lr=rate)
    for a, e in zip(captured, expected):
        torch.testing.assert_close(a, e)


# ------------------------------------------------------------------------------------------------ errors

F, I = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(latents=[1]), r'expected latents to be float32 or float64 of shape \[N, K\], got list'),
        (dict(latents=F[0]), r'got torch.float32 \[3\]'),
        (dict(latents=F.half()), r'got torch.float16 \[4, 3\]'),
        (dict(latents=torch.zeros(3, 4).T), r'expected latents to be contiguous, got strides \(1, 4\)'),
        (dict(m=F[:3]), r'expected m to be torch.float32 \[4, 3\] on cpu, got torch.float32 \[3, 3\] on cpu'),
        (
            dict(v=F.double()),
            r'expected v to be torch.float32 \[4, 3\] on cpu, got torch.float64 \[4, 3\] on cpu',
        ),
        (dict(v=torch.zeros(4, 6)[:, ::2]), r'expected v to be contiguous, got strides \(6, 2\)'),
        (dict(m=F.to('meta')), 'got torch.float32 .* on meta'),
        (dict(count=I.int()), r'expected count to be torch.int64 \[4\] on cpu, got torch.int32 \[4\] on cpu'),
        (dict(count=I[:3]), r'got torch.int64 \[3\]'),
        (dict(rows=[0, 1]), r'expected rows to be an int64 tensor of shape \[B\], got list'),
        (dict(rows=I.bool()), r'got torch.bool \[4\]'),
        (dict(rows=I[:2].to('meta')), 'expected rows on cpu, got it on meta'),
        (dict(rows=torch.tensor([-1, 4])), r'expected rows in \[0, 4\), got -1 to 4'),
        (
            dict(gradient=F),
            r'expected gradient to be torch.float32 \[2, 3\] on cpu, got torch.float32 \[4, 3\] on cpu',
        ),
        (dict(gradient=None), 'got NoneType'),
        (dict(lr='fast'), "expected lr to be a number or a 0-d floating-point tensor, got 'fast'"),
        (dict(lr=torch.zeros(1)), r'0-d floating-point tensor on cpu, got torch.float32 \[1\] on cpu'),
        (dict(lr=torch.tensor(1)), r'got torch.int64 \[\] on cpu'),
        (dict(beta1=1.0), r'expected beta1 to be a number in \[0, 1\), got 1.0'),
        (dict(beta2=None), 'expected beta2 .* got None'),
        (dict(eps=-1e-8), 'expected eps to be a number of at least 0, got -1e-08'),
    ],
)
def test_errors_name_what_was_expected_and_what_came(changes, message):
    arguments = dict(latents=F, m=F, v=F, count=I, rows=torch.tensor([1, 2]), gradient=F[:2], lr=0.1)
    for row_adam_ in IMPLEMENTATIONS:
        with pytest.raises(ValueError, match=message):
            row_adam_(**{**arguments, **changes})


def test_it_runs_without_triton(run_code):
    output = run_code("""
import sys; sys.modules['triton'] = None
import torch, kernels
state = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
kernels.row_adam_(*state, torch.tensor([1]), torch.ones(1, 3), lr=0.1)
print(state[3].tolist())
try: kernels.row_adam_triton_(*state, torch.tensor([1]), torch.ones(1, 3), lr=0.1)
except RuntimeError as error: print(error)""")
    assert (
        '[0, 1]' in output
        and 'expected triton, got "' in output
        and 'kernels.row_adam_ runs without it' in output
    )


@needs_triton
def test_on_a_cpu_triton_needs_its_interpreter(run_code):
    output = run_code("""
import torch, kernels
state = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
try: kernels.row_adam_triton_(*state, torch.tensor([1]), torch.ones(1, 3), lr=0.1)
except RuntimeError as error: print(error)""")
    assert 'expected latents on a GPU, got them on the CPU; there, set TRITON_INTERPRET=1' in output
