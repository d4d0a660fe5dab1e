import pytest
import torch
from torch.utils.data import DataLoader

import evaluate
from evaluation.losses import course_loss, evaluate_model, mean_loss
from models import AutoDecoder, VariationalAutoDecoder


def test_the_course_finds_its_functions_in_evaluate():
    assert evaluate.evaluate_model is evaluate_model


def test_reconstruction_loss():
    x, x_rec = torch.zeros(3, 28, 28), torch.ones(3, 28, 28)
    loss = evaluate.reconstruction_loss(x, x_rec)
    assert loss.shape == () and loss.item() == pytest.approx((3 * 784) ** -0.5)
    assert evaluate.reconstruction_loss(x, x).item() == 0


def test_reconstructions_of_another_shape_are_an_error():
    x, x_rec = torch.zeros(3, 28, 28), torch.ones(2, 28, 28)
    with pytest.raises(ValueError, match=r'one shape, got \[3, 28, 28\] and \[2, 28, 28\]'):
        evaluate.reconstruction_loss(x, x_rec)


@pytest.mark.parametrize('dist', [None, 'gaussian', 'exponential'])
def test_evaluate_model_fits_the_latents_only(digits, dist):
    torch.manual_seed(0)
    test_set = digits[1]
    model = VariationalAutoDecoder(dist, 8) if dist else AutoDecoder(8)
    latents = torch.randn(len(test_set), 8 * model.params_per_dim, requires_grad=True)
    before, weights = latents.detach().clone(), [weight.clone() for weight in model.parameters()]
    loader = DataLoader(test_set, batch_size=16, shuffle=True)
    opt = torch.optim.Adam([latents], lr=0.1)
    start = evaluate.evaluate_model(model, loader, None, latents, 0, 'cpu')
    assert torch.equal(latents, before)
    fitted = evaluate.evaluate_model(model, loader, opt, latents, 5, 'cpu')
    assert isinstance(fitted, float) and fitted < start and not torch.equal(latents, before)
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(model.parameters(), weights))


def test_the_course_loss_is_the_mean_over_batches_of_64(digits):
    train_set = digits[0]
    model = AutoDecoder(4)
    loader = DataLoader(train_set, batch_size=64)
    latents = torch.zeros(len(train_set), 4)
    expected = evaluate.reconstruction_loss(train_set.X, model(latents).detach()).item()
    assert course_loss(model, train_set, latents) == pytest.approx(expected, rel=1e-5)
    assert evaluate_model(model, loader, None, latents, 0, 'cpu') == pytest.approx(expected, rel=1e-5)
    assert mean_loss(model, train_set, latents) == pytest.approx(expected, rel=1e-5)
