import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import evaluate
from evaluation.losses import course_loss, evaluate_model, mean_loss, pca_loss
from models import AutoDecoder, VariationalAutoDecoder
from training import ImageDataset


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
    latents = torch.randn(len(test_set), model.latent_size, requires_grad=True)
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


@pytest.fixture
def grade(digits):
    """grade(**changes): evaluate_model of 40 test digits with some of its arguments changed."""

    def run(**changes):
        latents = torch.zeros(40, 8, requires_grad=True)
        arguments = dict(
            test_dl=DataLoader(digits[1], batch_size=16), latents=latents, epochs=1, device='cpu'
        )
        arguments['opt'] = torch.optim.SGD([latents], lr=0.1)
        return evaluate_model(AutoDecoder(8), **{**arguments, **changes})

    return run


LATENTS = torch.zeros(40, 8)
LEARNT = torch.zeros(40, 8, requires_grad=True)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(latents=[0.0]), r'expected latents to be a floating-point tensor \[N, K\], got list'),
        (dict(latents=LATENTS[0]), r'got torch.float32 \[8\]'),
        (dict(latents=LATENTS.int(), epochs=0), r'got torch.int32 \[40, 8\]'),
        (dict(latents=LATENTS), 'a leaf tensor that requires a gradient, got one without requires_grad'),
        (dict(latents=LEARNT * 1), 'a leaf tensor .* got the result of other operations'),
        (dict(latents=LEARNT), 'an opt that holds latents, got one that holds other tensors'),
        (dict(opt=None), 'expected opt to be an optimiser where epochs is not 0, got NoneType'),
        (dict(opt='adam'), 'got str'),
        (dict(epochs=-1), 'epochs to be an integer of at least 0, got -1'),
        (dict(epochs=1.0), 'got 1.0'),
        (dict(epochs=True), 'got True'),
        (dict(epochs=None), 'got None'),
    ],
)
def test_evaluate_model_refuses(grade, changes, message):
    with pytest.raises(ValueError, match=message):
        grade(**changes)


def test_every_image_needs_latents(grade):
    with pytest.raises(ValueError, match='a row for each image, got 39 rows and images 32 to 39'):
        grade(latents=LATENTS[:39], epochs=0)


def test_a_loader_has_to_say_which_images_it_yields(grade, digits):
    pairs = TensorDataset(digits[1].X, digits[1].y)  # images and labels
    with pytest.raises(ValueError, match=r'i an integer tensor \[B\], got i as torch.float32 \[40, 28, 28\]'):
        grade(test_dl=DataLoader(pairs, batch_size=40))


def test_a_loader_without_images_is_an_error(grade, digits):
    with pytest.raises(ValueError, match='expected test_dl to have images, got none'):
        grade(test_dl=DataLoader(Subset(digits[1], [])))


class OwnSGD:
    """An optimiser of one's own, without param_groups."""

    def __init__(self, x):
        self.x = x

    def zero_grad(self):
        self.x.grad = None

    def step(self):
        self.x.data -= 0.1 * self.x.grad


def test_evaluate_model_takes_what_works(grade, digits):
    latents = torch.zeros(50, 8, requires_grad=True)  # more than images
    some = DataLoader(Subset(digits[1], [3, 39]))
    grade(latents=latents, opt=OwnSGD(latents), epochs=np.int64(1), test_dl=some)
    assert latents.any(1).nonzero().flatten().tolist() == [3, 39]


def test_pca_of_all_components_loses_nothing(digits):
    train_set, _ = digits
    losses = [pca_loss(train_set, train_set, size) for size in (2, 10, 64, 1000)]
    assert losses[0] > losses[1] > losses[2] and losses[3] < 1e-4


def test_pca_of_images_that_are_not_known_has_no_loss(digits):
    train_set, test_set = digits
    unknown = ImageDataset(train_set.X, train_set.y, train_set.name, known=False)
    assert pca_loss(unknown, test_set, 2) is None
