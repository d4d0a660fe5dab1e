import grading
import pytest
import torch
from torch.utils.data import DataLoader

import evaluate
import models
import training


def test_reconstruction_loss():
    x, x_rec = torch.zeros(3, 28, 28), torch.ones(3, 28, 28)
    loss = evaluate.reconstruction_loss(x, x_rec)
    assert loss.shape == () and loss.item() == pytest.approx((3 * 784) ** -0.5)
    assert evaluate.reconstruction_loss(x, x).item() == 0
    with pytest.raises(ValueError, match=r'one shape, got \[3, 28, 28\] and \[2, 28, 28\]'):
        evaluate.reconstruction_loss(x, x_rec[:2])


@pytest.mark.parametrize('dist', [None, 'gaussian', 'exponential'])
def test_evaluate_model_fits_the_latents_only(digits, dist):
    torch.manual_seed(0)
    test = digits[1]
    model = models.VariationalAutoDecoder(dist, 8) if dist else models.AutoDecoder(8)
    latents = torch.randn(len(test), 8 * model.params_per_dim, requires_grad=True)
    before, weights = latents.detach().clone(), [p.clone() for p in model.parameters()]
    loader = DataLoader(test, batch_size=16, shuffle=True)
    opt = torch.optim.Adam([latents], lr=0.1)
    start = evaluate.evaluate_model(model, loader, None, latents, 0, 'cpu')
    assert torch.equal(latents, before)
    fitted = evaluate.evaluate_model(model, loader, opt, latents, 5, 'cpu')
    assert isinstance(fitted, float) and fitted < start and not torch.equal(latents, before)
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(model.parameters(), weights))


def test_the_course_loss_is_the_mean_over_batches_of_64(digits):
    train = digits[0]
    model = models.AutoDecoder(4)
    loader = DataLoader(train, batch_size=64)
    latents = torch.zeros(len(train), 4)
    expected = grading.reconstruction_loss(train.X, model(latents).detach()).item()
    assert grading.course_loss(model, train, latents) == pytest.approx(expected, rel=1e-5)
    assert grading.evaluate_model(model, loader, None, latents, 0, 'cpu') == pytest.approx(expected, rel=1e-5)
    assert grading.mean_loss(model, train, latents) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    train, _ = digits
    torch.manual_seed(0)
    model = models.VariationalAutoDecoder('laplace', 8)
    config = {
        'system': 'vad',
        'dist': 'laplace',
        'dataset': 'digits',
        'epochs': 4,
        'batch_size': 16,
        'lr': 4e-3,
        'latent_lr': 0.1,
        'beta': 1.0,
        'obs_std': 0.1,
        'seed': 0,
        'latent_dim': 8,
        'decoder': 'groupnorm',
    }
    state, _ = training.fit(model, train, config, tmp_path_factory.mktemp('run'))
    return model, state


def test_grades_repeat_and_fit_in_the_allowed_passes(digits, trained):
    model, state = trained
    first, latents = grading.grade(model, state, digits[1])
    second, again = grading.grade(model, state, digits[1])
    first.pop('test_seconds'), second.pop('test_seconds')
    assert first == second and torch.equal(latents, again) and latents.shape == (40, 16)
    assert training.INFER_PASSES <= 100
    assert first['knn_accuracy'] > 0.3 and first['test_loss_mean'] < first['test_loss']
    start = grading.fit_test_latents(model, state, digits[1], passes=0)
    assert first['test_loss'] < grading.course_loss(model, digits[1], start)


@pytest.mark.parametrize('n', [1, 7, 1500])
def test_samples(trained, n):
    model, state = trained
    for images in (
        grading.sample_prior(model, n, seed=0),
        grading.sample_mixture(model, state['latents'], n, seed=0),
    ):
        assert images.shape == (n, 28, 28) and 0 <= images.min() and images.max() <= 255
    assert torch.equal(grading.sample_prior(model, n, seed=0), grading.sample_prior(model, n, seed=0))
    assert not torch.equal(grading.sample_prior(model, n, seed=0), grading.sample_prior(model, n, seed=1))
