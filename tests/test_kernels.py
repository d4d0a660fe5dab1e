import math
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Exponential, Laplace, Normal, kl_divergence

import kernels
from kernels import sampling
from kernels.families import h

triton = None
if sys.platform == 'linux':  # elsewhere there is no triton to install; here its absence is an error
    import triton
    import triton.language as tl

    from kernels import elementary, fused
    from kernels.noise import philox_4x32_triton
needs_triton = pytest.mark.skipif(not triton, reason='triton is published for Linux only')
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='a CUDA graph cannot be captured without a GPU'
)

# A family's row: parameters [N, P, D] -> the same posterior in torch.distributions, its prior, and the posterior of one
# row's [P] in SciPy.
DISTRIBUTIONS = {
    'gaussian': (
        lambda p: Normal(p[:, 0], p[:, 1].exp()),
        lambda: Normal(0.0, 1.0),
        lambda p: scipy.stats.norm(p[0], np.exp(p[1])),
    ),
    'laplace': (
        lambda p: Laplace(p[:, 0], p[:, 1].exp()),
        lambda: Laplace(0.0, 1.0),
        lambda p: scipy.stats.laplace(p[0], np.exp(p[1])),
    ),
    'exponential': (
        lambda p: Exponential(p[:, 0].exp()),
        lambda: Exponential(1.0),
        lambda p: scipy.stats.expon(scale=np.exp(-p[0])),
    ),
}
IMPLEMENTATIONS = [kernels.sample_kl, kernels.sample_kl_reference] + (
    [kernels.sample_kl_triton] if triton else []
)
FAMILIES = list(DISTRIBUTIONS)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def random_params(dist, n=6, d=5, dtype=torch.float64, seed=0):
    p = len(kernels.family(dist).parameters)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, d, generator=generator, dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize(
    'seed, counter, words',
    [  # Random123's known answers for philox4x32, 10 rounds
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_equals_the_published_vectors(seed, counter, words):
    assert tuple(kernels.philox_4x32(seed, *counter).tolist()) == words


if triton:

    @triton.jit
    def words_kernel(keys, counters, out, N: tl.constexpr, LIBRARY: tl.constexpr):
        i = tl.arange(0, N)
        c0, c1, c2, c3 = (
            tl.load(counters + i),
            tl.load(counters + N + i),
            tl.load(counters + 2 * N + i),
            tl.load(counters + 3 * N + i),
        )
        if LIBRARY:
            w0, w1, w2, w3 = tl.philox(tl.load(keys), c0, c1, c2, c3)
        else:
            key = tl.load(keys).to(tl.uint64)
            w0, w1, w2, w3 = philox_4x32_triton(
                key.to(tl.uint32),
                (key >> 32).to(tl.uint32),
                c0.to(tl.uint32),
                c1.to(tl.uint32),
                c2.to(tl.uint32),
                c3.to(tl.uint32),
            )
        tl.store(out + i, w0.to(tl.int32, bitcast=True))
        tl.store(out + N + i, w1.to(tl.int32, bitcast=True))
        tl.store(out + 2 * N + i, w2.to(tl.int32, bitcast=True))
        tl.store(out + 3 * N + i, w3.to(tl.int32, bitcast=True))


@needs_triton
@pytest.mark.parametrize('seed', [0, 7, 2**32 + 3, 2**63 - 1])
@pytest.mark.parametrize('library', [True, False])
def test_philox_equals_triton(seed, library):
    n = 64
    counters = torch.randint(0, 2**32, (4, n), generator=torch.Generator().manual_seed(1))
    counters[:, 0], counters[:, 1] = 0, 2**32 - 1
    out = torch.empty(4, n, dtype=torch.int32, device=DEVICE)
    as_int32 = torch.where(counters >= 2**31, counters - 2**32, counters).to(torch.int32).to(DEVICE)
    words_kernel[(1,)](torch.tensor([seed], device=DEVICE), as_int32, out, N=n, LIBRARY=library)
    np.testing.assert_array_equal(out.cpu().numpy().view(np.uint32).T, kernels.philox_4x32(seed, *counters))


def test_uniforms_are_exact_and_never_0_or_1():
    words = np.array([0, 511, 512, 2**31, 2**32 - 1], np.uint32)
    u = kernels.uniform(words)
    assert u.tolist() == kernels.uniform(words, torch.float64).tolist()
    assert u[0] == 2.0**-24 and u[-1] == 1 - 2.0**-24


# ---------------------------------------------------------------------------------------------- families


def test_every_family_is_tested():
    assert FAMILIES == list(kernels.FAMILIES)


@pytest.mark.parametrize('dist', FAMILIES)
def test_kl_equals_torch_distributions(dist):
    params = random_params(dist)
    posterior, prior, _ = DISTRIBUTIONS[dist]
    _, kl = kernels.sample_kl(params, dist, seed=0, step=0)
    torch.testing.assert_close(kl, kl_divergence(posterior(params), prior()).sum(1))


@pytest.mark.parametrize('dist', FAMILIES)
def test_the_priors_quantiles(dist):
    u = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    torch.testing.assert_close(
        kernels.family(dist).quantile(u), DISTRIBUTIONS[dist][1]().icdf(u), check_dtype=False
    )


@pytest.mark.parametrize('dist', FAMILIES)
def test_kl_equals_its_monte_carlo_estimate(dist):
    params = 0.5 * random_params(dist, n=2, d=4)
    posterior, prior, _ = DISTRIBUTIONS[dist]
    n = 40_000
    rows = torch.arange(2).repeat_interleave(n)
    z, kl = kernels.sample_kl(params, dist, seed=1, step=0, rows=rows, draw=torch.arange(n).repeat(2))
    ratio = (posterior(params[rows]).log_prob(z) - prior().log_prob(z)).sum(1).view(2, n)
    error = 5 * ratio.std(1) / math.sqrt(n)
    assert ((ratio.mean(1) - kl.view(2, n)[:, 0]).abs() < error).all()


@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('sample_kl', IMPLEMENTATIONS)
def test_samples_follow_the_posterior(sample_kl, dist):
    params = random_params(dist, n=1, d=4, dtype=torch.float32).to(DEVICE)
    n = 8192
    rows = torch.zeros(n, dtype=torch.int64, device=DEVICE)
    z, _ = sample_kl(params, dist, seed=2, step=0, rows=rows, draw=torch.arange(n, device=DEVICE))
    for d in range(4):
        posterior = DISTRIBUTIONS[dist][2](params[0, :, d].double().cpu().numpy())
        assert scipy.stats.kstest(z[:, d].double().cpu().numpy(), posterior.cdf).pvalue > 1e-3
    torch.testing.assert_close(kernels.family(dist).mean(params), DISTRIBUTIONS[dist][0](params).mean)


@pytest.mark.parametrize('dist', FAMILIES)
def test_noise_is_independent_between_draws_rows_steps_and_dimensions(dist):
    n, d = 20_000, 8
    params = torch.zeros(1, len(kernels.family(dist).parameters), d)
    zero, i = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    samples = [
        kernels.sample_kl(params, dist, seed=0, step=0, rows=zero, draw=i)[0],
        kernels.sample_kl(params, dist, seed=0, step=0, rows=zero, ids=i, draw=0)[0][1:],
        kernels.sample_kl(params, dist, seed=0, step=1, rows=zero, draw=i)[0],
    ]
    n -= 1
    columns = torch.cat(
        [sample[:n] for sample in samples] + [samples[0][1:]], 1
    )  # [n, 32]; neighbouring draws last
    correlation = torch.corrcoef(columns.T) - torch.eye(32)
    assert correlation.abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize('dist', FAMILIES)
def test_gradients_equal_finite_differences(dist):
    params = random_params(dist, n=3, d=5).requires_grad_()
    torch.autograd.gradcheck(lambda p: kernels.sample_kl(p, dist, seed=3, step=1), params)


def test_the_laplace_gradient_is_smooth_at_zero():
    params = torch.zeros(1, 2, 1, requires_grad=True)
    kernels.sample_kl(params, 'laplace', seed=0, step=0)[1].sum().backward()
    assert params.grad.tolist() == [[[0.0], [0.0]]]


@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('scale', [0.0, 1e-6, 1e-4, 1e-2])
def test_kl_is_accurate_near_the_prior(dist, scale):
    params = scale * random_params(dist, d=60)
    _, exact = kernels.sample_kl(params, dist, seed=0, step=0)
    _, kl = kernels.sample_kl(params.float(), dist, seed=0, step=0)
    torch.testing.assert_close(kl.double(), exact, rtol=0.01, atol=60 * scale * 1e-7)
    assert (kl >= -60 * scale * 1e-7).all()


def test_h_is_not_negative():
    assert (h(torch.linspace(-20, 20, 10_001)) >= -1e-7).all()


@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('value', [-30.0, 30.0])
def test_extreme_parameters_stay_finite(dist, value):
    params = torch.full((1, len(kernels.family(dist).parameters), 4), value, requires_grad=True)
    z, kl = kernels.sample_kl(params, dist, seed=0, step=0)
    assert torch.isfinite(z).all() and torch.isfinite(kl).all() and (kl > 0).all()
    (gradient,) = torch.autograd.grad(z.sum() + kl.sum(), params)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize('dist', FAMILIES)
def test_standardise_minimises_the_mean_kl_and_keeps_the_codes(dist):
    family = kernels.family(dist)
    params = random_params(dist, n=200, d=3) * 0.7 + 0.4
    new, scale, shift = family.standardise(params, params)
    e = kernels.sample_prior(dist, (200, 3), seed=5, dtype=torch.float64)
    torch.testing.assert_close(
        family.code(family.sample(new, e)) * scale + shift, family.code(family.sample(params, e))
    )
    best = family.kl(new).mean()
    assert best < family.kl(params).mean()
    again, scale, shift = family.standardise(new, new)
    torch.testing.assert_close(again, new)
    if dist == 'gaussian':  # where shifting and stretching is the whole freedom, no nearby change does better
        for change in (
            torch.tensor([0.02, 0.0]),
            torch.tensor([-0.02, 0.0]),
            torch.tensor([0.0, 0.02]),
            torch.tensor([0.0, -0.02]),
        ):
            moved = torch.stack([new[:, 0] * change[1].exp() + change[0], new[:, 1] + change[1]], 1)
            assert family.kl(moved).mean() > best


@pytest.mark.parametrize('dist', FAMILIES)
def test_zero_parameters_are_the_prior(dist):
    params = torch.zeros(7, len(kernels.family(dist).parameters), 6)
    z, kl = kernels.sample_kl(params, dist, seed=9, step=0)
    assert torch.equal(z, kernels.sample_prior(dist, (7, 6), seed=9)) and not kl.any()


# -------------------------------------------------------------------------------------------- what noise depends on


@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('sample_kl', IMPLEMENTATIONS)
def test_a_sample_depends_on_its_own_numbers_only(sample_kl, dist):
    params = random_params(dist, n=9, d=7, dtype=torch.float32).to(DEVICE)
    z, kl = sample_kl(params, dist, seed=4, step=5)
    rows = torch.tensor([8, 2, 2, 0], device=DEVICE)
    z_rows, kl_rows = sample_kl(params, dist, seed=4, step=5, rows=rows)
    assert torch.equal(z_rows, z[rows]) and torch.equal(kl_rows, kl[rows])
    parts = [sample_kl(params, dist, seed=4, step=5, rows=part)[0] for part in rows.split(3)]
    assert torch.equal(torch.cat(parts), z_rows)
    z_encoder, _ = sample_kl(
        params[rows], dist, seed=4, step=5, ids=rows
    )  # an encoder's output for images rows
    assert torch.equal(z_encoder, z[rows])
    z_share, _ = sample_kl(
        params[5:], dist, seed=4, step=5, rows=rows[:1] - 5, ids=rows[:1]
    )  # a share of the table
    assert torch.equal(z_share, z[rows[:1]])
    z_step, _ = sample_kl(params, dist, seed=4, step=torch.tensor(5, device=DEVICE))
    assert torch.equal(z_step, z)
    z_draw, _ = sample_kl(
        params, dist, seed=4, step=5, rows=rows, draw=torch.tensor([0, 0, 1, 3], device=DEVICE)
    )
    assert torch.equal(z_draw[:2], z[rows[:2]]) and not torch.isclose(z_draw[2], z[2]).any()
    far, _ = sample_kl(
        params, dist, seed=4, step=5 - 2**32, draw=2**32, ids=torch.arange(9, device=DEVICE) + 2**40
    )
    assert torch.equal(far, z)  # numbers count modulo 2^32


@pytest.mark.parametrize(
    'change', [dict(seed=1), dict(seed=2**32), dict(step=1), dict(draw=1), dict(ids=torch.arange(1, 5))]
)
def test_every_part_of_the_counter_gives_other_noise(change):
    params = torch.zeros(4, 2, 6)
    z, _ = kernels.sample_kl(params, 'gaussian', **{'seed': 0, 'step': 0})
    other, _ = kernels.sample_kl(params, 'gaussian', **{'seed': 0, 'step': 0, **change})
    assert not torch.isclose(z, other).any()


@pytest.mark.parametrize('d', [1, 2, 3, 4, 5, 63, 64])
def test_odd_dimensions_are_a_prefix_of_wider_ones(d):
    wide = kernels.sample_prior('gaussian', (3, 64), seed=0)
    assert torch.equal(kernels.sample_prior('gaussian', (3, d), seed=0), wide[:, :d])


@pytest.mark.parametrize('n, d', [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_empty_and_single_shapes(n, d):
    z, kl = kernels.sample_kl(torch.zeros(n, 2, d), 'gaussian', seed=0, step=0)
    assert z.shape == (n, d) and kl.shape == (n,)


def test_duplicate_rows_add_their_gradients():
    params = random_params('gaussian', n=3, dtype=torch.float32).requires_grad_()
    rows = torch.tensor([1, 1, 1])
    _, kl = kernels.sample_kl(params, 'gaussian', seed=0, step=0, rows=rows)
    (gradient,) = torch.autograd.grad(kl.sum(), params)
    _, kl = kernels.sample_kl(params, 'gaussian', seed=0, step=0, rows=rows[:1])
    (single,) = torch.autograd.grad(kl.sum(), params)
    torch.testing.assert_close(gradient, 3 * single)
    assert not gradient[[0, 2]].any()


@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dist, dtype):
    params = random_params(dist, dtype=dtype)
    z, kl = kernels.sample_kl(params, dist, seed=0, step=0)
    assert z.dtype == dtype and kl.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    z32, kl32 = kernels.sample_kl(params.float(), dist, seed=0, step=0)
    torch.testing.assert_close(z.float(), z32.to(dtype).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl.float(), kl32)


# ---------------------------------------------------------------------------------------- Triton and its twin


def results(sample_kl, params, dist, dz=None, dkl=None, **arguments):
    """z, kl and the gradient in params for gradients dz and dkl in the two (random if None)."""
    params = params.detach().requires_grad_()
    z, kl = sample_kl(params, dist, **arguments)
    generator = torch.Generator().manual_seed(3)
    dz = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z) if dz is None else dz
    dkl = torch.randn(kl.shape, generator=generator, dtype=torch.float64).to(kl) if dkl is None else dkl
    (gradient,) = torch.autograd.grad((z, kl), params, (dz, dkl))
    return z.detach(), kl.detach(), gradient


def sample_kl_operator(params, dist, *, seed, step, rows=None, ids=None, draw=0):
    """What sample_kl runs on a GPU and what torch.compile sees."""
    return torch.ops.autodecoder.sample_kl(
        *sampling.operator_arguments(params, dist, seed, step, rows, ids, draw)
    )


def assert_equal_to_twin(params, dist, rtol=1e-5, atol=1e-5, **arguments):
    """Every implementation's results against the twin's on the same numbers in float64."""
    expected = results(kernels.sample_kl_reference, params.double(), dist, **arguments)
    for sample_kl in (kernels.sample_kl_triton, kernels.sample_kl, sample_kl_operator):
        for actual, exact in zip(results(sample_kl, params, dist, **arguments), expected):
            torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=atol)


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize(
    'b, d', [(7, d) for d in (1, 3, 4, 60, 64, 127, 128, 1000)] + [(b, 60) for b in (0, 1, 64)] + [(5, 0)]
)
def test_triton_equals_its_twin(dist, b, d):
    params = (0.5 * random_params(dist, n=70, d=d, dtype=torch.float32)).to(DEVICE)
    rows = torch.randint(0, 70, (b,), generator=torch.Generator().manual_seed(b)).to(DEVICE)
    assert_equal_to_twin(params, dist, seed=2**63 + 11, step=2**31 + 7, rows=rows)
    if b:
        assert_equal_to_twin(
            params, dist, seed=1, step=0, rows=rows[:1].repeat(b), draw=torch.arange(b, device=DEVICE)
        )
        assert_equal_to_twin(params[:b], dist, seed=1, step=0, ids=rows, draw=-1)


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize(
    'dtype, tolerance', [(torch.float64, 1e-12), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)]
)
def test_triton_equals_its_twin_in_every_dtype(dist, dtype, tolerance):
    params = random_params(dist, n=6, d=60, dtype=dtype).to(DEVICE)
    dz = torch.randn(3, 60, generator=torch.Generator().manual_seed(0)).to(
        DEVICE, dtype
    )  # the same for both, in half precision
    dkl = torch.tensor([0.5, -1.0, 2.0], device=DEVICE)
    rows = torch.tensor([4, 0, 2], device=DEVICE)
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    expected = results(
        kernels.sample_kl_reference,
        params.double(),
        dist,
        dz.double(),
        dkl.double(),
        seed=0,
        step=0,
        rows=rows,
    )
    z, kl, gradient = results(
        kernels.sample_kl_triton, params, dist, dz, dkl.to(kl_dtype), seed=0, step=0, rows=rows
    )
    assert (z.dtype, kl.dtype, gradient.dtype) == (dtype, kl_dtype, dtype)
    for actual, exact in zip((z, kl, gradient), expected):
        torch.testing.assert_close(actual.double(), exact, rtol=tolerance, atol=tolerance)


