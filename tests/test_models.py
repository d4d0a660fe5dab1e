import pytest
import torch

import kernels
import models
import networks
from training.runs import build_model

MODELS = [None, *kernels.FAMILIES]  # None: the auto-decoder
SHAPES = {'conv64': (3, 64, 64)}  # decoders for other images than 28 x 28 grey ones


def make(dist, latent_dim=6, decoder='groupnorm', shape=networks.SHAPE):
    torch.manual_seed(0)
    if dist:
        return models.VariationalAutoDecoder(dist, latent_dim, decoder, shape)
    return models.AutoDecoder(latent_dim, decoder, shape)


def random_latents(model, n=5):
    return torch.randn(n, model.latent_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('decoder', networks.DECODERS)
@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('n, latent_dim', [(1, 1), (5, 6)])
def test_models_are_called_as_the_course_calls_them(dist, decoder, n, latent_dim):
    shape = SHAPES.get(decoder, networks.SHAPE)
    model = make(dist, latent_dim, decoder, shape).eval()
    latents = random_latents(model, n).requires_grad_()
    sizes = {None: 1, 'exponential': 1, 'gaussian-full': (latent_dim + 3) / 2}
    assert latents.shape[1] == latent_dim * sizes.get(dist, 2)
    images = model(latents)
    assert images.shape == (n, *shape) and 0 <= images.min() and images.max() <= 255
    images.sum().backward()
    assert latents.grad.abs().sum() > 0 and torch.isfinite(latents.grad).all()
    assert model.decode(model.mean(latents)).shape == (n, *shape)


@pytest.mark.parametrize('logit', [-60.0, 60.0])
def test_saturated_pixels_still_learn(logit):
    model = make(None).requires_grad_(False)
    model.pixel_bias.fill_(logit)
    latents = random_latents(model).requires_grad_()
    images = model(latents)
    assert images.max() < 1e-6 if logit < 0 else images.min() == 255
    (gradient,) = torch.autograd.grad(images.square().sum() + images.sum(), latents)
    assert gradient.abs().max() > 0


def test_an_unknown_decoder():
    with pytest.raises(ValueError, match="one of groupnorm, dcgan4x4, .*, got 'resnet'"):
        models.AutoDecoder(6, 'resnet')


def test_an_unknown_family():
    with pytest.raises(ValueError, match="got 'cauchy'"):
        models.VariationalAutoDecoder('cauchy', 6)


@pytest.mark.parametrize('dist', kernels.FAMILIES)
def test_a_variational_model_samples_when_called(dist):
    model = make(dist)
    latents = random_latents(model)
    for mode in (model.train(), model.eval()):
        assert not torch.equal(mode(latents), mode(latents))
    model.calls = 0
    first = model(latents)
    model.calls = 0
    assert torch.equal(model(latents), first)


def test_an_auto_decoder_does_not():
    model = make(None)
    latents = random_latents(model)
    assert torch.equal(model(latents), model(latents))


def test_the_location_comes_first():
    model = make('laplace')
    latents = random_latents(model)
    assert torch.equal(model.mean(latents), latents[:, :6])
    assert torch.equal(model.params(latents)[:, 1], latents[:, 6:])


@pytest.mark.parametrize('dist', MODELS)
def test_standardising_changes_no_image(dist):
    model = make(dist).eval().requires_grad_(False)
    latents = 0.5 * random_latents(model, 50) + 0.3
    before = model.decode(model.mean(latents))
    new = model.standardise(latents, latents)
    assert torch.allclose(new, latents) == (dist == 'uniform')  # whose support is fixed
    torch.testing.assert_close(model.decode(model.mean(new)), before, atol=0.01, rtol=1e-4)
    if dist and dist != 'uniform':
        noise = dict(seed=0, step=0, index=torch.arange(50))
        kl = [model.sample(model.params(each), **noise)[1].mean() for each in (latents, new)]
        assert kl[1] < kl[0]


@pytest.mark.parametrize('dist', MODELS)
def test_start_codes_are_what_the_decoder_reads(dist):
    model = make(dist, 40)
    code = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    latents = model.initialize(code, torch.full((40,), 0.2))
    read = model.code(model.mean(latents))
    assert torch.corrcoef(torch.stack([read.flatten(), code.flatten()]))[0, 1] > 0.98


def test_a_latent_that_never_moves_is_left_as_it_is():
    model = make(None)
    latents = random_latents(model, 50)
    latents[:, 2] = 0.5
    new = model.standardise(latents, latents)
    assert torch.isfinite(new).all() and torch.isfinite(model(new)).all()


@pytest.mark.parametrize('dist', MODELS)
def test_prior_samples(dist):
    model = make(dist)
    z = model.sample_prior(2000, seed=3)
    assert z.shape == (2000, 6) and torch.equal(z, model.sample_prior(2000, seed=3))
    assert model.code(z).mean().abs() < 0.1 and 0.5 < model.code(z).std() < 2


def test_bfloat16_is_for_the_decoder_only(vad_config):
    images = []
    for flag in (False, True):
        model = build_model(vad_config(latent_dim=6, decoder='dcgan7x7', bfloat16=flag)).eval()
        latents = torch.randn(4, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
        images.append(model.decode(model.mean(latents)))
        images[-1].square().mean().backward()
        assert images[-1].dtype == latents.grad.dtype == torch.float32 and latents.grad.abs().max() > 0
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
    torch.testing.assert_close(*images, rtol=0, atol=1)  # in 0-255
    assert not torch.equal(*images)


def test_a_batch_of_one_image_can_be_standardised():
    layer = models.Standardise(3)
    codes = 5 + 2 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(layer(codes).mean(0), torch.zeros(3), atol=1e-5)
    mean = layer.running_mean.clone()
    assert torch.isfinite(layer(codes[:1])).all() and torch.equal(layer.running_mean, mean)


# ------------------------------------------------------------------------------------------------- GAN


@pytest.mark.parametrize('kind', networks.GAN_NETWORKS)
@pytest.mark.parametrize('shape', [(28, 28), (32, 20), (3, 16, 16), (3, 64, 64)])
def test_a_gans_networks_fit_the_images(kind, shape):
    model = models.GAN(kind, 5, shape).eval()
    z = model.sample_prior(4, seed=1)
    assert torch.equal(z, model.sample_prior(4, seed=1))
    assert not torch.equal(z, model.sample_prior(4, seed=1, step=1))
    with torch.no_grad():
        fake, images = model.generator(z), model.decode(z)
        assert fake.shape == (4, *(shape if len(shape) == 3 else (1, *shape))) and fake.abs().max() <= 1
        assert images.shape == (4, *shape) and 0 <= images.min() and images.max() <= 255
        assert model.discriminator(fake).shape == (4, 1)
        # an image does not depend on the others
        assert torch.allclose(images[:1], model.decode(z[:1]), atol=1e-3)


@pytest.mark.parametrize('shape', [(30, 30), (8, 8), (3, 62, 64)])
def test_images_that_do_not_fit_a_dcgan_fit_a_linear_gan(shape):
    with pytest.raises(ValueError, match='for model dcgan, got .* use --model linear'):
        models.GAN('dcgan', 5, shape)
    models.GAN('linear', 5, shape)
