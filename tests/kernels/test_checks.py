"""Errors name what was expected and what came."""

import math
import sys

import numpy as np
import pytest
import torch

import kernels
from kernels.elementary import INTERPRETED

PARAMS = torch.zeros(4, 2, 3)
FLOATS, INTS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
NEIGHBOURS = torch.zeros(5, 3)  # its first four rows and its last four share memory


@pytest.mark.parametrize(
    'params, arguments, message',
    [
        (
            PARAMS,
            dict(dist='cauchy'),
            "one of gaussian, laplace, exponential, uniform, gaussian-full, got 'cauchy'",
        ),
        (PARAMS, dict(dist=['gaussian']), r"gaussian-full, got \['gaussian'\]"),
        (PARAMS[:, :1], {}, r'\[N, 2, D\] for gaussian \(mu, log sigma\), got \[4, 1, 3\]'),
        (PARAMS[0], {}, r'got \[2, 3\]'),
        (
            PARAMS,
            dict(dist='gaussian-full'),
            r'\[N, K\], K = D \(D \+ 3\) / 2, for gaussian-full .*\[4, 2, 3\]',
        ),
        (PARAMS[:, 0, :], dict(dist='gaussian-full'), r'for gaussian-full .*, got \[4, 3\]'),
        ([1, 2], {}, 'got list'),
        (PARAMS.int(), {}, 'float16, got torch.int32'),
        (PARAMS.to_sparse(), {}, r'a dense tensor, got torch.float32 \[4, 2, 3\] \(torch.sparse_coo\)'),
        (PARAMS, dict(seed=-1), r'seed to be an int in \[0, 2\*\*64\), got -1'),
        (PARAMS, dict(seed=2**64), 'got 18446744073709551616'),
        (PARAMS, dict(seed=0.5), 'got 0.5'),
        (PARAMS, dict(seed=True), 'got True'),
        (PARAMS, dict(step=np.bool_(True)), 'step to be an int .* got np.True_'),
        (PARAMS, dict(step=0.5), 'step to be an int or a 0-d int64 tensor, got 0.5'),
        (
            PARAMS,
            dict(step=torch.zeros(2)),
            r'expected step to be an int or a 0-d int64 tensor on cpu, got torch.float32 \[2\] on cpu',
        ),
        (PARAMS, dict(rows=torch.tensor([4])), r'rows in \[0, 4\), got 4 to 4'),
        (PARAMS, dict(rows=torch.tensor([-1, 0])), 'got -1 to 0'),
        (PARAMS, dict(rows=[0]), 'got list'),
        (PARAMS, dict(rows=torch.zeros(2)), r'int64 tensor of shape \[B\], got torch.float32 \[2\]'),
        (PARAMS, dict(rows=INTS.to_sparse()), r'got torch.int64 \[4\] \(torch.sparse_coo\)'),
        (PARAMS, dict(ids=torch.arange(3)), 'ids to have 4 entries, one for each sample, got 3'),
        (PARAMS, dict(ids=torch.arange(4).to('meta')), 'expected ids on cpu, got it on meta'),
        (PARAMS, dict(draw=torch.arange(3)), 'draw to have 4 entries'),
        (PARAMS, dict(draw='x'), "draw to be an int or an int64 tensor of shape \\[B\\], got 'x'"),
    ],
)
def test_sample_kl_refuses(params, arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_kl(params, **{'dist': 'gaussian', 'seed': 0, 'step': 0, **arguments})


def test_every_implementation_refuses_a_row_out_of_range_on_a_cpu(sample_kl):
    if sample_kl is kernels.sample_kl_triton and not INTERPRETED:
        pytest.skip('without its interpreter Triton refuses every tensor on a CPU')
    with pytest.raises(ValueError, match=r'expected rows in \[0, 4\), got -1 to 4'):
        sample_kl(PARAMS, 'gaussian', seed=0, step=0, rows=torch.tensor([-1, 4]))


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
def test_sample_kl_gradient_refuses(dz, dkl, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_kl_gradient(PARAMS, 'gaussian', dz, dkl, seed=0, step=0)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(dist='x'), "got 'x'"),
        (dict(shape=(3,)), r'expected shape to be \(N, D\), .* got \(3,\)'),
        (dict(shape=3), 'got 3'),
        (dict(shape=None), 'got None'),
        (dict(shape='ab'), "got 'ab'"),
        (dict(shape=torch.Size([1, 2, 3])), r'got torch.Size\(\[1, 2, 3\]\)'),
        (dict(shape=(2.0, 3)), r'got \(2.0, 3\)'),
        (dict(shape=(3, -1)), 'at least 0'),
        (dict(dtype=torch.int64), 'got torch.int64'),
        (dict(dtype='float32'), "got 'float32'"),
        (dict(device='gpu'), "a device that PyTorch has here, got 'gpu': "),
        (dict(device='meta'), "got 'meta'"),  # which has no values
        (dict(seed='0'), "got '0'"),
    ],
)
def test_sample_prior_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample_prior(**{'dist': 'gaussian', 'shape': (2, 2), 'seed': 0, **arguments})