@needs_triton
@pytest.mark.filterwarnings(
    'ignore:overflow encountered'
)  # in the branch of h for small x, which is not taken there
@pytest.mark.parametrize('dist', FAMILIES)
def test_triton_equals_its_twin_for_extreme_parameters(dist):
    p = len(kernels.family(dist).parameters)
    values = [(-1e4, 0.0, 1e4, 1e-8), (-30.0, 30.0, 0.0)][-p:]  # locations, log-scales
    params = torch.cartesian_prod(*map(torch.tensor, values)).view(-1, p, 1).repeat(1, 1, 6).to(DEVICE)
    expected = results(kernels.sample_kl_reference, params.double(), dist, seed=0, step=0)
    for actual, exact in zip(results(kernels.sample_kl_triton, params, dist, seed=0, step=0), expected):
        assert torch.isfinite(actual).all()
        torch.testing.assert_close(actual.double(), exact, rtol=2e-5, atol=1e-5)


@needs_triton
@pytest.mark.filterwarnings('ignore:overflow encountered')
@pytest.mark.parametrize('mu, s', [(0.0, -90.0), (1e-3, -95.0), (1.0, -80.0), (10.0, -86.5), (0.0, 80.0)])
def test_a_laplace_too_narrow_or_wide_for_its_ratios_keeps_a_finite_kl(mu, s):
    params = torch.tensor([[[mu], [s]]], device=DEVICE)
    _, kl, gradient = results(
        kernels.sample_kl_triton,
        params,
        'laplace',
        torch.zeros(1, 1, device=DEVICE),
        torch.ones(1, device=DEVICE),
        seed=0,
        step=0,
    )
    _, exact, exact_gradient = results(
        kernels.sample_kl_reference,
        params.double(),
        'laplace',
        torch.zeros(1, 1, device=DEVICE).double(),
        torch.ones(1, device=DEVICE).double(),
        seed=0,
        step=0,
    )
    torch.testing.assert_close(kl.double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient[0, 1].double(), exact_gradient[0, 1], rtol=1e-4, atol=1e-5)


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('scale', [0.0, 1e-6, 1e-4, 1e-2])
def test_tritons_kl_is_accurate_near_the_prior(dist, scale):
    params = (scale * random_params(dist, n=3, d=60, dtype=torch.float32)).to(DEVICE)
    z, kl = kernels.sample_kl_triton(params, dist, seed=0, step=0)
    _, exact = kernels.sample_kl_reference(params.double(), dist, seed=0, step=0)
    # To the last digits, where the twin's expm1(x) - x has lost some. The twin in float64 keeps 1e-16 / x of its own.
    torch.testing.assert_close(kl.double(), exact, rtol=1e-5, atol=60 * scale * 1e-15)
    if scale == 0:  # the prior itself
        torch.testing.assert_close(z.cpu(), kernels.sample_prior(dist, (3, 60), seed=0), rtol=1e-5, atol=1e-5)


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
def test_any_strides_will_do(dist):
    p = len(kernels.family(dist).parameters)
    table = random_params(dist, n=12, d=10, dtype=torch.float32).to(DEVICE)
    for params in (
        table[::2],
        table[:, :, ::2],
        table.transpose(0, 2).contiguous().transpose(0, 2),
        table.flip(0)[3:, :, 1:8],
        table[:1].expand(5, p, 10),
    ):
        rows = torch.tensor([1, 9, 0, 9, 3, 9, 1], device=DEVICE)[::2]
        wide = torch.randn(10, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        dz, dkl = wide[: params.shape[2], ::2].T, torch.ones((), device=DEVICE).expand(4)
        expected = results(
            kernels.sample_kl_reference,
            params.contiguous().double(),
            dist,
            dz.double(),
            dkl.double(),
            seed=0,
            step=0,
            rows=rows,
            draw=rows + 5,
        )
        actuals = results(
            kernels.sample_kl_triton, params, dist, dz, dkl, seed=0, step=0, rows=rows, draw=rows + 5
        )
        for actual, exact in zip(actuals, expected):
            torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5)


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('unused', ['z', 'kl'])
def test_an_output_that_was_not_used_has_no_gradient(dist, unused):
    params = random_params(dist, dtype=torch.float32).to(DEVICE)
    gradients = []
    for sample_kl in (kernels.sample_kl_reference, kernels.sample_kl_triton, sample_kl_operator):
        params.requires_grad_()
        z, kl = sample_kl(params, dist, seed=0, step=0)
        gradients.append(torch.autograd.grad((kl if unused == 'z' else z).sum(), params)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-5)


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
def test_the_rows_gradient_is_what_autograd_gives_for_the_rows(dist):
    params = random_params(dist, n=9, d=6, dtype=torch.float32).to(DEVICE)
    rows = torch.tensor([8, 2, 2, 0], device=DEVICE)
    generator = torch.Generator().manual_seed(0)
    dz, dkl = (
        torch.randn(4, 6, generator=generator).to(DEVICE),
        torch.randn(4, generator=generator).to(DEVICE),
    )
    _, _, expected = results(
        kernels.sample_kl_reference, params[rows], dist, dz, dkl, seed=0, step=3, ids=rows
    )
    gradient = kernels.sample_kl_gradient(params, dist, dz, dkl, seed=0, step=3, rows=rows)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
    numbers = 0, 3, None, rows, None, 0, None
    gradient = fused.sample_kl_gradient(dz, dkl, False, params, dist, *numbers)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
