"""The operators in PyTorch's dispatcher: opcheck, torch.compile and CUDA graphs."""

import pytest
import torch

import kernels


@pytest.mark.parametrize('with_rows', [False, True])
def test_opcheck_passes(dist, with_rows, random_params, device):
    params = random_params(dist, n=6, d=5).requires_grad_()
    if with_rows:
        rest = dist, 5, 3, None, torch.tensor([1, 0, 1], device=device), None, 0, None
    else:
        rest = dist, 5, 0, torch.tensor(3, device=device), None, None, 0, None
    operator = torch.ops.autodecoder.sample_kl.default
    torch.library.opcheck(operator, (params, *rest))
    permuted = params.detach().movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_()
    torch.library.opcheck(operator, (permuted, *rest))
    b = 3 if with_rows else 6
    dz, dkl = torch.ones(b, 5, device=device), torch.ones(b, device=device)
    for scatter in {with_rows, False}:
        gradient_operator = torch.ops.autodecoder.sample_kl_gradient.default
        torch.library.opcheck(gradient_operator, (dz, dkl, scatter, params.detach(), *rest))


def test_a_compiled_step_equals_the_eager_one(dist, random_params, device):
    def loss(params, weight, rows, step):
        z, kl = kernels.sample_kl(params, dist, seed=1, step=step, rows=rows)
        return ((z @ weight).square().sum(1) + kl).mean()

    params = random_params(dist, n=6, d=5).requires_grad_()
    weight = torch.eye(5, device=device).requires_grad_()
    rows = torch.tensor([1, 0, 1], device=device)
    torch.compiler.reset()  # what was compiled for other families counts as versions of the same program
    # aot_eager traces the loss and its gradient and runs what it traced; a GPU tests the compiler as well.
    compiled = torch.compile(loss, fullgraph=True, backend='inductor' if device == 'cuda' else 'aot_eager')
    for step in (torch.tensor(0, device=device), torch.tensor(1, device=device), 2, 3):
        actual, expected = compiled(params, weight, rows, step), loss(params, weight, rows, step)
        torch.testing.assert_close(actual, expected)
        gradients = (torch.autograd.grad(value, (params, weight)) for value in (actual, expected))
        torch.testing.assert_close(*gradients)


def test_a_compiled_program_serves_every_batch_size(random_params, device):
    params = random_params('gaussian', n=40, d=5)

    def sample(rows):
        return kernels.sample_kl(params, 'gaussian', seed=1, step=0, rows=rows)

    torch.compiler.reset()
    compiled = torch.compile(sample, fullgraph=True, backend='aot_eager')
    for b in range(2, 16):  # if each size were compiled anew, the ninth would be an error
        rows = torch.arange(b, device=device)
        torch.testing.assert_close(compiled(rows), sample(rows))


def test_a_compiled_step_of_adam_equals_the_eager_one(fresh_state, normal, device):
    actual, expected = fresh_state(normal(4, 3)), fresh_state(normal(4, 3))
    rows, gradient = torch.tensor([2, 0], device=device), normal(2, 3)

    def step(latents, m, v, count, rows, gradient, lr):
        kernels.row_adam_(latents, m, v, count, rows, gradient, lr=lr)

    # fullgraph: a check that reads a tensor would be an error
    compiled = torch.compile(step, fullgraph=device == 'cpu', backend='aot_eager')
    for lr in (0.1, 0.2, torch.tensor(0.3, device=device)):
        compiled(*actual, rows, gradient, lr)
        step(*expected, rows, gradient, lr)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='a CUDA graph cannot be captured without a GPU')
def test_a_cuda_graph_replays_with_fresh_noise(dist, random_params, results):
    params = random_params(dist, n=6, d=5).requires_grad_()
    rows, step = torch.tensor([1, 0, 1], device='cuda'), torch.zeros((), dtype=torch.int64, device='cuda')

    def sample():
        z, kl = kernels.sample_kl(params, dist, seed=1, step=step, rows=rows)
        (gradient,) = torch.autograd.grad(z.sum() + kl.sum(), params)
        return z, kl, gradient

    side = torch.cuda.Stream()  # a first run outside the graph compiles the kernels
    with torch.cuda.stream(side):
        sample()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = sample()
    ones = torch.ones_like(captured[0]), torch.ones_like(captured[1])
    seen = []
    for number in range(3):
        step.fill_(number)
        graph.replay()
        expected = results(kernels.sample_kl, params, dist, *ones, seed=1, step=number, rows=rows)
        for actual, exact in zip(captured, expected):
            torch.testing.assert_close(actual, exact, rtol=1e-5, atol=1e-5)
        seen.append(captured[0].clone())
    assert not torch.isclose(seen[0], seen[1]).any()