def test_whole_numbers_may_be_those_of_numpy(sample_kl, random_params):
    params = random_params('gaussian')
    z, _ = sample_kl(params, 'gaussian', seed=2**64 - 1, step=-5, draw=3)
    same, _ = sample_kl(params, 'gaussian', seed=np.uint64(2**64 - 1), step=np.int32(-5), draw=np.array(3))
    assert torch.equal(same, z)


@pytest.mark.parametrize('shape', [[2, 3], torch.Size([2, 3]), (np.int64(2), np.int32(3))])
def test_a_shape_may_be_any_pair_of_whole_numbers(shape):
    assert kernels.sample_prior('gaussian', shape, seed=0).shape == (2, 3)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(latents=[1]), r'expected latents to be float32 or float64 of shape \[N, K\], got list'),
        (dict(latents=FLOATS[0]), r'got torch.float32 \[3\]'),
        (dict(latents=FLOATS.half()), r'got torch.float16 \[4, 3\]'),
        (dict(latents=torch.zeros(3, 4).T), r'expected latents to be contiguous, got strides \(1, 4\)'),
        (
            dict(m=FLOATS[:3]),
            r'expected m to be torch.float32 \[4, 3\] on cpu, got torch.float32 \[3, 3\] on cpu',
        ),
        (
            dict(v=FLOATS.double()),
            r'expected v to be torch.float32 \[4, 3\] on cpu, got torch.float64 \[4, 3\] on cpu',
        ),
        (dict(v=torch.zeros(4, 6)[:, ::2]), r'expected v to be contiguous, got strides \(6, 2\)'),
        (dict(m=FLOATS.to('meta')), 'got torch.float32 .* on meta'),
        (
            dict(count=INTS.int()),
            r'expected count to be torch.int64 \[4\] on cpu, got torch.int32 \[4\] on cpu',
        ),
        (dict(count=INTS[:3]), r'got torch.int64 \[3\]'),
        (dict(rows=[0, 1]), r'expected rows to be an int64 tensor of shape \[B\], got list'),
        (dict(rows=INTS.bool()), r'got torch.bool \[4\]'),
        (dict(rows=INTS[:2].to('meta')), 'expected rows on cpu, got it on meta'),
        (dict(rows=torch.tensor([-1, 4])), r'expected rows in \[0, 4\), got -1 to 4'),
        (
            dict(gradient=FLOATS),
            r'expected gradient to be torch.float32 \[2, 3\] on cpu, got torch.float32 \[4, 3\] on cpu',
        ),
        (dict(gradient=None), 'got NoneType'),
        (dict(lr='fast'), "expected lr to be a finite number or a 0-d floating-point tensor, got 'fast'"),
        (dict(lr=True), 'got True'),
        (dict(lr=math.nan), 'expected lr to be a finite number .* got nan'),
        (dict(lr=-math.inf), 'got -inf'),
        (dict(lr=torch.tensor(math.nan)), r'expected lr to be finite, got tensor\(nan\)'),
        (dict(lr=torch.zeros(1)), r'0-d floating-point tensor on cpu, got torch.float32 \[1\] on cpu'),
        (dict(lr=torch.tensor(1)), r'got torch.int64 \[\] on cpu'),
        (dict(beta1=1.0), r'expected beta1 to be a number in \[0, 1\), got 1.0'),
        (dict(beta2=None), 'expected beta2 .* got None'),
        (dict(beta1=math.nan), 'got nan'),
        (dict(beta2=False), 'got False'),
        (dict(eps=-1e-8), 'expected eps to be a finite number of at least 0, got -1e-08'),
        (dict(eps=math.inf), 'got inf'),
        (dict(rows=torch.tensor([1, 1])), 'each row at most once in rows, got 2 rows of which 1 differ'),
        (dict(gradient=FLOATS[:2].to_sparse()), r'got torch.float32 \[2, 3\] \(torch.sparse_coo\) on cpu'),
        (dict(latents=FLOATS[:1].expand(4, 3)), r'latents to be contiguous, got strides \(0, 1\)'),
        (dict(m=FLOATS, v=FLOATS), 'expected m and v to have memory of their own'),
        (
            dict(latents=NEIGHBOURS[:4], v=NEIGHBOURS[1:]),
            'expected latents and v to have memory of their own',
        ),
    ],
)
def test_row_adam_refuses(changes, message, row_adam_):
    state = dict(latents=FLOATS.clone(), m=FLOATS.clone(), v=FLOATS.clone(), count=INTS)
    arguments = dict(rows=torch.tensor([1, 2]), gradient=FLOATS[:2], lr=0.1)
    with pytest.raises(ValueError, match=message):
        row_adam_(**{**state, **arguments, **changes})


