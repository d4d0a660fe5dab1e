import pytest
import torch

import kernels
from training import inference
from training.batches import Images
from training.inference import Schedule, fit_latents, new_images_schedule, refine_latents
from training.initialization import initialize_latents
from training.objective import NegativeELBO
from training.randomness import INFER
from training.runs import build_model


@pytest.mark.parametrize('dist', [None, *kernels.FAMILIES])
def test_inference_leaves_the_decoder_alone_and_lowers_the_loss(digits, small_config, dist):
    config = small_config(dist)
    model = build_model(config)
    images = Images(digits[1], 'cpu')
    start = initialize_latents(model, images, 0.1)[:40]
    model.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective, index = NegativeELBO(model, config), torch.arange(40)

    def loss(latents):
        terms = objective(model.params(latents), *images[index], seed=1, step=0, index=index)
        return sum(term.mean() for term in terms)

    schedule = Schedule(passes=10, lr=0.1)
    fitted = fit_latents(model, start.clone(), images, config, use=INFER, schedule=schedule, label='')
    assert loss(fitted) < loss(start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_inference_does_not_depend_on_the_batches(digits, small_config, monkeypatch):
    config = small_config('gaussian')
    model, images = build_model(config).requires_grad_(False), Images(digits[1], 'cpu')
    fitted = []
    for batch_size in (250, 7):
        monkeypatch.setattr(inference, 'BATCH', batch_size)
        fit = dict(use=INFER, schedule=Schedule(passes=2, lr=0.01), label='')
        fitted.append(fit_latents(model, torch.zeros(40, 16), images, config, **fit))
    torch.testing.assert_close(*fitted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('dist', [dist for dist in kernels.FAMILIES if kernels.family(dist).location_scale])
def test_passes_without_noise_see_no_draw_and_leave_scales_alone(digits, small_config, dist):
    start, fitted = torch.full((40, build_model(small_config(dist)).latent_size), 0.1), []
    for seed in (0, 1):  # of other draws
        config = small_config(dist, seed=seed)
        model, images = build_model(small_config(dist)).requires_grad_(False), Images(digits[1], 'cpu')
        fit = dict(use=INFER, schedule=Schedule(passes=3, lr=0.1, quiet=1.0), label='')
        fitted.append(fit_latents(model, start.clone(), images, config, **fit))
    d = model.latent_dim
    assert torch.equal(*fitted)
    assert not torch.equal(fitted[0][:, :d], start[:, :d])
    assert torch.equal(fitted[0][:, d:], start[:, d:])


def test_the_last_passes_are_with_noise_and_move_scales(digits, small_config):
    config = small_config('gaussian')
    model, images = build_model(config).requires_grad_(False), Images(digits[1], 'cpu')
    fit = dict(use=INFER, schedule=Schedule(passes=5, lr=0.1, quiet=0.8), label='')
    fitted = fit_latents(model, torch.zeros(40, 16), images, config, **fit).view(40, 2, 8)
    assert (fitted[:, 1] != 0).any()


@pytest.mark.parametrize(
    ('dist', 'likelihood', 'missing', 'schedule'),
    [
        ('gaussian', 'gaussian', None, 'NEW_IMAGES_QUIET'),
        ('laplace', 'gaussian', None, 'NEW_IMAGES_QUIET'),
        ('gaussian-full', 'gaussian', None, 'NEW_IMAGES_QUIET'),
        ('uniform', 'gaussian', None, 'NEW_IMAGES'),
        ('exponential', 'gaussian', None, 'NEW_IMAGES_FAR'),
        (None, 'gaussian', None, 'NEW_IMAGES'),
        ('gaussian', 'bernoulli', None, 'NEW_IMAGES'),
        ('gaussian', 'gaussian', 0.5, 'NEW_IMAGES_QUIET'),
        ('gaussian', 'gaussian', 0.9, 'NEW_IMAGES'),
    ],
)
def test_how_new_images_are_fitted(digits, small_config, dist, likelihood, missing, schedule):
    config = small_config(dist, likelihood=likelihood)
    images = digits[1] if missing is None else digits[1].hide_pixels('pixels', missing, 0, 1)
    found = new_images_schedule(build_model(config), images, config)
    assert found == getattr(inference, schedule)


def test_new_images_are_fitted_in_the_passes_that_the_course_allows():
    schedules = inference.NEW_IMAGES, inference.NEW_IMAGES_QUIET, inference.NEW_IMAGES_FAR
    assert max(schedule.passes for schedule in schedules) <= 100


def test_the_latents_of_many_images_are_not_refitted(digits, small_config, monkeypatch):
    config = small_config('gaussian')
    model, images = build_model(config).requires_grad_(False), Images(digits[1], 'cpu')
    latents = initialize_latents(model, images, 0.1)
    few = refine_latents(model, latents.clone(), images, config)
    monkeypatch.setattr(inference, 'MANY', images.total - 1)
    model = build_model(config)
    many = refine_latents(model, latents.clone(), images, config)
    torch.testing.assert_close(many, build_model(config).standardise(latents, latents[: images.n]))
    assert not torch.allclose(many[: images.n], few[: images.n])
