import math

import pytest
import scipy.integrate
import scipy.stats
import torch

from imputation.predictive import (
    Noise,
    Predictive,
    crps,
    first_incomplete,
    fit_noise,
    hide_more,
    in_patches,
    interval,
    measure_noise,
)
from training import ImageDataset, Images


@pytest.mark.parametrize('n', [10, 50, 400])
def test_intervals_of_few_samples_cover_nine_tenths_too(n):
    generator = torch.Generator().manual_seed(0)
    low, high = interval(torch.randn(n, 20_000, generator=generator))
    x = torch.randn(20_000, generator=generator)
    covered = ((low <= x) & (x <= high)).float().mean()
    expected = 0.9 if n > 18 else (n - 1) / (n + 1)  # of ten samples at most all nine gaps between them
    assert abs(covered - expected) < 4 * math.sqrt(0.09 / 20_000)


def test_crps_equals_its_integral():
    samples = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    for x in (-1.0, 0.2, 3.0):
        left = scipy.integrate.quad(lambda t: scipy.stats.norm.cdf(t) ** 2, -12, x)[0]
        right = scipy.integrate.quad(lambda t: scipy.stats.norm.sf(t) ** 2, x, 12)[0]
        assert crps(samples, torch.tensor([x])).item() == pytest.approx(left + right, abs=5e-3)


def test_crps_of_few_samples_has_no_bias():
    generator = torch.Generator().manual_seed(0)
    samples, x = torch.randn(2, 100_000, generator=generator), torch.zeros(100_000)
    exact = 2 / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)  # of N(0, 1) at 0
    assert crps(samples, x).mean().item() == pytest.approx(exact, abs=0.01)


@pytest.fixture
def predictive():
    """Of three images of 4 x 4: 20 draws with uneven weights, and noise."""
    generator = torch.Generator().manual_seed(0)
    draws = 0.3 + 0.4 * torch.rand(20, 3, 4, 4, generator=generator)
    weights = torch.rand(20, 3, generator=generator)
    return Predictive(draws, weights / weights.sum(0), torch.full((3, 4, 4), 0.05), torch.arange(3), seed=0)


def test_samples_have_the_mean_and_the_standard_deviation(predictive):
    samples = predictive.samples(20_000)
    torch.testing.assert_close(samples.mean(0), predictive.mean(), atol=5e-3, rtol=0)
    torch.testing.assert_close(samples.std(0), predictive.std(), atol=5e-3, rtol=0)


def test_samples_are_grey_levels(predictive):
    levels = 255 * predictive.samples(10)
    assert levels.min() >= 0 and levels.max() <= 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_samples_of_an_image_do_not_depend_on_the_others(predictive):
    alone = Predictive(
        predictive.draws[:, 2:], predictive.weights[:, 2:], predictive.noise[2:], torch.tensor([2]), seed=0
    )
    assert torch.equal(alone.samples(8), predictive.samples(8)[:, 2:])


def test_noise_is_that_of_the_bin_of_the_predicted_value():
    noise = Noise(torch.tensor([0.2, 0.5]), torch.tensor([0.01, 0.02, 0.03]))
    assert noise.at(torch.tensor([0.1, 0.3, 0.9])).tolist() == pytest.approx([0.01, 0.02, 0.03])


@pytest.mark.parametrize('spread', [0.0, 0.06])
def test_noise_makes_up_for_what_the_draws_lack(spread):
    generator = torch.Generator().manual_seed(0)
    draws, normal = torch.randn(2, 400, 3000, generator=generator)
    x = 0.5 + 0.1 * torch.randn(3000, generator=generator)
    std = fit_noise(0.5 + spread * draws, normal, x, bins=1)
    assert std.tolist() == pytest.approx([math.sqrt(0.01 - spread**2)], rel=0.15)


def test_noise_is_0_where_the_draws_spread_enough():
    generator = torch.Generator().manual_seed(0)
    draws, normal = torch.randn(2, 50, 1000, generator=generator)
    x = 0.5 + 0.1 * torch.randn(1000, generator=generator)
    assert fit_noise(0.5 + 0.15 * draws, normal, x, bins=2).tolist() == [0, 0]


def test_noise_ends_at_1_where_no_noise_is_enough():
    x = torch.zeros(100)
    assert fit_noise(torch.ones(50, 100), torch.ones(50, 100), x, bins=1).tolist() == [1]