TRY_BOTH_IN_TRITON = """
import torch, kernels
params = torch.zeros(2, 2, 3, requires_grad=True)
state = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
try: kernels.sample_kl_triton(params, 'laplace', seed=0, step=0)
except RuntimeError as error: print(error)
try: kernels.row_adam_triton_(*state, torch.tensor([1]), torch.ones(1, 3), lr=0.1)
except RuntimeError as error: print(error)
"""


def test_everything_runs_without_triton_and_what_needs_it_says_so(run_code):
    output = run_code(f"""
import sys; sys.modules['triton'] = None
{TRY_BOTH_IN_TRITON}
z, kl = kernels.sample_kl(params, 'laplace', seed=0, step=0)
(z.sum() + kl.sum()).backward()
print(z.shape, params.grad.shape)
kernels.row_adam_(*state, torch.tensor([1]), torch.ones(1, 3), lr=0.1)
print(state[3].tolist())""")
    sampling_error, adam_error, shapes, count = output.splitlines()
    assert sampling_error.startswith('expected triton, got "')
    assert sampling_error.endswith('kernels.sample_kl runs without it')
    assert adam_error.startswith('expected triton, got "')
    assert adam_error.endswith('kernels.row_adam_ runs without it')
    assert shapes == 'torch.Size([2, 3]) torch.Size([2, 2, 3])' and count == '[0, 1]'


@pytest.mark.skipif(sys.platform != 'linux', reason='triton is published for Linux only')
def test_on_a_cpu_triton_needs_its_interpreter(run_code):
    remedy = 'got them on the CPU; there, set TRITON_INTERPRET=1 before the program starts, or use'
    assert run_code(TRY_BOTH_IN_TRITON).splitlines() == [
        f'expected params on a GPU, {remedy} kernels.sample_kl',
        f'expected latents on a GPU, {remedy} kernels.row_adam_',
    ]
