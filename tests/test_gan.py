"""The GAN: networks, both players' steps, and its run from start to report."""

import gan
import pictures
import pytest
import torch
from PIL import Image

import models

SMALL = ['--epochs', '3', '--latent-dim', '6', '--batch-size', '16', '--device', 'cpu']


# --------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize('kind', models.GAN_NETWORKS)
@pytest.mark.parametrize('shape', [(28, 28), (32, 20), (3, 16, 16), (3, 64, 64)])
def test_networks_fit_the_images(kind, shape):
    model = models.GAN(kind, 5, shape).eval()
    z = model.sample_prior(4, seed=1)
    assert torch.equal(z, model.sample_prior(4, seed=1)) and not torch.equal(
        z, model.sample_prior(4, seed=1, step=1)
    )
    with torch.no_grad():
        fake, images = model.generator(z), model.decode(z)
        assert fake.shape == (4, *(shape if len(shape) == 3 else (1, *shape))) and fake.abs().max() <= 1
        assert images.shape == (4, *shape) and 0 <= images.min() and images.max() <= 255
        assert model.discriminator(fake).shape == (4, 1)
        assert torch.allclose(
            images[:1], model.decode(z[:1]), atol=1e-3
        )  # an image does not depend on the others


@pytest.mark.parametrize('shape', [(30, 30), (8, 8), (3, 62, 64)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match='for model dcgan, got .* use --model linear'):
        models.GAN('dcgan', 5, shape)
    models.GAN('linear', 5, shape)


def test_shifts_move_images_whole_and_pass_the_gradient():
    x = torch.full((64, 1, 28, 28), -1.0)
    x[:, :, 10:14, 10:14] = 1
    x.requires_grad_()
    moved = gan.shift(x, torch.Generator().manual_seed(0))
    corners = {tuple((image[0] > 0).nonzero()[0].tolist()) for image in moved}
    assert moved.shape == x.shape and all((image > 0).sum() == 16 for image in moved) and len(corners) > 20
    assert {c for corner in corners for c in corner} <= set(range(10 - gan.MAX_SHIFT, 11 + gan.MAX_SHIFT))
    moved.sum().backward()
    assert (x.grad[:, :, 10:14, 10:14] == 1).all()


# --------------------------------------------------------------------------------------------- runs


def test_long_runs_keep_few_frames(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(gan, 'FRAMES', 2)
    config = {
        'system': 'gan',
        'model': 'linear',
        'latent_dim': 4,
        'lr': 1e-3,
        'epochs': 5,
        'batch_size': 64,
        'seed': 0,
    }
    state, _ = gan.fit(models.GAN('linear', 4), digits[0], config, tmp_path)
    assert len(state['frames']) == 1  # after epoch 3


@pytest.mark.parametrize('shape', [(7, 20, 30), (7, 3, 20, 30)])
def test_gif(tmp_path, shape):
    pictures.save_gif(torch.rand(shape) * 300 - 20, tmp_path / 'x.gif')
    with Image.open(tmp_path / 'x.gif') as gif:
        assert (
            gif.n_frames == 7
            and gif.size == (210, 140)
            and gif.info['duration'] == 100
            and gif.info['loop'] == 0
        )
