import commands
import pytest
import torch

import kernels
import models
import networks

MODELS = [None, *kernels.FAMILIES]  # None: the auto-decoder


SHAPES = {'conv64': (3, 64, 64)}  # decoders for other images than 28 x 28 grey ones


def make(dist, latent_dim=6, decoder='groupnorm', shape=networks.SHAPE, encoder=None):
    torch.manual_seed(0)
    kind = [] if dist is None else [dist]
    if encoder:
        return (models.VariationalAutoEncoder if dist else models.AutoEncoder)(
            encoder, *kind, latent_dim, decoder, shape
        )
    return (models.VariationalAutoDecoder if dist else models.AutoDecoder)(*kind, latent_dim, decoder, shape)


def random_latents(model, n=5):
    return torch.randn(n, model.params_per_dim * model.latent_dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('decoder', networks.DECODERS)
@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('n, latent_dim', [(1, 1), (5, 6)])
def test_models_are_called_as_the_course_calls_them(dist, decoder, n, latent_dim):
    shape = SHAPES.get(decoder, networks.SHAPE)
    model = make(dist, latent_dim, decoder, shape).eval()
    latents = random_latents(model, n).requires_grad_()
    assert latents.shape[1] == latent_dim * (len(kernels.family(dist).parameters) if dist else 1)
    images = model(latents)
    assert images.shape == (n, *shape) and 0 <= images.min() and images.max() <= 255
    images.sum().backward()
    assert latents.grad.abs().sum() > 0 and torch.isfinite(latents.grad).all()
    assert model.decode(model.mean(latents)).shape == (n, *shape)


@pytest.mark.parametrize('encoder', networks.ENCODERS)
@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('shape', [(28, 28), (3, 64, 64), (3, 20, 12), (8, 8)])
def test_encoders_give_latents_of_images_of_any_shape(dist, encoder, shape):
    model = make(dist, 3, shape=shape, encoder=encoder)
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    latents = model.encoder(x)
    assert latents.shape == (5, 3 * model.params_per_dim)
    model(latents).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.encoder.parameters())
    model.eval()  # an image's latents are its own, whatever the batch
    torch.testing.assert_close(model.encoder(x[2:3]), model.encoder(x)[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'decoder, shape',
    [
        ('dcgan4x4', (3, 64, 64)),
        ('dcgan7x7', (32, 32)),
        ('conv6', (3, 28, 28)),
        ('conv64', (28, 28)),
        ('groupnorm', (3, 30, 32)),
    ],
)
def test_images_that_a_decoder_cannot_make(decoder, shape):
    with pytest.raises(ValueError, match=f'expected images .* for decoder {decoder}, got '):
        models.AutoDecoder(4, decoder, shape)


@pytest.mark.parametrize('logit', [-60.0, 60.0])
def test_saturated_pixels_still_learn(logit):
    model = make(None).requires_grad_(False)
    model.pixel_bias.fill_(logit)
    latents = random_latents(model).requires_grad_()
    images = model(latents)
    assert images.max() < 1e-6 if logit < 0 else images.min() == 255
    (gradient,) = torch.autograd.grad(images.square().sum() + images.sum(), latents)
    assert gradient.abs().max() > 0


def test_unknown_names():
    with pytest.raises(ValueError, match="one of groupnorm, dcgan4x4, .*, got 'resnet'"):
        models.AutoDecoder(6, 'resnet')
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
    assert not torch.allclose(new, latents)
    torch.testing.assert_close(model.decode(model.mean(new)), before, atol=0.01, rtol=1e-4)
    if dist:
        kl = [
            model.sample(model.params(table), seed=0, step=0, index=torch.arange(50))[1].mean()
            for table in (latents, new)
        ]
        assert kl[1] < kl[0]


@pytest.mark.parametrize('dist', MODELS)
def test_start_codes_are_what_the_decoder_reads(dist):
    model = make(dist, 40)
    code = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    latents = model.initialize(code, torch.full((40,), 0.2))
    read = model.code(model.mean(latents))
    assert torch.corrcoef(torch.stack([read.flatten(), code.flatten()]))[0, 1] > 0.99


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


def test_bfloat16_is_for_the_decoder_only():
    config = {'system': 'vad', 'dist': 'gaussian', 'latent_dim': 6, 'decoder': 'dcgan7x7', 'seed': 0}
    images = []
    for flag in (False, True):
        torch.manual_seed(0)
        model = commands.build_model({**config, 'bfloat16': flag}).eval()
        latents = torch.randn(4, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
        images.append(model.decode(model.mean(latents)))
        images[-1].square().mean().backward()
        assert images[-1].dtype == latents.grad.dtype == torch.float32 and latents.grad.abs().max() > 0
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
    torch.testing.assert_close(*images, rtol=0, atol=1)  # in 0-255
    assert not torch.equal(*images)
