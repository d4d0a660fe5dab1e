"""Adam for rows: the kernel equals the reference, and both equal PyTorch where it does the same."""

import math
import sys

import numpy as np
import pytest
import torch

import kernels
from kernels import adam

needs_triton = pytest.mark.skipif(sys.platform != 'linux', reason='triton is published for Linux only')
# The interpreter also computes what is not stored: lanes without an element, series outside their range.
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning:triton.runtime.interpreter')


# ------------------------------------------------------------------ the kernel equals the reference


# A tile has 512 elements: 512 rows for k = 1, 8 for k = 60, 2 for k = 200, and one row takes two tiles for k
# = 1000.
@needs_triton
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(
    'b, k', [(1, 1), (3, 7), (1, 60), (9, 60), (64, 60), (5, 120), (4, 128), (3, 200), (2, 1000)]
)
def test_triton_equals_the_reference(b, k, dtype, fresh_state, normal, device):
    n = b + 2  # some rows are left out in each step
    actual, reference, exact = (
        fresh_state(torch.zeros(n, k, device=device, dtype=t)) for t in (dtype, dtype, torch.float64)
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        rows = torch.randperm(n, generator=generator)[:b].to(device)
        gradient = normal(b, k, dtype=dtype, seed=step)
        kernels.row_adam_triton_(*actual, rows, gradient, lr=0.1)
        kernels.row_adam_reference_(*reference, rows, gradient, lr=0.1)
        kernels.row_adam_reference_(*exact, rows, gradient.double(), lr=0.1)
    assert torch.equal(actual[3], reference[3]) and actual[3].sum() == 5 * b
    rtol = 1e-6 if dtype == torch.float32 else 1e-12
    for a, e in zip(actual, exact):
        torch.testing.assert_close(a.double(), e.double(), rtol=rtol, atol=0.3 * rtol)
    # In float32 the reference's 1 - beta2^count has lost digits, up to 2e-5 of it.
    for a, r in zip(actual, reference):
        torch.testing.assert_close(a, r, rtol=20 * rtol, atol=3 * rtol)


@needs_triton
@pytest.mark.parametrize('betas', [(0.9, 0.999), (0.5, 0.99), (0.0, 0.9), (0.9, 0.0), (0, 0)])
def test_triton_equals_the_reference_with_other_settings(betas, fresh_state, normal, device):
    actual = fresh_state(torch.zeros(4, 5, device=device))
    exact = fresh_state(torch.zeros(4, 5, device=device, dtype=torch.float64))
    settings = dict(lr=1, beta1=betas[0], beta2=betas[1], eps=0.1)
    rows = torch.arange(4, device=device)
    for step in range(3):
        gradient = normal(4, 5, seed=step)
        kernels.row_adam_triton_(*actual, rows, gradient, **settings)
        kernels.row_adam_reference_(*exact, rows, gradient.double(), **settings)
    for a, e in zip(actual, exact):
        torch.testing.assert_close(a.double(), e.double(), rtol=1e-6, atol=1e-6)


@needs_triton
def test_no_nan_where_the_reference_has_none(fresh_state, device):
    gradient = torch.tensor([0, 1e-30, -1e-30, 1e-20, 1e30, -1e30, 1e-3, 1.0], device=device)
    gradient = gradient[:, None].repeat(1, 5)
    actual, reference = (fresh_state(torch.zeros(8, 5, device=device)) for _ in range(2))
    rows = torch.arange(8, device=device)
    for sign in (1, 1, -1):
        kernels.row_adam_triton_(*actual, rows, sign * gradient, lr=0.1)
        kernels.row_adam_reference_(*reference, rows, sign * gradient, lr=0.1)
        for a, r in zip(actual, reference):
            torch.testing.assert_close(a[~r.isnan()], r[~r.isnan()], rtol=1e-5, atol=1e-6)
    assert not actual[0].isnan().any()


@needs_triton
def test_rows_outside_latents_are_never_accessed(normal, device):
    whole = [normal(5, 7), normal(5, 7, seed=1), normal(5, 7, seed=2).abs(), torch.arange(5, device=device)]
    # The state is the middle of larger tensors, whose ends would change.
    state, expected = ([x.clone() for x in whole] for _ in range(2))
    rows, gradient = torch.tensor([-1, 3, 1, 2**40], device=device), normal(4, 7, seed=3)
    adam.launch(*(x[1:4] for x in state), rows, gradient, 0.1, 0.9, 0.999, 1e-8)
    kernels.row_adam_reference_(*(x[1:4] for x in expected), rows[2:3], gradient[2:3], lr=0.1)
    for x, e in zip(state, expected):
        torch.testing.assert_close(x, e)
        assert torch.equal(x[[0, 1, 3, 4]], e[[0, 1, 3, 4]])


# ------------------------------------------------------------------ both equal PyTorch's optimisers


@pytest.mark.parametrize('rows', [[7, 2, 5], list(range(10))])
def test_equals_sparse_adam_where_all_rows_have_the_same_count(row_adam_, rows, fresh_state, normal, device):
    latents, rows = normal(10, 6, dtype=torch.float64), torch.tensor(rows, device=device)
    learnt = latents.clone().requires_grad_()
    # SparseAdam does not correct eps for the count; a small eps makes no difference.
    optimiser = torch.optim.SparseAdam([learnt], lr=0.1, eps=1e-12)
    state = fresh_state(latents)
    for step in range(5):
        gradient = normal(len(rows), 6, dtype=torch.float64, seed=step)
        learnt.grad = torch.sparse_coo_tensor(rows[None], gradient, latents.shape, check_invariants=True)
        optimiser.step()
        row_adam_(*state, rows, gradient, lr=0.1, eps=1e-12)
    torch.testing.assert_close(latents, learnt.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('dtype, rtol', [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_dense_adam_where_all_rows_come_each_step(row_adam_, dtype, rtol, fresh_state, normal, device):
    learnt = normal(10, 6, dtype=dtype).requires_grad_()
    optimiser = torch.optim.Adam([learnt], lr=0.1, betas=(0.9, 0.99))
    state = fresh_state(learnt.detach().clone())
    for step in range(5):
        learnt.grad = normal(10, 6, dtype=dtype, seed=step)
        optimiser.step()
        rows = torch.randperm(10, generator=torch.Generator().manual_seed(step)).to(device)
        row_adam_(*state, rows, learnt.grad[rows], lr=0.1, beta2=0.99)
    torch.testing.assert_close(state[0], learnt.detach(), rtol=rtol, atol=rtol)


# --------------------------------------------------------------------------- each row has its own count


@pytest.mark.parametrize('n', [1, 2, 3, 10, 100, 1000, 10_000, 1_000_000, 2**40])
def test_the_correction_is_accurate_for_every_count(row_adam_, n, fresh_state, device):
    state = fresh_state(torch.zeros(1, 3, device=device))
    state[3].fill_(n - 1)
    row_adam_(*state, torch.tensor([0], device=device), torch.ones(1, 3, device=device), lr=0.1)
    assert state[3].item() == n
    # The n-th step, from zero moments and with a gradient of 1
    correction1, correction2 = (-math.expm1(n * math.log(beta)) for beta in (0.9, 0.999))
    moved = 0.1 * (1 - 0.9) / correction1 / math.sqrt((1 - 0.999) / correction2)
    rtol = 1e-6 if row_adam_ is kernels.row_adam_triton_ else 2e-5
    torch.testing.assert_close(state[0], torch.full_like(state[0], -moved), atol=0, rtol=rtol)


def test_a_row_seen_rarely_is_corrected_by_its_own_count(row_adam_, fresh_state, device):
    state = fresh_state(torch.zeros(2, 3, device=device))
    for _ in range(9):
        row_adam_(*state, torch.tensor([0], device=device), torch.ones(1, 3, device=device), lr=0.1)
    gradient = torch.tensor([[1e-3, -5.0, 70.0], [1.0, 1.0, 1.0]], device=device)
    row_adam_(*state, torch.tensor([1, 0], device=device), gradient, lr=0.1)
    torch.testing.assert_close(state[0][1], -0.1 * gradient[0].sign(), rtol=2e-5, atol=0)
    assert state[3].tolist() == [10, 1]


def test_other_rows_stay_bit_for_bit(row_adam_, normal, device):
    state = normal(9, 7), normal(9, 7, seed=1), normal(9, 7, seed=2).abs(), torch.arange(9, device=device)
    before = [x.clone() for x in state]
    row_adam_(*state, torch.tensor([4, 0], device=device), normal(2, 7), lr=0.1)
    for x, old in zip(state, before):
        assert torch.equal(x[[1, 2, 3, 5, 6, 7, 8]], old[[1, 2, 3, 5, 6, 7, 8]])
        assert not torch.isclose(x[[4, 0]], old[[4, 0]]).all(-1).any()


# ------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_learning_rate_may_be_a_tensor(row_adam_, dtype, fresh_state, normal, device):
    states = [fresh_state(normal(4, 3, dtype=dtype)) for _ in range(3)]
    rates = 0.25, torch.tensor(0.25, device=device), torch.tensor(0.25, device=device, dtype=torch.float64)
    for state, lr in zip(states, rates):
        row_adam_(*state, torch.tensor([2, 0], device=device), normal(2, 3, dtype=dtype), lr=lr)
        torch.testing.assert_close(state[0], states[0][0], rtol=0, atol=0)


def test_numbers_may_be_those_of_numpy(row_adam_, fresh_state, normal, device):
    actual, expected = fresh_state(normal(4, 3)), fresh_state(normal(4, 3))
    rows, gradient = torch.tensor([2, 0], device=device), normal(2, 3)
    numbers = dict(lr=0.25, beta1=0.5, beta2=0.75, eps=0.125)  # exact in float32
    row_adam_(*actual, rows, gradient, **{name: np.float32(x) for name, x in numbers.items()})
    row_adam_(*expected, rows, gradient, **numbers)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected))


def test_the_state_may_be_parts_of_one_tensor(row_adam_, fresh_state, normal, device):
    latents, m, v = torch.cat([normal(4, 3), torch.zeros(8, 3, device=device)]).split(4)
    actual = latents, m, v, torch.zeros(4, dtype=torch.int64, device=device)
    expected = fresh_state(normal(4, 3))
    for state in (actual, expected):
        row_adam_(*state, torch.tensor([2, 0], device=device), normal(2, 3), lr=0.1)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected))


