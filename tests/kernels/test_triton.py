"""The Triton kernels equal the PyTorch reference, element by element."""

import math
import sys

import pytest
import torch

import kernels
from kernels import sampling

if sys.platform != 'linux':
    pytest.skip('triton is published for Linux only', allow_module_level=True)

from kernels import full, fused  # noqa: E402

# The interpreter computes both branches of tl.where, and h's series for small x overflows for large ones.
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning:triton.runtime.interpreter')


def sample_kl_operator(params, dist, *, seed, step, rows=None, ids=None, draw=0):
    """What sample_kl runs on a GPU and what torch.compile sees."""
    arguments = sampling.operator_arguments(params, dist, seed, step, rows, ids, draw)
    return torch.ops.autodecoder.sample_kl(*arguments)


@pytest.fixture
def assert_equal_to_reference(results):
    def check(params, dist, rtol=1e-5, atol=1e-5, **arguments):
        """Every implementation's results against those of the reference for the same numbers in float64."""
        expected = results(kernels.sample_kl_reference, params.double(), dist, **arguments)
        for sample_kl in (kernels.sample_kl_triton, kernels.sample_kl, sample_kl_operator):
            for actual, exact in zip(results(sample_kl, params, dist, **arguments), expected):
                torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=atol)

    return check


# A tile has 2048 elements: 512 rows for d = 1, 32 for d = 60, 16 for d > 64, where a row has several tiles
# of 128.
@pytest.mark.parametrize(
    'b, d', [(7, d) for d in (1, 3, 4, 9, 60, 64, 127, 128, 300)] + [(b, 60) for b in (0, 1, 70)] + [(5, 0)]
)
def test_triton_equals_the_reference(dist, b, d, random_params, assert_equal_to_reference, device):
    if kernels.family(dist).packed:  # slow in Triton's interpreter; its loops change at 8, 64 and 128
        b, d = min(b, 2), min(d, 130)
    params = 0.5 * random_params(dist, n=70, d=d)
    rows = torch.randint(0, 70, (b,), generator=torch.Generator().manual_seed(b)).to(device)
    assert_equal_to_reference(params, dist, seed=2**63 + 11, step=2**31 + 7, rows=rows)
    if b:
        draw = torch.arange(b, device=device)
        assert_equal_to_reference(params, dist, seed=1, step=0, rows=rows[:1].repeat(b), draw=draw)
        assert_equal_to_reference(params[:b], dist, seed=1, step=0, ids=rows, draw=-1)


@pytest.mark.parametrize(
    'dtype, tolerance', [(torch.float64, 1e-12), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)]
)
def test_triton_equals_the_reference_in_every_dtype(
    dist, dtype, tolerance, random_params, results, normal, device
):
    params = random_params(dist, n=6, d=60, dtype=dtype)
    dz = normal(3, 60, dtype=dtype)  # the same for both, rounded to half precision
    dkl = torch.tensor([0.5, -1.0, 2.0], device=device)
    arguments = dict(seed=0, step=0, rows=torch.tensor([4, 0, 2], device=device))
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    expected = results(
        kernels.sample_kl_reference, params.double(), dist, dz.double(), dkl.double(), **arguments
    )
    actual = results(kernels.sample_kl_triton, params, dist, dz, dkl.to(kl_dtype), **arguments)
    assert tuple(x.dtype for x in actual) == (dtype, kl_dtype, dtype)
    for x, exact in zip(actual, expected):
        torch.testing.assert_close(x.double(), exact, rtol=tolerance, atol=tolerance)