def test_rows_outside_the_table_are_not_touched_and_give_nan(dist):
    # The table is a part of a larger one full of infinities, which would show in the results if they were read.
    p = len(kernels.family(dist).parameters)
    surroundings = torch.full((30, p, 60), math.inf, device=DEVICE)
    params = surroundings[10:20]
    params.copy_(random_params(dist, n=10, d=60, dtype=torch.float32))
    rows = torch.tensor([3, -1, 10, 9, 2**40, -(2**40)], device=DEVICE)
    inside = torch.tensor([True, False, False, True, False, False], device=DEVICE)
    numbers = 0, 0, None, rows, None, 0, None
    z, kl = fused.sample_kl(params, dist, *numbers)
    assert (
        torch.equal(~z.isnan().any(1), inside)
        and torch.equal(~z.isnan().all(1), inside)
        and torch.equal(~kl.isnan(), inside)
    )
    dz, dkl = torch.ones_like(z), torch.ones_like(kl)
    gradient = fused.sample_kl_gradient(dz, dkl, False, params, dist, *numbers)
    assert torch.equal(gradient.isnan().any((1, 2)), ~inside) and torch.isfinite(gradient[inside]).all()
    gradient = fused.sample_kl_gradient(dz, dkl, True, params, dist, *numbers)
    assert torch.isfinite(gradient).all() and gradient.any((1, 2)).nonzero().flatten().tolist() == [3, 9]


