"""Simple imputers."""

import numpy as np
import pytest
from sklearn.impute import KNNImputer

from experiments import baselines
from experiments.baselines import BASELINES

SHAPE = 4, 5


@pytest.fixture
def images():
    """Training and test images [N, 20] of rank 1 around a mean in 0-1, as (complete, with NaN) each."""
    generator = np.random.default_rng(0)
    pattern = generator.uniform(-0.4, 0.4, 20)
    parts = []
    for n in (80, 20):
        complete = (0.5 + generator.uniform(-1, 1, (n, 1)) * pattern).astype(np.float32)
        missing = generator.random(complete.shape) < 0.3
        parts.append((complete, np.where(missing, np.nan, complete).astype(np.float32)))
    return parts


def rmse(method, images):
    """On the missing pixels."""
    (_, train), (complete, test) = images
    completed, _ = BASELINES[method](train, test, 0, SHAPE)
    return np.sqrt(np.square(completed - complete)[np.isnan(test)].mean())


@pytest.mark.parametrize('method', BASELINES)
def test_observed_pixels_come_back_and_missing_ones_are_imputed_in_0_1(method, images):
    (_, train), (_, test) = images
    train[:, 7] = np.nan  # a pixel that no training image has
    test[0] = np.nan  # an image that has no pixel
    train[0] = np.nan
    completed, std = BASELINES[method](train, test, 0, SHAPE)
    assert completed.dtype == np.float32 and completed.shape == test.shape
    assert np.array_equal(completed[~np.isnan(test)], test[~np.isnan(test)])
    assert completed.min() >= 0 and completed.max() <= 1  # nor is a NaN left
    assert std is None or (std > 0).all() and std.shape == test.shape


@pytest.mark.parametrize('method', ['mean', 'nearest', 'knn', 'ppca', 'soft-impute'])
def test_an_image_of_which_nothing_is_observed_is_the_mean(method, images):
    (_, train), (_, test) = images
    test[3] = np.nan
    completed, _ = BASELINES[method](train, test, 0, SHAPE)
    tolerance = 0.05 if method == 'ppca' else 1e-5  # whose mean is estimated along with the loadings
    assert np.abs(completed[3] - np.nanmean(train, 0)).max() < tolerance


@pytest.mark.parametrize('method', ['ppca', 'soft-impute'])
def test_images_of_rank_one_are_recovered(method, images):
    assert rmse(method, images) < 0.1 * rmse('mean', images)


def test_nearest_observed_pixel():
    image = np.array([[[0.1, np.nan, np.nan, 0.9]]], np.float32)
    completed, _ = BASELINES['nearest'](image[0], image[0], 0, (1, 4))
    assert completed[0].tolist() == pytest.approx([0.1, 0.1, 0.9, 0.9])


def test_nearest_images_are_those_of_scikit_learn(images):
    (_, train), (_, test) = images
    completed, _ = BASELINES['knn'](train, test, 0, SHAPE)
    expected = KNNImputer(n_neighbors=5).fit(train).transform(test)
    np.testing.assert_allclose(completed, expected, atol=1e-6)


def test_the_standard_deviation_of_ppca_is_that_of_its_errors():
    generator = np.random.default_rng(0)
    complete = 0.5 + 0.1 * generator.standard_normal((2200, 2)) @ generator.standard_normal((2, 20))
    complete = (complete + 0.05 * generator.standard_normal(complete.shape)).clip(0, 1).astype(np.float32)
    x = np.where(generator.random(complete.shape) < 0.5, np.nan, complete)
    completed, std = baselines.impute_ppca(x[:2000], x[2000:], 0, SHAPE)
    missing = np.isnan(x[2000:])
    ratio = ((completed - complete[2000:]) / std)[missing]
    assert 0.9 < np.sqrt(np.square(ratio).mean()) < 1.1
