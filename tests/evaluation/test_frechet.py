import math

import pytest
import torch

from evaluation import frechet
from training.data import ImageDataset


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


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The classifiers that are trained, with a cache folder of this test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    train, models = frechet.train_classifier, []
    monkeypatch.setattr(
        frechet, 'train_classifier', lambda images: models.append(train(images)) or models[-1]
    )
    return models


def test_the_classifier_of_the_same_images_is_trained_once(in_colour, trained):
    before = torch.get_rng_state()
    for _ in range(2):
        classifier = frechet.load_classifier(in_colour)
        assert not classifier.training and not classifier.head.weight.requires_grad
        assert all(torch.equal(a, b) for a, b in zip(classifier.parameters(), trained[0].parameters()))
    assert len(trained) == 1 and torch.equal(torch.get_rng_state(), before)
    x = torch.rand(3, 3, 64, 64)
    assert torch.equal(classifier(x), trained[0](x))
    frechet.load_classifier(ImageDataset(in_colour.X.flip(0), in_colour.y, 'digits'))
    assert len(trained) == 2


@pytest.mark.parametrize('content', [b'', b'text'])
def test_a_damaged_classifier_is_trained_again(in_colour, trained, tmp_path, content):
    for _ in range(2):
        frechet.load_classifier(in_colour)
        (path,) = (tmp_path / 'cache' / 'auto-decoders').iterdir()
        path.write_bytes(content)
    assert len(trained) == 2


def test_a_cache_folder_that_cannot_be_written_is_done_without(in_colour, trained, tmp_path):
    (tmp_path / 'cache').write_text('a file')
    assert isinstance(frechet.load_classifier(in_colour), frechet.Classifier)


def test_inception_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(frechet.importlib.util, 'find_spec', lambda name: object())
    assert frechet.inception_weights() is None  # torch-fidelity is installed, but without weights
