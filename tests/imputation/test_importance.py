import pytest
import torch

from imputation.importance import SMALLEST_SHARE, decoded_draws, temper
from training import Images, infer_latents


def sample_size(weights):
    return 1 / weights.square().sum(0)


@pytest.mark.parametrize('spread', [0.0, 0.1, 3.0, 1e4])
def test_tempered_weights_sum_to_one_and_leave_the_smallest_sample_size(spread):
    weights = temper(spread * torch.randn(50, 7, generator=torch.Generator().manual_seed(0)), 12.5)
    torch.testing.assert_close(weights.sum(0), torch.ones(7))
    assert (sample_size(weights) >= 12.5 - 1e-3).all()


def test_weights_that_are_even_enough_are_left_as_they_are():
    log_weights = 0.3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(temper(log_weights, 12.5), torch.softmax(log_weights, 0))


def test_uneven_weights_are_tempered_no_more_than_needed():
    weights = temper(100 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0)), 12.5)
    assert (sample_size(weights) < 12.6).all()


@pytest.mark.parametrize('dist', ['gaussian', 'laplace', 'exponential'])
def test_draws_of_an_image_depend_on_neither_batch_nor_number_of_draws(incomplete_run, test_set, dist):
    trained = incomplete_run('vad', dist)
    latents, _ = infer_latents(trained, test_set, passes=2)
    images = Images(test_set, 'cpu')

    def draws(index, k):
        return decoded_draws(trained, latents[index], *images[index], index, k)[0]

    index = torch.arange(9)
    torch.testing.assert_close(draws(index, 6)[:4, 5:7], draws(index[5:7], 4), atol=1e-5, rtol=0)


def test_half_of_the_draws_count_at_least(incomplete_run, test_set):
    trained, index = incomplete_run('vad', 'gaussian'), torch.arange(40)
    latents, _ = infer_latents(trained, test_set, passes=2)
    _, weights = decoded_draws(trained, latents, *Images(test_set, 'cpu')[index], index, 20)
    assert weights.shape == (20, 40) and (sample_size(weights) >= 20 * SMALLEST_SHARE - 1e-3).all()


def test_a_point_is_its_only_draw(incomplete_run, test_set):
    trained, index = incomplete_run('ad'), torch.arange(40)
    latents, _ = infer_latents(trained, test_set, passes=2)
    draws, weights = decoded_draws(trained, latents, *Images(test_set, 'cpu')[index], index, 20)
    torch.testing.assert_close(draws[0], trained.model.decode(latents) / 255)
    assert torch.equal(weights, torch.ones(1, 40))
