"""The imputer for scikit-learn. Digits of 8 x 8 pixels, as load_digits has them, are quick."""

import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from imputation import VADImputer

IMAGES = dict(image_shape=(8, 8), random_state=0)


@parametrize_with_checks([VADImputer(epochs=2)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope='module')
def X():
    """[200, 64], digits in 0-16 without their labels."""
    return load_digits().data[:200]


@pytest.fixture(scope='module')
def incomplete(X):
    """X without half of its values."""
    return np.where(np.random.RandomState(0).rand(*X.shape) < 0.5, np.nan, X)


@pytest.fixture(scope='module')
def imputer(incomplete):
    """Fitted to 150 incomplete digits."""
    return VADImputer(epochs=10, **IMAGES).fit(incomplete[:150])


def root_mean_square(error):
    return np.sqrt(np.square(error).mean())


def test_missing_values_are_better_than_the_mean(imputer, X, incomplete):
    missing = np.isnan(incomplete[150:170])
    ours, mean = (
        root_mean_square((each.transform(incomplete[150:170]) - X[150:170])[missing])
        for each in (imputer, SimpleImputer(keep_empty_features=True).fit(incomplete[:150]))
    )
    assert ours < 0.9 * mean


def test_observed_values_come_back_bit_for_bit(imputer, incomplete):
    rows = incomplete[150:170].copy()
    rows[0, :8] = [-1e9, 1e9, np.pi, 1 / 3, 17, -0.0, 1e-300, 16]  # outside the training range, too
    observed = ~np.isnan(rows)
    for completed in (imputer.transform(rows), *imputer.sample(rows, 2)):
        assert completed[observed].tobytes() == rows[observed].tobytes()
        assert ((completed[~observed] >= 0) & (completed[~observed] <= 16)).all()


def test_samples_differ_where_values_are_missing(imputer, incomplete):
    missing = np.isnan(incomplete[150:170])
    samples = imputer.sample(incomplete[150:170], 3)
    assert samples.shape == (3, 20, 64)
    assert (samples[0] != samples[1])[missing].mean() > 0.2
    assert np.array_equal(samples, imputer.sample(incomplete[150:170], 3))


def test_another_random_state_gives_other_samples(incomplete):
    first, again, other = (
        VADImputer(epochs=1, random_state=seed).fit(incomplete[:20]).sample(incomplete[:20], 1)
        for seed in (0, np.random.RandomState(0), 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize('scale, shift', [(1e-12, 0), (1e6, -7e6)])
def test_values_of_any_range_are_completed_alike(incomplete, scale, shift):
    imputer, X = VADImputer(epochs=1, **IMAGES), incomplete[:30]
    completed = (imputer.fit_transform(scale * X + shift) - shift) / scale
    assert root_mean_square(completed - imputer.fit_transform(X)) < 0.5


def test_a_constant_comes_back():
    X = np.full((10, 6), 3.5)
    X[0, 0] = np.nan
    assert (VADImputer(epochs=1).fit_transform(X) == 3.5).all()


def test_features_and_rows_without_observed_values_are_filled_in():
    X = np.random.RandomState(0).rand(20, 5)
    X[:, 2] = X[4] = np.nan
    completed = VADImputer(epochs=1, random_state=0).fit_transform(X)
    assert completed.shape == (20, 5) and np.isfinite(completed).all()


def test_coloured_images_have_their_channels_last():
    values = np.linspace(0, 1, 30)[:, None, None, None] * np.ones((30, 8, 8, 3))
    values[..., 1] = 1 - values[..., 0]  # green is the opposite of red
    X = values.reshape(30, -1)
    missing = np.random.RandomState(0).rand(*X.shape) < 0.3
    completed = VADImputer(image_shape=(8, 8, 3), random_state=0, epochs=10).fit_transform(
        np.where(missing, np.nan, X)
    )
    assert root_mean_square((completed - X)[missing]) < 0.1


@pytest.mark.parametrize(
    'parameters, words',
    [
        ({'image_shape': (8, 9)}, r'expected image_shape .* of 64 values, .* got \(8, 9\)'),
        ({'image_shape': (2, 32, 1)}, 'expected image_shape'),
        ({'image_shape': 64}, 'expected image_shape'),
        ({'image_shape': '8x8'}, 'expected image_shape'),
        ({'image_shape': (8.0, 8)}, 'expected image_shape'),
        ({'image_shape': (-8, -8)}, 'expected image_shape'),
        ({'decoder': 'cnn'}, "expected decoder to be one of .* got 'cnn'"),
        ({'decoder': 'groupnorm'}, 'multiples of 4'),
        ({'dist': 'cauchy'}, "expected dist to be one of .* got 'cauchy'"),
        ({'epochs': 0}, 'epochs == 0'),
        ({'obs_std': -1}, 'obs_std == -1'),
        ({'obs_std': 1e-30}, 'choose an obs_std above 1e-30'),
        ({'device': 'abacus'}, 'abacus'),
    ],
)
def test_parameters_that_do_not_fit_are_one_line(incomplete, parameters, words):
    with pytest.raises(ValueError, match=words) as error:
        VADImputer(**{'epochs': 1, **parameters}).fit(incomplete[:10])
    assert '\n' not in str(error.value)


def test_nothing_but_nan_is_an_error():
    with pytest.raises(ValueError, match='expected observed values in X, got NaN only'):
        VADImputer().fit(np.full((5, 3), np.nan))


def test_a_range_that_overflows_is_an_error():
    with pytest.raises(ValueError, match='expected a finite range'):
        VADImputer().fit(np.array([[1e308, -1e308]]))


def test_a_pipeline_classifies_incomplete_digits(incomplete):
    y = load_digits().target[:200]
    pipeline = make_pipeline(VADImputer(epochs=10, **IMAGES), PCA(10), KNeighborsClassifier())
    assert pipeline.fit(incomplete[:150], y[:150]).score(incomplete[150:], y[150:]) > 0.6


def test_a_grid_search_finds_the_better_parameter(X, incomplete):
    def score(imputer, rows, truth):
        return -root_mean_square((imputer.transform(rows) - truth)[np.isnan(rows)])

    search = GridSearchCV(VADImputer(epochs=5, **IMAGES), {'obs_std': [0.05, 5.0]}, scoring=score, cv=2)
    assert search.fit(incomplete[:60], X[:60]).best_params_ == {'obs_std': 0.05}


def test_a_fitted_imputer_pickles(imputer, incomplete):
    again = pickle.loads(pickle.dumps(imputer))
    assert np.array_equal(again.transform(incomplete[150:170]), imputer.transform(incomplete[150:170]))


def test_random_numbers_gradients_and_threads_of_the_caller_stay_as_they_are(incomplete):
    def state():
        return (
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            torch.get_num_threads(),
        )

    before = state()
    with torch.inference_mode():
        VADImputer(epochs=1, **IMAGES).fit_transform(incomplete[:10])
        assert torch.is_inference_mode_enabled()
    assert state() == before


def test_it_can_be_fitted_in_a_thread(incomplete):
    imputer = VADImputer(epochs=1, **IMAGES)
    thread = threading.Thread(target=imputer.fit, args=(incomplete[:10],))
    thread.start()
    thread.join()
    assert np.isfinite(imputer.transform(incomplete[:10])).all()