def test_intervals_of_pixels_that_are_known_to_be_black_leave_room_for_the_others():
    generator = torch.Generator().manual_seed(0)
    draws, normal = torch.zeros(400, 4000), torch.randn(400, 4000, generator=generator)
    draws[:, 2000:] = 0.5
    x = draws[0] + 0.1 * torch.randn(4000, generator=generator)
    x[:2000] = 0
    std = fit_noise(draws, normal, x, bins=4)
    low, high = interval(draws + std.repeat_interleave(1000) * normal)
    share = ((low <= x) & (x <= high)).float().view(4, 1000).mean(1)
    assert std[:2].tolist() == [0, 0] and share[:2].tolist() == [1, 1]
    assert ((0.85 <= share[2:]) & (share[2:] < 0.9)).all()


@pytest.mark.parametrize(
    'system, dist', [('vad', 'gaussian'), ('ad', None), ('vae', 'gaussian'), ('ae', None)]
)
def test_noise_is_measured_on_observed_pixels_alone(incomplete_run, digits, system, dist):
    trained, measured = incomplete_run(system, dist), []
    for garbage in (0.0, 200.0):
        images = digits[1].hide_pixels('pixels', 0.5, seed=0, part=1)
        images.X = torch.where(images.observed[torch.arange(40)], images.X, garbage)
        measured.append(measure_noise(trained, images))
    assert torch.equal(measured[0].std, measured[1].std) and torch.equal(measured[0].edges, measured[1].edges)
    assert (measured[0].std >= 0).all() and measured[0].std.max() > 0.05


def test_where_hardly_anything_is_observed_the_noise_is_the_likelihoods(incomplete_run, digits):
    trained = incomplete_run('vad', 'gaussian')
    images = digits[1].part(slice(2)).hide_pixels('pixels', 0.999, seed=0, part=1)
    assert Images(images, 'cpu').observed.sum() < 10
    assert measure_noise(trained, images).std.tolist() == pytest.approx([trained.config.obs_std])


@pytest.mark.parametrize(
    'kind, rate, together', [('pixels', 0.1, False), ('pixels', 0.9, False), ('blocks', 0.25, True)]
)
def test_patches_are_told_from_single_pixels(kind, rate, together):
    masks = (
        ImageDataset(torch.zeros(30, 28, 28), torch.zeros(30), 'npy').hide_pixels(kind, rate, 0, 0).observed
    )
    assert in_patches(masks[torch.arange(30)]) == together


@pytest.mark.parametrize('shape', [(28, 28), (3, 28, 28)])
@pytest.mark.parametrize('kind', ['pixels', 'blocks'])
def test_more_is_hidden_like_what_is_missing(shape, kind):
    masks = (
        ImageDataset(torch.zeros(30, *shape), torch.zeros(30), 'npy').hide_pixels(kind, 0.25, 0, 0).observed
    )
    observed = masks[torch.arange(30)]
    hidden = hide_more(observed, seed=0)
    assert not (hidden & ~observed).any() and 0.05 < hidden.float().mean() < 0.25
    if len(shape) == 3:  # all channels of a pixel
        assert torch.equal(hidden[:, 0], hidden[:, 1]) and torch.equal(hidden[:, 0], hidden[:, 2])
    plane = hidden if len(shape) == 2 else hidden[:, 0]
    assert in_patches(~plane) == (kind == 'blocks')


@pytest.mark.parametrize('n', [1, 40])
def test_where_all_images_miss_the_same_patch_other_places_are_hidden(n):
    observed = torch.ones(n, 28, 28, dtype=torch.bool)
    observed[:, 14:] = False
    hidden = hide_more(observed, seed=0)
    assert not (hidden & ~observed).any() and hidden.any()


def test_noise_is_measured_on_incomplete_images():
    observed = torch.ones(2500, 4, 4, dtype=torch.bool)
    observed[[7, 1200, 2400], 0, 0] = False
    X = torch.arange(2500.0).view(-1, 1, 1).expand(-1, 4, 4) / 10
    dataset = ImageDataset(X, torch.zeros(2500), 'npy', observed=observed)
    some = first_incomplete(dataset, 2)
    assert torch.equal(some.observed, observed[[7, 1200]])
    assert torch.equal(some.X, torch.where(some.observed, X[[7, 1200]], 0))


@pytest.mark.parametrize('observed', [None, torch.ones(5, 4, 4, dtype=torch.bool)])
def test_noise_is_measured_on_complete_images_where_there_are_no_others(observed):
    dataset = ImageDataset(torch.ones(5, 4, 4), torch.zeros(5), 'npy', observed=observed)
    assert len(first_incomplete(dataset, 3)) == 3