def test_an_empty_batch_changes_nothing(row_adam_, normal, device):
    state = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2).abs(), torch.arange(4, device=device)
    before = [x.clone() for x in state]
    rows = torch.zeros(0, dtype=torch.int64, device=device)
    row_adam_(*state, rows, torch.zeros(0, 3, device=device), lr=0.1)
    assert all(torch.equal(x, old) for x, old in zip(state, before))


def test_rows_and_gradient_may_be_views(row_adam_, fresh_state, normal, device):
    actual, expected = fresh_state(normal(8, 3)), fresh_state(normal(8, 3))
    rows, gradient = torch.arange(8, device=device)[1::2], normal(3, 4).T
    row_adam_(*actual, rows, gradient, lr=0.1)
    row_adam_(*expected, rows.clone(), gradient.contiguous(), lr=0.1)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected))


def test_autograd_records_only_that_latents_changed(row_adam_, fresh_state, normal, device):
    state = fresh_state(normal(4, 3).requires_grad_())
    loss = state[0].square().sum()
    row_adam_(*state, torch.tensor([2, 0], device=device), normal(2, 3).requires_grad_(), lr=0.1)
    assert state[0].is_leaf and not any(x.requires_grad for x in state[1:])
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='a CUDA graph cannot be captured without a GPU')
def test_a_cuda_graph_replays_with_another_learning_rate(fresh_state, normal):
    captured, expected = fresh_state(normal(8, 60)), fresh_state(normal(8, 60))
    rows, gradient, lr = torch.tensor([5, 1], device='cuda'), normal(2, 60), torch.zeros((), device='cuda')
    side = torch.cuda.Stream()  # a first run outside the graph compiles the kernel
    with torch.cuda.stream(side):
        kernels.row_adam_(*fresh_state(normal(8, 60)), rows, gradient, lr=lr)
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
