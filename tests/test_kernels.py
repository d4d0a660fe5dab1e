import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Exponential, Laplace, Normal, kl_divergence

import kernels
from kernels.families import h

# A family's row: parameters [N, P, D] -> the same posterior in torch.distributions, and its prior.
DISTRIBUTIONS = {
    'gaussian': (lambda p: Normal(p[:, 0], p[:, 1].exp()), lambda: Normal(0.0, 1.0)),
    'laplace': (lambda p: Laplace(p[:, 0], p[:, 1].exp()), lambda: Laplace(0.0, 1.0)),
    'exponential': (lambda p: Exponential(p[:, 0].exp()), lambda: Exponential(1.0)),
}
FAMILIES = list(DISTRIBUTIONS)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def random_params(dist, n=6, d=5, dtype=torch.float64, seed=0):
    p = len(kernels.family(dist).parameters)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, d, generator=generator, dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------------- noise

@pytest.mark.parametrize('seed, counter, words', [   # Random123's known answers for philox4x32, 10 rounds
    (0, (0, 0, 0, 0), (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8)),
    (2 ** 64 - 1, (2 ** 32 - 1,) * 4, (0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd)),
    (0x299f31d0a4093822, (0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344),
     (0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1)),
])
def test_philox_equals_the_published_vectors(seed, counter, words):
    assert tuple(kernels.philox_4x32(seed, *counter).tolist()) == words


def test_philox_equals_triton():
    pytest.importorskip('triton', reason='triton is not available for this platform')
    import triton
    import triton.language as tl

    @triton.jit
    def words_kernel(seed, counters, out, N: tl.constexpr):
        i = tl.arange(0, N)
        c0, c1, c2, c3 = (tl.load(counters + i), tl.load(counters + N + i), tl.load(counters + 2 * N + i),
                          tl.load(counters + 3 * N + i))
        w0, w1, w2, w3 = tl.philox(tl.load(seed), c0, c1, c2, c3)
        tl.store(out + i, w0)
        tl.store(out + N + i, w1)
        tl.store(out + 2 * N + i, w2)
        tl.store(out + 3 * N + i, w3)

    n = 64
    counters = torch.randint(0, 2 ** 32, (4, n), generator=torch.Generator().manual_seed(1), device='cpu')
    for seed in (0, 7, 2 ** 32 + 3, 2 ** 63 - 1):
        out = torch.empty(4, n, dtype=torch.int32, device=DEVICE)
        as_int32 = torch.where(counters >= 2 ** 31, counters - 2 ** 32, counters).to(torch.int32).to(DEVICE)
        words_kernel[(1,)](torch.tensor([seed], device=DEVICE), as_int32, out, N=n)
        assert torch.equal(out.cpu().long() & 0xFFFFFFFF, kernels.philox_4x32(seed, *counters))


def test_uniforms_are_exact_and_never_0_or_1():
    words = torch.tensor([0, 511, 512, 2 ** 31, 2 ** 32 - 1])
    u = kernels.uniform(words)
    assert u.tolist() == kernels.uniform(words, torch.float64).tolist()
    assert u[0] == 2.0 ** -24 and u[-1] == 1 - 2.0 ** -24


# ---------------------------------------------------------------------------------------------- families

def test_every_family_is_tested():
    assert FAMILIES == list(kernels.FAMILIES)


@pytest.mark.parametrize('dist', FAMILIES)
def test_kl_equals_torch_distributions(dist):
    params = random_params(dist)
    posterior, prior = DISTRIBUTIONS[dist]
    _, kl = kernels.sample_kl(params, dist, seed=0, step=0)
    torch.testing.assert_close(kl, kl_divergence(posterior(params), prior()).sum(1))


@pytest.mark.parametrize('dist', FAMILIES)
def test_kl_equals_its_monte_carlo_estimate(dist):
    params = 0.5 * random_params(dist, n=2, d=4)
    posterior, prior = DISTRIBUTIONS[dist]
    n = 40_000
    rows = torch.arange(2).repeat_interleave(n)
    z, kl = kernels.sample_kl(params, dist, seed=1, step=0, rows=rows, draw=torch.arange(n).repeat(2))
    ratio = (posterior(params[rows]).log_prob(z) - prior().log_prob(z)).sum(1).view(2, n)
    error = 5 * ratio.std(1) / math.sqrt(n)
    assert ((ratio.mean(1) - kl.view(2, n)[:, 0]).abs() < error).all()


@pytest.mark.parametrize('dist', FAMILIES)
def test_samples_follow_the_posterior(dist):
    params = random_params(dist, n=1, d=3)
    n = 40_000
    z, _ = kernels.sample_kl(params, dist, seed=2, step=0, rows=torch.zeros(n, dtype=torch.int64), draw=torch.arange(n))
    posterior = DISTRIBUTIONS[dist][0](params)
    uniform = posterior.cdf(z)   # uniform if and only if z has the right distribution: Kolmogorov-Smirnov
    expected = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    assert (uniform.sort(0).values - expected).abs().max() < 1.95 / math.sqrt(n)   # 0.1% level
    torch.testing.assert_close(kernels.family(dist).mean(params), posterior.mean)


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
    gradient, = torch.autograd.grad(z.sum() + kl.sum(), params)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize('dist', FAMILIES)
