"""sample_kl, sample_kl_gradient and sample_prior: what a result depends on, shapes and types."""

import pytest
import torch

import kernels

# The interpreter computes both branches of tl.where, and h's series for small x overflows for large ones.
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning:triton.runtime.interpreter')


@pytest.fixture
def case(sample_kl, dist, random_params):
    """An implementation, parameters [9, P, 7], and z and kl of all rows for seed 4, step 5."""
    params = random_params(dist, n=9, d=7)
    return sample_kl, params, *sample_kl(params, dist, seed=4, step=5)


def test_a_sample_does_not_depend_on_the_batch(case, dist, device):
    sample_kl, params, z, kl = case
    rows = torch.tensor([8, 2, 2, 0], device=device)
    z_rows, kl_rows = sample_kl(params, dist, seed=4, step=5, rows=rows)
    assert torch.equal(z_rows, z[rows]) and torch.equal(kl_rows, kl[rows])
    parts = [sample_kl(params, dist, seed=4, step=5, rows=part)[0] for part in rows.split(3)]
    assert torch.equal(torch.cat(parts), z_rows)


def test_ids_say_to_which_row_the_noise_belongs(case, dist, device):
    sample_kl, params, z, _ = case
    rows = torch.tensor([8, 2, 2, 0], device=device)
    z_encoder, _ = sample_kl(params[rows], dist, seed=4, step=5, ids=rows)  # an encoder's output
    assert torch.equal(z_encoder, z[rows])
    # a process's share of the rows
    z_share, _ = sample_kl(params[5:], dist, seed=4, step=5, rows=rows[:1] - 5, ids=rows[:1])
    assert torch.equal(z_share, z[rows[:1]])


def test_steps_and_draws_may_be_tensors(case, dist, device):
    sample_kl, params, z, _ = case
    z_step, _ = sample_kl(params, dist, seed=4, step=torch.tensor(5, device=device))
    assert torch.equal(z_step, z)
    rows, draw = torch.tensor([8, 2, 2, 0], device=device), torch.tensor([0, 0, 1, 3], device=device)
    z_draw, _ = sample_kl(params, dist, seed=4, step=5, rows=rows, draw=draw)
    assert torch.equal(z_draw[:2], z[rows[:2]]) and not torch.isclose(z_draw[2], z[2]).any()


def test_steps_draws_and_ids_count_modulo_2_to_the_32(case, dist, device):
    sample_kl, params, z, _ = case
    ids = torch.arange(9, device=device) + 2**40
    far, _ = sample_kl(params, dist, seed=4, step=5 - 2**32, draw=2**32, ids=ids)
    assert torch.equal(far, z)


@pytest.mark.parametrize('n, d', [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_empty_and_single_shapes(n, d):
    z, kl = kernels.sample_kl(torch.zeros(n, 2, d), 'gaussian', seed=0, step=0)
    assert z.shape == (n, d) and kl.shape == (n,)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_results_have_the_type_of_params_and_the_accuracy_of_float32(dist, dtype, random_params):
    params = random_params(dist, dtype=dtype)
    z, kl = kernels.sample_kl(params, dist, seed=0, step=0)
    assert z.dtype == dtype and kl.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    z32, kl32 = kernels.sample_kl(params.float(), dist, seed=0, step=0)
    torch.testing.assert_close(z.float(), z32.to(dtype).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl.float(), kl32)


def test_duplicate_rows_add_their_gradients(random_params, device):
    params = random_params('gaussian', n=3).requires_grad_()
    rows = torch.tensor([1, 1, 1], device=device)
    _, kl = kernels.sample_kl(params, 'gaussian', seed=0, step=0, rows=rows)
    (gradient,) = torch.autograd.grad(kl.sum(), params)
    _, kl = kernels.sample_kl(params, 'gaussian', seed=0, step=0, rows=rows[:1])
    (single,) = torch.autograd.grad(kl.sum(), params)
    torch.testing.assert_close(gradient, 3 * single)
    assert not gradient[[0, 2]].any()


def test_the_gradient_of_rows_is_what_autograd_gives_for_them(dist, random_params, results, normal, device):
    params, dz, dkl = random_params(dist, n=9, d=6), normal(4, 6), normal(4, seed=1)
    rows = torch.tensor([8, 2, 2, 0], device=device)
    arguments = dict(seed=0, step=3)
    _, _, expected = results(kernels.sample_kl_reference, params[rows], dist, dz, dkl, ids=rows, **arguments)
    gradient = kernels.sample_kl_gradient(params, dist, dz, dkl, rows=rows, **arguments)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
