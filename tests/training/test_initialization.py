import pytest
import torch
from sklearn.linear_model import Ridge

import kernels
from training.batches import Images
from training.initialization import initialize_latents, initialize_pixel_bias, pool, ridge_regression
from training.runs import build_model


@pytest.mark.parametrize('dist', [None, *kernels.FAMILIES])
@pytest.mark.parametrize('n, latent_dim', [(64, 8), (1, 4), (2, 3), (5, 20), (64, 1)])
def test_latents_start_near_the_prior(digits, small_config, dist, n, latent_dim):
    model = build_model(small_config(dist, latent_dim=latent_dim))
    images = Images(digits[0].part(slice(n)), 'cpu')
    latents = initialize_latents(model, images, obs_std=0.1)
    assert latents.shape == (5 * n, model.latent_size) and torch.isfinite(latents).all()
    _, kl = model.sample(model.params(latents), seed=0, step=0, index=torch.arange(5 * n))
    assert kl.mean() < 4 * latent_dim  # nats: within reach of N(0, 1), whatever the images


def test_a_model_starts_at_the_mean_image(digits, small_config):
    model, images = build_model(small_config()), Images(digits[0], 'cpu')
    initialize_pixel_bias(model, images)
    mean = images[torch.arange(images.n)][0].mean(0)
    torch.testing.assert_close(torch.sigmoid(model.pixel_bias.data), mean.clamp(0.02, 0.98))


def test_components_that_carry_little_start_at_the_prior_and_unread(digits, small_config):
    model = build_model(small_config('gaussian', latent_dim=40))
    latents = initialize_latents(model, Images(digits[0], 'cpu'), obs_std=0.3)
    off = (model.params(latents) == 0).all(0).all(0)  # [D]
    assert 0 < off.sum() < 40
    weight = model.decoder.stem.weight
    assert (weight[:, off] == 0).all() and (weight[:, ~off] != 0).any(0).all()


@pytest.mark.parametrize(
    'shape, n',
    [
        ((28, 28), 784),
        ((3, 64, 64), 768),
        ((1, 4096), 1024),
        ((4096, 1), 1024),
        ((3, 1, 5000), 999),
        ((2, 9000), 1000),
    ],
)
def test_pooled_images_of_any_shape_are_about_a_thousand(shape, n):
    assert pool(torch.ones(2, *shape)).equal(torch.ones(2, n))


def test_ridge_regression_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.rand(90, 784, generator=generator), torch.randn(90, 3, generator=generator)
    weights = ridge_regression(x.split(40), targets.split(40), penalty=0.05)
    ridge = Ridge(alpha=0.05 * 90).fit(x.numpy(), targets.numpy())
    torch.testing.assert_close(weights[:-1].T, torch.as_tensor(ridge.coef_), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights[-1], torch.as_tensor(ridge.intercept_), rtol=1e-3, atol=1e-3)
