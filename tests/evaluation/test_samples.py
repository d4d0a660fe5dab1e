import dataclasses

import pytest
import torch

from evaluation.samples import sample_mixture, sample_prior
from training import load_run


@pytest.fixture(scope='module')
def trained(finished_run):
    return load_run(finished_run, 'cpu')


@pytest.mark.parametrize('n', [1, 7, 1500])
@pytest.mark.parametrize('sample', [sample_prior, sample_mixture])
def test_samples_are_images(trained, sample, n):
    images = sample(trained, n)
    assert images.shape == (n, 28, 28) and 0 <= images.min() and images.max() <= 255


@pytest.mark.parametrize('n', [1, 7, 1500])
def test_samples_of_the_prior_follow_from_the_seed(trained, n):
    other = dataclasses.replace(trained, config=trained.config.replace(seed=1))
    assert torch.equal(sample_prior(trained, n), sample_prior(trained, n))
    assert not torch.equal(sample_prior(trained, n), sample_prior(other, n))
