import pytest
import torch

from training.batches import Images
from training.completion import fit_ppca, ppca_of_complete
from training.initialization import decoded_completion, fit_completion, initialize_latents
from training.runs import build_model
from training.sources import read_digits


@pytest.fixture
def low_rank():
    """300 vectors of 40 numbers in 0-1 on a plane, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    z, directions = torch.randn(300, 2, generator=generator), torch.randn(2, 40, generator=generator)
    noise = torch.randn(300, 40, generator=generator)
    return (0.5 + 0.1 * z @ directions + 0.005 * noise).clamp(0, 1)


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.8])
def test_missing_numbers_of_low_rank_data_are_found(low_rank, rate):
    observed = torch.rand(low_rank.shape, generator=torch.Generator().manual_seed(1)) >= rate
    completed = fit_ppca(low_rank, observed).complete(low_rank, observed)
    error = (completed - low_rank)[~observed].square().mean().sqrt()
    alone = (low_rank - low_rank.mean(0))[~observed].square().mean().sqrt()  # of the mean
    assert error < 0.15 * alone


def test_it_holds_at_nine_tenths_missing():
    x = read_digits()[0][0].flatten(1) / 255  # 1,000 images
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) >= 0.9
    error = (fit_ppca(x, observed).complete(x, observed) - x)[~observed].square().mean().sqrt()
    alone = (x - x.mean(0))[~observed].square().mean().sqrt()  # of the true mean, which EM does not know
    assert error < 0.42 * alone


def test_observed_numbers_stay_as_they_are_and_hidden_ones_are_not_read(low_rank):
    observed = torch.rand(low_rank.shape, generator=torch.Generator().manual_seed(1)) >= 0.5
    results = []
    for garbage in (0.0, 7.0, float('nan')):
        x = torch.where(observed, low_rank, garbage)
        results.append(fit_ppca(x, observed).complete(x, observed))
    assert torch.equal(results[0][observed], low_rank[observed])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize('n, share', [(1, 0.5), (2, 0.5), (5, 0.0), (30, 0.02)])
def test_hardly_any_data_give_a_finite_completion(n, share):
    generator = torch.Generator().manual_seed(0)
    x, observed = torch.rand(n, 30, generator=generator), torch.rand(n, 30, generator=generator) < share
    completed = fit_ppca(x, observed).complete(x, observed)
    assert torch.isfinite(completed).all() and completed.min() >= 0 and completed.max() <= 1


def test_the_model_of_complete_data_is_that_of_em_with_nothing_missing(low_rank):
    models = fit_ppca(low_rank, torch.ones_like(low_rank, dtype=torch.bool)), ppca_of_complete(low_rank, 0.0)
    covariances = [m.loadings @ m.loadings.T for m in models]
    torch.testing.assert_close(*covariances, rtol=0.05, atol=2e-4)


@pytest.mark.parametrize('x', [torch.full((4, 9), 0.3), torch.rand(1, 9)])
def test_equal_images_have_a_completion(x):
    observed = torch.zeros_like(x, dtype=torch.bool)
    torch.testing.assert_close(ppca_of_complete(x, 0.01).complete(x, observed), x.mean(0).expand_as(x))


@pytest.mark.parametrize('rate', [0.5, 0.9])
def test_latents_start_from_observed_pixels_alone(digits, small_config, rate):
    config, starts = small_config('gaussian', missing=rate), []
    hidden = digits[0].hide_pixels('pixels', rate, seed=0, part=0)
    observed = hidden.observed[torch.arange(len(hidden))]
    for garbage in (0.0, 200.0):
        hidden.X = torch.where(observed, hidden.X, garbage)
        starts.append(initialize_latents(build_model(config), Images(hidden, 'cpu'), 0.1))
    assert torch.equal(*starts) and torch.isfinite(starts[0]).all()


def test_complete_images_need_no_completion(digits):
    assert fit_completion(Images(digits[0], 'cpu')) is None


def test_new_images_are_completed_by_what_the_model_decodes(digits, small_config):
    model = build_model(small_config())
    completion = decoded_completion(model, torch.randn(20, 8), 0.1)
    x = torch.full((2, 784), 0.5)
    completed = completion.complete(x, torch.zeros_like(x, dtype=torch.bool))
    mean = model.decode(torch.randn(1, 8)).flatten(1) / 255
    assert (completed - mean).abs().mean() < 0.1