@needs_triton
def test_rows_beyond_two_billion_elements_are_found():
    n = 2**31 // 128 + 3  # 4 GiB of float16, of which a page is touched
    params = torch.empty(n, 2, 64, dtype=torch.float16, device=DEVICE)
    params[n - 1] = random_params('gaussian', n=1, d=64)[0]
    rows = torch.tensor([n - 1], device=DEVICE)
    z, kl = kernels.sample_kl_triton(params, 'gaussian', seed=0, step=0, rows=rows)
    expected, expected_kl = kernels.sample_kl_triton(
        params[n - 1 :].clone(), 'gaussian', seed=0, step=0, ids=rows
    )
    assert torch.equal(z, expected) and torch.equal(kl, expected_kl)


if triton:

    @triton.jit
    def noise_kernel(words, out, NOISE: tl.constexpr, N: tl.constexpr):
        i = tl.program_id(0) * N + tl.arange(0, N)
        e0, e1, e2, e3 = NOISE(
            tl.load(words + i).to(tl.uint32),
            tl.load(words + 2**23 + i).to(tl.uint32),
            tl.load(words + 2**24 + i).to(tl.uint32),
            tl.load(words + 3 * 2**23 + i).to(tl.uint32),
            tl.float32,
        )
        tl.store(out + i, e0)
        tl.store(out + 2**23 + i, e1)
        tl.store(out + 2**24 + i, e2)
        tl.store(out + 3 * 2**23 + i, e3)


