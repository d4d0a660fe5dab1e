import math

import pytest
import torch

from evaluation import frechet
from training.data import ImageDataset, read_digits


def test_a_set_is_at_distance_0_from_itself():
    features = torch.randn(200, 16)
    assert frechet.distance(features, features) == pytest.approx(0, abs=1e-6)


def test_the_distance_of_gaussians_is_the_closed_form():
    # Exact means and covariances, by whitening: m1 = 0, C1 = I; m2 = 3 on the first axis,
    # C2 = diag(4, 9, 1).
    x = torch.randn(500, 3, dtype=torch.float64)
    x -= x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    y = x @ torch.diag(torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64)) + torch.tensor([3.0, 0.0, 0.0])
    assert frechet.distance(x, y) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 1) ** 2, rel=1e-6)
    # C1 and C2 that do not commute: of a 2 x 2 matrix M the root has the trace sqrt(trace M + 2 sqrt(det M)).
    x = x[:, :2]
    y = x @ torch.linalg.cholesky(torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)).T
    z = x @ torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    product = torch.cov(y.T) @ torch.cov(z.T)
    expected = 5 + 5 - 2 * math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    assert frechet.distance(y, z) == pytest.approx(expected, rel=1e-6)


def test_samples_like_new_real_images_are_at_the_floor():
    torch.manual_seed(0)
    mixing = torch.randn(8, 8)
    real, samples = torch.randn(1000, 8) @ mixing, torch.randn(1000, 8) @ mixing
    distance, floor = frechet.compare(samples, real)
    assert 0.5 < distance / floor < 2
    assert frechet.compare(samples + 1, real)[0] > 10 * floor


def test_fewer_than_four_images_have_no_distance():
    real, samples = torch.randn(10, 8), torch.randn(10, 8)
    assert frechet.compare(samples[:5], real[:4]) != (None, None)
    assert frechet.compare(samples, real[:3]) == (None, None)


@pytest.fixture(scope='module')
def whole_digits():
    (X, y), (X_test, y_test) = read_digits()
    return ImageDataset(X, y, 'digits'), ImageDataset(X_test, y_test, 'digits')


@pytest.fixture(scope='module')
def good(whole_digits):
    """The grades of real images, by a classifier of half of the steps, and whether the caller's random
    numbers were left alone."""
    train_set, test_set = whole_digits
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frechet, 'STEPS', frechet.STEPS // 2)
        grades = frechet.grade(test_set.X, train_set, test_set)
    return grades, torch.equal(state, torch.get_rng_state())


def test_the_callers_random_numbers_are_left_alone(good):
    assert good[1]


def test_new_real_images_are_near_the_floor_and_show_all_classes(good):
    grades, _ = good
    assert grades['frechet_features'] == 'classifier'
    assert grades['classes'] == 10 and grades['smallest_class'] > 0.05
    assert grades['frechet'] < 2 * grades['frechet_floor']


def test_the_classifier_has_learned_the_classes(good, whole_digits):
    train_set, test_set = whole_digits
    classifier = frechet.known[train_set.checksum()]
    features = frechet.classifier_features(classifier, test_set.X.byte())
    predicted = classifier.head(features).argmax(1)
    assert features.shape == (797, 64) and (predicted == test_set.y).float().mean() > 0.9


def test_samples_of_one_kind_are_found_out(good, whole_digits):
    train_set, test_set = whole_digits
    alike = test_set.X[test_set.y == 0][:1].expand(500, -1, -1)
    grades = frechet.grade(alike, train_set, test_set)
    assert grades['classes'] == 1 and grades['smallest_class'] == 0
    assert grades['frechet'] > 20 * good[0]['frechet']


@pytest.fixture
def in_colour(monkeypatch):
    """Twenty images of noise in colour, and a classifier that is trained for a moment."""
    monkeypatch.setattr(frechet, 'STEPS', 3)
    return ImageDataset(torch.rand(20, 3, 64, 64) * 255, torch.arange(20) % 10, 'digits')


def test_the_classifier_repeats_whether_gradients_are_on_or_off(in_colour):
    with torch.no_grad():
        first = frechet.train_classifier(in_colour)
    second = frechet.train_classifier(in_colour)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_samples_in_colour_have_grades(in_colour):
    grades = frechet.grade(in_colour.X, in_colour, in_colour)
    assert grades['frechet'] >= 0 and grades['frechet_floor'] > 0


def test_inception_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(frechet.importlib.util, 'find_spec', lambda name: object())
    assert frechet.inception() is None  # installed, but without weights
