"""The random numbers, in NumPy."""

import numpy as np
import pytest
import torch

import kernels


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


def test_uniforms_are_exact_and_never_0_or_1():
    words = np.array([0, 511, 512, 2**31, 2**32 - 1], np.uint32)
    u = kernels.uniform(words)
    assert u.tolist() == kernels.uniform(words, torch.float64).tolist()
    assert u[0] == 2.0**-24 and u[-1] == 1 - 2.0**-24


def test_noise_is_finite_and_accurate_for_uniforms_near_every_special_place(dist, chosen_words):
    words = chosen_words.numpy().astype(np.uint32)
    exact = kernels.family(dist).noise(kernels.uniform(words, torch.float64))
    noise = kernels.family(dist).noise(kernels.uniform(words))
    assert torch.isfinite(noise).all()
    # In float32 the angle 2 pi u is off by up to 4e-7, and the radius of a Gaussian pair is up to 5.8.
    torch.testing.assert_close(noise.double(), exact, rtol=1e-6, atol=3e-6)
    assert dist != 'exponential' or (noise > 0).all()


def test_noise_is_independent_between_draws_rows_steps_and_dimensions(dist):
    n, d = 20_000, 8
    params = torch.zeros(1, *kernels.family(dist).shape(d))
    zero, i = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    samples = [
        kernels.sample_kl(params, dist, seed=0, step=0, rows=zero, draw=i)[0],
        kernels.sample_kl(params, dist, seed=0, step=0, rows=zero, ids=i, draw=0)[0][1:],
        kernels.sample_kl(params, dist, seed=0, step=1, rows=zero, draw=i)[0],
    ]
    n -= 1
    # [n, 32]; neighbouring draws last
    columns = torch.cat([sample[:n] for sample in samples] + [samples[0][1:]], 1)
    correlation = torch.corrcoef(columns.T) - torch.eye(32)
    assert correlation.abs().max() < 5 / n**0.5


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
