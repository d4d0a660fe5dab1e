"""What the tests of the kernels share. They run on a GPU where there is one."""

import sys

import pytest
import torch

import kernels


@pytest.fixture(scope='session')
def device():
    return 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(params=list(kernels.FAMILIES))
def dist(request):
    """A test with this argument runs for every family."""
    return request.param


def implementations(function, reference, by_triton):
    on_linux = pytest.mark.skipif(sys.platform != 'linux', reason='triton is published for Linux only')
    return [
        pytest.param(function, id='default'),
        pytest.param(reference, id='reference'),
        pytest.param(by_triton, id='triton', marks=on_linux),
    ]


@pytest.fixture(
    params=implementations(kernels.sample_kl, kernels.sample_kl_reference, kernels.sample_kl_triton)
)
def sample_kl(request):
    """A test with this argument runs for every implementation."""
    return request.param


@pytest.fixture(
    params=implementations(kernels.row_adam_, kernels.row_adam_reference_, kernels.row_adam_triton_)
)
def row_adam_(request):
    """A test with this argument runs for every implementation."""
    return request.param


@pytest.fixture(scope='session')
def random_params(device):
    """random_params(dist, n, d, dtype): normal parameters [n, P, d] or [n, K], the same in each call."""

    def draw(dist, n=6, d=5, dtype=torch.float32):
        family, generator = kernels.family(dist), torch.Generator().manual_seed(0)
        params = torch.randn(n, *family.shape(d), generator=generator, dtype=torch.float64)
        if family.packed:
            params[:, 2 * d :] /= max(d, 1) ** 0.5  # a row of T adds at most the variance 1
        return params.to(device, dtype)

    return draw


@pytest.fixture(scope='session')
def results():
    """results(sample_kl, params, dist, ...): z, kl and the gradient in params.

    dz and dkl are the gradients in z and kl: random numbers if None.
    """

    def run(sample_kl, params, dist, dz=None, dkl=None, **arguments):
        params = params.detach().requires_grad_()
        z, kl = sample_kl(params, dist, **arguments)
        generator = torch.Generator().manual_seed(3)
        dz = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z) if dz is None else dz
        dkl = torch.randn(kl.shape, generator=generator, dtype=torch.float64).to(kl) if dkl is None else dkl
        (gradient,) = torch.autograd.grad((z, kl), params, (dz, dkl))
        return z.detach(), kl.detach(), gradient

    return run


@pytest.fixture(scope='session')
def normal(device):
    """normal(*shape, dtype, seed): normal numbers."""

    def draw(*shape, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    return draw


@pytest.fixture(scope='session')
def fresh_state():
    """fresh_state(latents): latents, m, v, count as before Adam's first step."""

    def start(latents):
        count = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
        return latents, torch.zeros_like(latents), torch.zeros_like(latents), count

    return start


@pytest.fixture(scope='session')
def chosen_words():
    """Random words [n, 4], the upper 23 bits of which a uniform is made.

    They are the neighbourhoods of the places where the functions of a uniform could break, and a regular
    sample of all others. These places are multiples of an eighth, from 0 to 1 (where sine and cosine change
    their formula), and 2/3 of powers of two (where the logarithm changes its exponent), also seen from 1. The
    columns are in different orders, so that angles and radii come in all sorts of pairs.
    """
    places = [m << 20 for m in range(9)] + [(2**24 // 3) >> j for j in range(23)]
    places += [2**23 - place for place in places]
    near = torch.cat([torch.arange(place - 300, place + 300) for place in places])
    upper = torch.cat([near[(near >= 0) & (near < 2**23)], torch.arange(0, 2**23, 31)])
    orders = [torch.randperm(len(upper), generator=torch.Generator().manual_seed(i)) for i in range(4)]
    return torch.stack([upper[order] for order in orders], -1) << 9