def test_triton_equals_the_reference_for_extreme_parameters(dist, results, device):
    p = min(len(kernels.family(dist).parameters), 2)
    values = [(-1e4, 0.0, 1e4, 1e-8), (-30.0, 30.0, 0.0)][-p:]  # locations, log-scales
    params = torch.cartesian_prod(*map(torch.tensor, values)).view(-1, p, 1).repeat(1, 1, 6).to(device)
    if kernels.family(dist).packed:
        params = torch.cat([params.flatten(1), params.new_ones(len(params), 15)], 1)
    expected = results(kernels.sample_kl_reference, params.double(), dist, seed=0, step=0)
    for actual, exact in zip(results(kernels.sample_kl_triton, params, dist, seed=0, step=0), expected):
        assert torch.isfinite(actual).all()
        torch.testing.assert_close(actual.double(), exact, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize('mu, s', [(0.0, -90.0), (1e-3, -95.0), (1.0, -80.0), (10.0, -86.5), (0.0, 80.0)])
def test_a_laplace_too_narrow_or_wide_for_its_ratios_keeps_a_finite_kl(mu, s, results, device):
    params = torch.tensor([[[mu], [s]]], device=device)
    dz, dkl = torch.zeros(1, 1, device=device), torch.ones(1, device=device)
    arguments = dict(seed=0, step=0)
    _, kl, gradient = results(kernels.sample_kl_triton, params, 'laplace', dz, dkl, **arguments)
    _, exact, exact_gradient = results(
        kernels.sample_kl_reference, params.double(), 'laplace', dz.double(), dkl.double(), **arguments
    )
    torch.testing.assert_close(kl.double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient[0, 1].double(), exact_gradient[0, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('scale', [0.0, 1e-6, 1e-4, 1e-2])
def test_kl_in_triton_is_accurate_near_the_prior(dist, scale, random_params):
    params = scale * random_params(dist, n=3, d=60)
    z, kl = kernels.sample_kl_triton(params, dist, seed=0, step=0)
    _, exact = kernels.sample_kl_reference(params.double(), dist, seed=0, step=0)
    # In float64 the reference has a relative error of 1e-16 / x.
    torch.testing.assert_close(kl.double(), exact, rtol=1e-5, atol=60 * scale * 1e-15)
    if scale == 0:  # the prior itself
        torch.testing.assert_close(z.cpu(), kernels.sample_prior(dist, (3, 60), seed=0), rtol=1e-5, atol=1e-5)


def test_any_strides_will_do(dist, random_params, results, normal, device):
    whole = random_params(dist, n=12, d=10)
    if kernels.family(dist).packed:
        layouts = whole[::2], whole.T.contiguous().T, whole.flip(0)[3:], whole[:1].expand(10, 65)
    else:
        layouts = (
            whole[::2],
            whole[:, :, ::2],
            whole.transpose(0, 2).contiguous().transpose(0, 2),
            whole.flip(0)[3:, :, 1:8],
            whole[:1].expand(5, whole.shape[1], 10),
        )
    rows = torch.tensor([1, 9, 0, 9, 3, 9, 1], device=device)[::2]
    for params in layouts:
        dz = normal(10, 8)[: kernels.family(dist).latent_dim(params), ::2].T
        dkl = torch.ones((), device=device).expand(4)
        arguments = dict(seed=0, step=0, rows=rows, draw=rows + 5)
        contiguous = params.contiguous().double()
        expected = results(
            kernels.sample_kl_reference, contiguous, dist, dz.double(), dkl.double(), **arguments
        )
        actuals = results(kernels.sample_kl_triton, params, dist, dz, dkl, **arguments)
        for actual, exact in zip(actuals, expected):
            torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('unused', ['z', 'kl'])
def test_an_output_that_was_not_used_has_no_gradient(dist, unused, random_params):
    params = random_params(dist).requires_grad_()
    gradients = []
    for sample_kl in (kernels.sample_kl_reference, kernels.sample_kl_triton, sample_kl_operator):
        z, kl = sample_kl(params, dist, seed=0, step=0)
        gradients.append(torch.autograd.grad((kl if unused == 'z' else z).sum(), params)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-5)


def test_the_gradient_of_rows_equals_the_reference(dist, random_params, results, normal, device):
    params, dz, dkl = random_params(dist, n=9, d=6), normal(4, 6), normal(4, seed=1)
    rows = torch.tensor([8, 2, 2, 0], device=device)
    _, _, expected = results(
        kernels.sample_kl_reference, params[rows], dist, dz, dkl, seed=0, step=3, ids=rows
    )
    gradient = sampling.gradient_triton(dz, dkl, False, params, dist, 0, 3, None, rows, None, 0, None)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_rows_outside_params_are_not_touched_and_give_nan(dist, random_params, device):
    # params are a part of a larger tensor full of infinities, which would show in the results if they were
    # read.
    params = torch.full((30, *kernels.family(dist).shape(60)), math.inf, device=device)[10:20]
    params.copy_(random_params(dist, n=10, d=60))
    rows = torch.tensor([3, -1, 10, 9, 2**40, -(2**40)], device=device)
    inside = torch.tensor([True, False, False, True, False, False], device=device)
    arguments = params, dist, 0, 0, None, rows, None, 0, None
    z, kl = sampling.forward_triton(*arguments)
    assert torch.equal(~z.isnan().any(1), inside)
    assert torch.equal(~z.isnan().all(1), inside)
    assert torch.equal(~kl.isnan(), inside)
    dz, dkl = torch.ones_like(z), torch.ones_like(kl)
    gradient = sampling.gradient_triton(dz, dkl, False, *arguments).flatten(1)
    assert torch.equal(gradient.isnan().all(1), ~inside) and torch.isfinite(gradient[inside]).all()
    gradient = sampling.gradient_triton(dz, dkl, True, *arguments).flatten(1)
    assert torch.isfinite(gradient).all() and gradient.any(1).nonzero().flatten().tolist() == [3, 9]


def test_a_nan_among_the_parameters_is_not_dropped(dist, random_params, results):
    for p in range(len(kernels.family(dist).parameters)):
        params = random_params(dist, n=3, d=6)
        place = [2, 8, 13][p] if kernels.family(dist).packed else (p, 2)  # of dimension 2; 13 is T_20
        params[1][place] = math.nan
        z, _, gradient = results(kernels.sample_kl_triton, params, dist, seed=0, step=0)
        assert z.isnan().nonzero().tolist() == [[1, 2]]
        assert gradient[1][place].isnan() and torch.isfinite(gradient[[0, 2]]).all()


def test_rows_beyond_two_billion_elements_are_found(random_params, device):
    n = 2**31 // 128 + 3  # 4 GiB of float16, of which one page is touched
    params = torch.empty(n, 2, 64, dtype=torch.float16, device=device)
    params[n - 1] = random_params('gaussian', n=1, d=64)[0]
    rows = torch.tensor([n - 1], device=device)
    z, kl = kernels.sample_kl_triton(params, 'gaussian', seed=0, step=0, rows=rows)
    last = params[n - 1 :].clone()
    expected, expected_kl = kernels.sample_kl_triton(last, 'gaussian', seed=0, step=0, ids=rows)
    assert torch.equal(z, expected) and torch.equal(kl, expected_kl)


@pytest.mark.parametrize('gathered', [True, False])
def test_one_launch_forward_and_one_backward(dist, gathered, random_params, device, monkeypatch):
    launched = []
    launch = fused.launch
    monkeypatch.setattr(
        fused, 'launch', lambda kernel, *rest: (launched.append(kernel), launch(kernel, *rest))
    )
    params = random_params(dist, n=8, d=12).requires_grad_()
    rows = torch.arange(8, device=device) if gathered else None
    z, kl = kernels.sample_kl_triton(params, dist, seed=0, step=0, rows=rows)
    (z.sum() + kl.sum()).backward()
    module = full if kernels.family(dist).packed else fused
    assert launched == [module.sample_kl_kernel, module.sample_kl_gradient_kernel]
