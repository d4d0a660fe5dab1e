"""The random numbers and their elementary functions, in Triton."""

import sys

import numpy as np
import pytest
import torch

import kernels

if sys.platform != 'linux':
    pytest.skip('triton is published for Linux only', allow_module_level=True)

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from kernels.elementary import INTERPRETED  # noqa: E402
from kernels.noise import philox_4x32_triton  # noqa: E402


@triton.jit
def words_kernel(keys_ptr, counters_ptr, out_ptr, N: tl.constexpr, LIBRARY: tl.constexpr):
    i = tl.arange(0, N)
    c0 = tl.load(counters_ptr + i)
    c1 = tl.load(counters_ptr + N + i)
    c2 = tl.load(counters_ptr + 2 * N + i)
    c3 = tl.load(counters_ptr + 3 * N + i)
    if LIBRARY:
        w0, w1, w2, w3 = tl.philox(tl.load(keys_ptr), c0, c1, c2, c3)
    else:
        key = tl.load(keys_ptr).to(tl.uint64)
        w0, w1, w2, w3 = philox_4x32_triton(
            key.to(tl.uint32),
            (key >> 32).to(tl.uint32),
            c0.to(tl.uint32),
            c1.to(tl.uint32),
            c2.to(tl.uint32),
            c3.to(tl.uint32),
        )
    tl.store(out_ptr + i, w0.to(tl.int32, bitcast=True))
    tl.store(out_ptr + N + i, w1.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 2 * N + i, w2.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 3 * N + i, w3.to(tl.int32, bitcast=True))


@pytest.mark.parametrize('seed', [0, 7, 2**32 + 3, 2**63 - 1])
@pytest.mark.parametrize('library', [True, False])
def test_philox_in_triton_equals_that_in_numpy(seed, library, device):
    n = 64
    counters = torch.randint(0, 2**32, (4, n), generator=torch.Generator().manual_seed(1))
    counters[:, 0], counters[:, 1] = 0, 2**32 - 1
    out = torch.empty(4, n, dtype=torch.int32, device=device)
    as_int32 = torch.where(counters >= 2**31, counters - 2**32, counters).to(torch.int32).to(device)
    words_kernel[(1,)](torch.tensor([seed], device=device), as_int32, out, N=n, LIBRARY=library)
    np.testing.assert_array_equal(out.cpu().numpy().view(np.uint32).T, kernels.philox_4x32(seed, *counters))


@triton.jit
def noise_kernel(words_ptr, out_ptr, n, NOISE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    e0, e1, e2, e3 = NOISE(
        tl.load(words_ptr + i, mask=mask, other=0).to(tl.uint32),
        tl.load(words_ptr + n + i, mask=mask, other=0).to(tl.uint32),
        tl.load(words_ptr + 2 * n + i, mask=mask, other=0).to(tl.uint32),
        tl.load(words_ptr + 3 * n + i, mask=mask, other=0).to(tl.uint32),
        tl.float32,
    )
    tl.store(out_ptr + i, e0, mask=mask)
    tl.store(out_ptr + n + i, e1, mask=mask)
    tl.store(out_ptr + 2 * n + i, e2, mask=mask)
    tl.store(out_ptr + 3 * n + i, e3, mask=mask)


def test_noise_is_finite_and_accurate_for_uniforms_near_every_special_place(dist, chosen_words, device):
    n = len(chosen_words)
    columns = chosen_words.T.contiguous().to(device)  # [4, n]
    out = torch.empty(4, n, device=device)
    block = 2**17 if INTERPRETED else 2**10  # the interpreter takes its time for each program
    noise_kernel[(triton.cdiv(n, block),)](
        columns, out, n, NOISE=kernels.family(dist).noise_triton, BLOCK=block
    )
    noise = out.T.cpu()
    words = chosen_words.numpy().astype(np.uint32)
    exact = kernels.family(dist).noise(kernels.uniform(words, torch.float64))
    assert torch.isfinite(noise).all()
    torch.testing.assert_close(noise.double(), exact, rtol=1e-6, atol=1e-6)
    assert dist != 'exponential' or (noise > 0).all()