@pytest.mark.parametrize('dist', FAMILIES)
def test_every_uniform_gives_finite_noise(dist):
    i = np.arange(2**23)
    # all in each position; an odd factor permutes them, so that angles and radii come in all sorts of pairs
    words = np.stack([i, i * 0x9E3779B1 % 2**23, i * 0x85EBCA6B % 2**23, i], -1).astype(np.uint32) << 9
    exact = kernels.family(dist).noise(kernels.uniform(words, torch.float64))
    noise = kernels.family(dist).noise(kernels.uniform(words))
    assert torch.isfinite(noise).all()
    torch.testing.assert_close(noise.double(), exact, rtol=1e-6, atol=2e-6)
    if dist == 'exponential':
        assert (noise > 0).all()
    if triton:
        out = torch.empty(4, 2**23, device=DEVICE)
        tile = (
            2**19 if elementary.INTERPRETED else 2**10
        )  # the interpreter has a cost for each program, a GPU registers
        columns = torch.from_numpy(words.T.astype(np.int64, order='C')).to(DEVICE)  # [4, 2^23]
        noise_kernel[(2**23 // tile,)](columns, out, NOISE=kernels.family(dist).noise_triton, N=tile)
        noise = out.T.cpu()
        assert torch.isfinite(noise).all()
        torch.testing.assert_close(noise.double(), exact, rtol=1e-6, atol=1e-6)
        if dist == 'exponential':
            assert (noise > 0).all()


# --------------------------------------------------------------------------------------- PyTorch's machinery


def operator_arguments(dist, rows=None):
    params = random_params(dist, n=6, d=5, dtype=torch.float32).to(DEVICE).requires_grad_()
    step = torch.tensor(3, device=DEVICE) if rows is None else None
    return params, dist, 5, 0 if rows is None else 3, step, rows, None, 0, None


@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('with_rows', [False, True])
def test_opcheck(dist, with_rows):
    rows = torch.tensor([1, 0, 1], device=DEVICE) if with_rows else None
    arguments = operator_arguments(dist, rows)
    torch.library.opcheck(torch.ops.autodecoder.sample_kl.default, arguments)
    permuted = arguments[0].detach().permute(1, 2, 0).contiguous().permute(2, 0, 1).requires_grad_()
    torch.library.opcheck(torch.ops.autodecoder.sample_kl.default, (permuted, *arguments[1:]))
    dz, dkl = (
        torch.ones(3 if with_rows else 6, 5, device=DEVICE),
        torch.ones(3 if with_rows else 6, device=DEVICE),
    )
    for to_table in {with_rows, False}:
        torch.library.opcheck(
            torch.ops.autodecoder.sample_kl_gradient.default,
            (dz, dkl, to_table, arguments[0].detach(), *arguments[1:]),
        )


@pytest.mark.parametrize('dist', FAMILIES)
def test_a_compiled_step_equals_the_eager_one(dist):
    def loss(params, weight, rows, step):
        z, kl = kernels.sample_kl(params, dist, seed=1, step=step, rows=rows)
        return ((z @ weight).square().sum(1) + kl).mean()

    params = random_params(dist, n=6, d=5, dtype=torch.float32).to(DEVICE).requires_grad_()
    weight = torch.eye(5, device=DEVICE).requires_grad_()
    rows = torch.tensor([1, 0, 1], device=DEVICE)
    # Traces the loss and its gradient and runs what it traced; on a GPU also through the compiler.
    compiled = torch.compile(loss, fullgraph=True, backend='inductor' if DEVICE == 'cuda' else 'aot_eager')
    for step in (torch.tensor(0, device=DEVICE), torch.tensor(1, device=DEVICE), 2, 3):
        actual, expected = compiled(params, weight, rows, step), loss(params, weight, rows, step)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(
            torch.autograd.grad(actual, (params, weight)), torch.autograd.grad(expected, (params, weight))
        )


def test_a_compiled_program_serves_every_batch_size():
    params = random_params('gaussian', n=40, d=5, dtype=torch.float32).to(DEVICE)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda rows: kernels.sample_kl(params, 'gaussian', seed=1, step=0, rows=rows),
        fullgraph=True,
        backend='aot_eager',
    )
    for b in range(2, 16):  # an error after eight compilations, if each size had its own
        rows = torch.arange(b, device=DEVICE)
        torch.testing.assert_close(
            compiled(rows), kernels.sample_kl(params, 'gaussian', seed=1, step=0, rows=rows)
        )


@needs_gpu
@pytest.mark.parametrize('dist', FAMILIES)
def test_a_cuda_graph_replays_with_fresh_noise(dist):
    params = random_params(dist, n=6, d=5, dtype=torch.float32).cuda().requires_grad_()
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
    seen = []
    for number in range(3):
        step.fill_(number)
        graph.replay()
        for actual, expected in zip(
            captured,
            results(
                kernels.sample_kl,
                params,
                dist,
                torch.ones_like(captured[0]),
                torch.ones_like(captured[1]),
                seed=1,
                step=number,
                rows=rows,
            ),
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        seen.append(captured[0].clone())
    assert not torch.isclose(seen[0], seen[1]).any()


@needs_triton
@pytest.mark.parametrize('dist', FAMILIES)
@pytest.mark.parametrize('gathered', [True, False])
def test_one_launch_forward_and_one_backward(dist, gathered, monkeypatch):
    launched = []
    launch = fused.launch
    monkeypatch.setattr(
        fused, 'launch', lambda kernel, *rest: (launched.append(kernel), launch(kernel, *rest))
    )
    params = random_params(dist, n=64, d=60, dtype=torch.float32).to(DEVICE).requires_grad_()
    rows = torch.arange(64, device=DEVICE) if gathered else None
    z, kl = kernels.sample_kl_triton(params, dist, seed=0, step=0, rows=rows)
    (z.sum() + kl.sum()).backward()
    assert launched == [fused.sample_kl_kernel, fused.sample_kl_gradient_kernel]


# ------------------------------------------------------------------------------------------------ errors

GOOD = torch.zeros(4, 2, 3)


@pytest.mark.parametrize(
    'params, arguments, message',
    [
        (GOOD, dict(dist='cauchy'), "one of gaussian, laplace, exponential, got 'cauchy'"),
        (GOOD[:, :1], {}, r'\[N, 2, D\] for gaussian \(mu, log sigma\), got \[4, 1, 3\]'),
        (GOOD[0], {}, r'got \[2, 3\]'),
        ([1, 2], {}, 'got list'),
        (GOOD.int(), {}, 'float16, got torch.int32'),
        (GOOD, dict(seed=-1), r'seed to be an int in \[0, 2\*\*64\), got -1'),
        (GOOD, dict(seed=2**64), 'got 18446744073709551616'),
        (GOOD, dict(seed=0.5), 'got 0.5'),
        (GOOD, dict(step=0.5), 'step to be an int or a 0-d int64 tensor, got 0.5'),
        (GOOD, dict(step=torch.zeros(2)), r'got torch.float32 \[2\]'),
        (GOOD, dict(rows=torch.tensor([4])), r'rows in \[0, 4\), got 4 to 4'),
        (GOOD, dict(rows=torch.tensor([-1, 0])), 'got -1 to 0'),
        (GOOD, dict(rows=[0]), 'got list'),
        (GOOD, dict(rows=torch.zeros(2)), r'int64 tensor of shape \[B\], got torch.float32 \[2\]'),
        (GOOD, dict(ids=torch.arange(3)), 'ids to have 4 entries, one for each sample, got 3'),
        (GOOD, dict(ids=torch.arange(4).to('meta')), 'expected ids on cpu, got it on meta'),
        (GOOD, dict(draw=torch.arange(3)), 'draw to have 4 entries'),
        (GOOD, dict(draw='x'), "draw to be an int or an int64 tensor of shape \\[B\\], got 'x'"),
    ],
)
def test_errors_name_what_was_expected_and_what_came(params, arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_kl(params, **{'dist': 'gaussian', 'seed': 0, 'step': 0, **arguments})


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(dist='x'), "got 'x'"),
        (dict(shape=(3,)), r'expected shape to be \(N, D\), .* got \(3,\)'),
        (dict(shape=(3, -1)), 'at least 0'),
        (dict(dtype=torch.int64), 'got torch.int64'),
        (dict(seed='0'), "got '0'"),
    ],
)
def test_prior_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_prior(**{'dist': 'gaussian', 'shape': (2, 2), 'seed': 0, **arguments})


