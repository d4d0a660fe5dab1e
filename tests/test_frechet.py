import math

import frechet
import pytest
import torch

import utils


def test_a_set_is_at_distance_0_from_itself():
    features = torch.randn(200, 16)
    assert frechet.distance(features, features) == pytest.approx(0, abs=1e-6)


def test_the_distance_of_gaussians_is_the_closed_form():
    # Exact means and covariances, by whitening: m1 = 0, C1 = I; m2 = 3 on the first axis, C2 = diag(4, 9, 1).
    x = torch.randn(500, 3, dtype=torch.float64)
    x -= x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    y = x @ torch.diag(torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64)) + torch.tensor([3.0, 0.0, 0.0])
    assert frechet.distance(x, y) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 1) ** 2, rel=1e-6)
    # C1 and C2 that do not commute: the trace of the root of a 2 x 2 matrix M is sqrt(trace M + 2 sqrt(det M)).
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
    assert frechet.compare(samples[:5], real[:4]) != (None, None) and frechet.compare(samples, real[:3]) == (
        None,
        None,
    )


@pytest.fixture(scope='module')
def whole_digits():
    (X, y), (X_test, y_test) = utils.read_digits()
    return utils.ImageDataset(X, y, 'digits'), utils.ImageDataset(X_test, y_test, 'digits')


def test_grades_of_samples(whole_digits):
    train, test = whole_digits
    torch.manual_seed(5)
    state = torch.get_rng_state()
    good = frechet.grade(test.X, train, test)
    assert torch.equal(state, torch.get_rng_state())  # the caller's random numbers are left alone
    assert (
        good['frechet_features'] == 'classifier' and good['classes'] == 10 and good['smallest_class'] > 0.05
    )
    assert good['frechet'] < 2 * good['frechet_floor']
    classifier = frechet.known[train.checksum()]
    features = frechet.classifier_features(classifier, test.X.byte())
    assert (
        features.shape == (797, 64) and (classifier.head(features).argmax(1) == test.y).float().mean() > 0.9
    )
    collapsed = frechet.grade(test.X[test.y == 0][:1].expand(500, -1, -1), train, test)
    assert (
        collapsed['classes'] == 1
        and collapsed['smallest_class'] == 0
        and collapsed['frechet'] > 20 * good['frechet']
    )


def test_the_classifier_repeats_and_takes_colour(monkeypatch):
    monkeypatch.setattr(frechet, 'STEPS', 3)
    dataset = utils.ImageDataset(torch.rand(20, 3, 64, 64) * 255, torch.arange(20) % 10, 'digits')
    with torch.no_grad():
        first = frechet.train_classifier(dataset)
    second = frechet.train_classifier(dataset)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    grades = frechet.grade(dataset.X, dataset, dataset)
    assert grades['frechet'] >= 0 and grades['frechet_floor'] > 0


def test_inception_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(frechet.importlib.util, 'find_spec', lambda name: object())
    assert frechet.inception() is None  # installed, but without weights
