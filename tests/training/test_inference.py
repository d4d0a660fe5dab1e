import pytest
import torch

import kernels
from training import inference
from training.batches import Images
from training.inference import fit_latents, refine_latents
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

    fitted = fit_latents(model, start.clone(), images, config, use=INFER, passes=10, lr=0.1, label='')
    assert loss(fitted) < loss(start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_inference_does_not_depend_on_the_batches(digits, small_config, monkeypatch):
    config = small_config('gaussian')
    model, images = build_model(config).requires_grad_(False), Images(digits[1], 'cpu')
    fitted = []
    for batch_size in (250, 7):
        monkeypatch.setattr(inference, 'INFER_BATCH', batch_size)
        fit = dict(use=INFER, passes=2, lr=0.01, label='')
        fitted.append(fit_latents(model, torch.zeros(40, 16), images, config, **fit))
    torch.testing.assert_close(*fitted, rtol=1e-3, atol=1e-3)


def test_new_images_are_fitted_in_the_passes_that_the_course_allows():
    assert inference.INFER_PASSES <= 100


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