def test_standardise_minimises_the_mean_kl_and_keeps_the_codes(dist):
    family = kernels.family(dist)
    params = random_params(dist, n=200, d=3) * 0.7 + 0.4
    new, scale, shift = family.standardise(params, params)
    e = kernels.sample_prior(dist, (200, 3), seed=5, dtype=torch.float64)
    torch.testing.assert_close(family.code(family.sample(new, e)) * scale + shift, family.code(family.sample(params, e)))
    best = family.kl(new).mean()
    assert best < family.kl(params).mean()
    again, scale, shift = family.standardise(new, new)
    torch.testing.assert_close(again, new)
    if dist == 'gaussian':   # where shifting and stretching is the whole freedom, no nearby change does better
        for change in (torch.tensor([0.02, 0.0]), torch.tensor([-0.02, 0.0]), torch.tensor([0.0, 0.02]), torch.tensor([0.0, -0.02])):
            moved = torch.stack([new[:, 0] * change[1].exp() + change[0], new[:, 1] + change[1]], 1)
            assert family.kl(moved).mean() > best


@pytest.mark.parametrize('dist', FAMILIES)
def test_zero_parameters_are_the_prior(dist):
    params = torch.zeros(7, len(kernels.family(dist).parameters), 6)
    z, kl = kernels.sample_kl(params, dist, seed=9, step=0)
    assert torch.equal(z, kernels.sample_prior(dist, (7, 6), seed=9)) and not kl.any()


# -------------------------------------------------------------------------------------------- what noise depends on

@pytest.mark.parametrize('dist', FAMILIES)
def test_a_sample_depends_on_its_own_numbers_only(dist):
    params = random_params(dist, n=9, d=7, dtype=torch.float32)
    z, kl = kernels.sample_kl(params, dist, seed=4, step=5)
    rows = torch.tensor([8, 2, 2, 0])
    z_rows, kl_rows = kernels.sample_kl(params, dist, seed=4, step=5, rows=rows)
    assert torch.equal(z_rows, z[rows]) and torch.equal(kl_rows, kl[rows])
    z_ids, _ = kernels.sample_kl(params[rows], dist, seed=4, step=5, ids=rows)
    assert torch.equal(z_ids, z[rows])
    z_step, _ = kernels.sample_kl(params, dist, seed=4, step=torch.tensor(5))
    assert torch.equal(z_step, z)
    z_draw, _ = kernels.sample_kl(params, dist, seed=4, step=5, rows=rows, draw=torch.tensor([0, 0, 1, 3]))
    assert torch.equal(z_draw[:2], z[rows[:2]]) and not torch.isclose(z_draw[2], z[2]).any()


@pytest.mark.parametrize('change', [dict(seed=1), dict(seed=2 ** 32), dict(step=1), dict(draw=1), dict(ids=torch.arange(1, 5))])
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
    gradient, = torch.autograd.grad(kl.sum(), params)
    _, kl = kernels.sample_kl(params, 'gaussian', seed=0, step=0, rows=rows[:1])
    single, = torch.autograd.grad(kl.sum(), params)
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


# ------------------------------------------------------------------------------------------------ errors

GOOD = torch.zeros(4, 2, 3)


@pytest.mark.parametrize('params, arguments, message', [
    (GOOD, dict(dist='cauchy'), "one of gaussian, laplace, exponential, got 'cauchy'"),
    (GOOD[:, :1], {}, r'\[N, 2, D\] for gaussian \(mu, log sigma\), got \[4, 1, 3\]'),
    (GOOD[0], {}, r'got \[2, 3\]'),
    ([1, 2], {}, 'got list'),
    (GOOD.int(), {}, 'float16, got torch.int32'),
    (GOOD, dict(seed=-1), r'seed to be an int in \[0, 2\*\*64\), got -1'),
    (GOOD, dict(seed=2 ** 64), 'got 18446744073709551616'),
    (GOOD, dict(seed=0.5), 'got 0.5'),
    (GOOD, dict(step=0.5), 'step to be an int or a 0-d int64 tensor, got 0.5'),
    (GOOD, dict(step=torch.zeros(2)), r'got torch.float32 \[2\]'),
    (GOOD, dict(rows=torch.tensor([4])), r'rows in \[0, 4\), got 4 to 4'),
    (GOOD, dict(rows=torch.tensor([-1, 0])), 'got -1 to 0'),
    (GOOD, dict(rows=[0]), 'got list'),
    (GOOD, dict(rows=torch.zeros(2)), r'int64 tensor of shape \[B\], got torch.float32 \[2\]'),
    (GOOD, dict(ids=torch.arange(3)), 'ids to have 4 entries, one for each sample, got 3'),
    (GOOD, dict(ids=torch.arange(4).to('meta')), 'device of params, cpu, got meta'),
    (GOOD, dict(draw=torch.arange(3)), 'draw to have 4 entries'),
    (GOOD, dict(draw='x'), "draw to be an int or an int64 tensor of shape \\[B\\], got 'x'"),
])
def test_errors_name_what_was_expected_and_what_came(params, arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_kl(params, **{'dist': 'gaussian', 'seed': 0, 'step': 0, **arguments})


@pytest.mark.parametrize('arguments, message', [
    (dict(dist='x'), "got 'x'"), (dict(shape=(3,)), r'expected shape to be \(N, D\), .* got \(3,\)'),
    (dict(shape=(3, -1)), 'at least 0'), (dict(dtype=torch.int64), 'got torch.int64'), (dict(seed='0'), "got '0'"),
])
def test_prior_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_prior(**{'dist': 'gaussian', 'shape': (2, 2), 'seed': 0, **arguments})


def test_everything_runs_without_triton():
    code = ("import sys; sys.modules['triton'] = None; import torch, kernels; "
            "print(kernels.sample_kl(torch.zeros(2, 2, 3), 'laplace', seed=0, step=0)[0].shape)")
    result = subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert result.returncode == 0 and 'torch.Size([2, 3])' in result.stdout, result.stderr