@pytest.mark.parametrize(
    'dz, dkl, message',
    [
        (
            torch.zeros(4, 2),
            None,
            r'dz to be None or a floating-point tensor \[4, 3\] on cpu, got torch.float32 \[4, 2\] on cpu',
        ),
        (
            None,
            torch.zeros(3),
            r'dkl to be None or a floating-point tensor \[4\] on cpu, got torch.float32 \[3\]',
        ),
        (torch.zeros(4, 3).int(), None, 'got torch.int32'),
        (None, 1.0, 'got float'),
        (torch.zeros(4, 3, device='meta'), None, 'on meta'),
    ],
)
def test_gradient_errors(dz, dkl, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_kl_gradient(GOOD, 'gaussian', dz, dkl, seed=0, step=0)


@needs_triton
def test_a_row_out_of_range_is_an_error_on_the_cpu_in_every_implementation():
    forced = [kernels.sample_kl_triton] if elementary.INTERPRETED else []
    for sample_kl in (kernels.sample_kl, kernels.sample_kl_reference, *forced):
        with pytest.raises(ValueError, match=r'expected rows in \[0, 4\), got -1 to 4'):
            sample_kl(GOOD, 'gaussian', seed=0, step=0, rows=torch.tensor([-1, 4]))


def test_everything_runs_without_triton(run_code):
    output = run_code("""
import sys; sys.modules['triton'] = None
import torch, kernels
params = torch.zeros(2, 2, 3, requires_grad=True)
z, kl = kernels.sample_kl(params, 'laplace', seed=0, step=0)
(z.sum() + kl.sum()).backward()
print(z.shape, params.grad.shape)
try: kernels.sample_kl_triton(params, 'laplace', seed=0, step=0)
except RuntimeError as error: print(error)""")
    assert 'torch.Size([2, 3]) torch.Size([2, 2, 3])' in output
    assert 'expected triton, got "' in output and 'kernels.sample_kl runs without it' in output


@needs_triton
def test_on_a_cpu_triton_needs_its_interpreter(run_code):
    output = run_code("""
import torch, kernels
try: kernels.sample_kl_triton(torch.zeros(2, 2, 3), 'laplace', seed=0, step=0)
except RuntimeError as error: print(error)""")
    assert 'expected params on a GPU, got them on the CPU; there, set TRITON_INTERPRET=1' in output
