import itertools

import pytest
import torch

import kernels
import models
import networks

# ---------------------------------------------------------------------------------- encoders and decoders


@pytest.mark.parametrize('encoder', networks.ENCODERS)
@pytest.mark.parametrize('dist', [None, *kernels.FAMILIES])
@pytest.mark.parametrize('shape', [(28, 28), (3, 64, 64), (3, 20, 12), (8, 8)])
def test_encoders_give_latents_of_images_of_any_shape(dist, encoder, shape):
    torch.manual_seed(0)
    if dist:
        model = models.VariationalAutoEncoder(encoder, dist, 3, shape=shape)
    else:
        model = models.AutoEncoder(encoder, 3, shape=shape)
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    latents = model.encoder(x)
    assert latents.shape == (5, model.latent_size)
    model(latents).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.encoder.parameters())
    model.eval()  # an image's latents are its own, whatever the batch
    torch.testing.assert_close(model.encoder(x[2:3]), model.encoder(x)[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('encoder', networks.ENCODERS)
@pytest.mark.parametrize('shape', [(28, 28), (3, 20, 12)])
def test_encoders_of_incomplete_images_read_the_mask(encoder, shape):
    torch.manual_seed(0)
    model = models.VariationalAutoEncoder(encoder, 'gaussian', 3, shape=shape, masked=True)
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    x[..., :4, :] = 0  # missing, or black
    observed = torch.ones(5, *shape, dtype=torch.bool)
    black = model.encode(x, observed)
    assert black.shape == (5, 6) and torch.equal(model.encode(x), black)
    observed[..., :4, :] = False
    assert (model.encode(x, observed) != black).any(1).all()


@pytest.mark.parametrize(
    'decoder, shape',
    [
        ('dcgan4x4', (3, 64, 64)),
        ('dcgan7x7', (32, 32)),
        ('conv6', (3, 28, 28)),
        ('conv4-relu', (32, 32)),
        ('conv64', (28, 28)),
        ('groupnorm', (3, 30, 32)),
    ],
)
def test_images_that_a_decoder_cannot_make(decoder, shape):
    with pytest.raises(ValueError, match=f'expected images .* for decoder {decoder}, got '):
        models.AutoDecoder(4, decoder, shape)


SHAPES = [
    *((1, 1), (1, 2), (1, 28), (28, 1), (2, 2), (3, 5), (4, 4), (5, 7), (6, 6), (8, 4), (27, 29), (28, 28)),
    *((32, 32), (64, 64), (4, 400), (400, 4), (9, 100), (1, 1000), (2000, 2)),
    *((3, 1, 1), (3, 1, 4), (3, 4, 4), (3, 5, 300), (3, 28, 28), (3, 64, 64)),
]


@pytest.mark.parametrize('name', [*networks.ENCODERS, *networks.DECODERS])
def test_a_network_says_what_to_use_instead_or_works_with_a_batch_of_one(name):
    """The last batch of an epoch may be a single image."""
    accepted = 0
    for kind, table in (('encoder', networks.ENCODERS), ('decoder', networks.DECODERS)):
        for shape in SHAPES if name in table else ():
            try:
                network = table[name](2, shape)
            except ValueError as error:
                assert f'for {kind} {name}, got ' in str(error) and f'; use --{kind} ' in str(error)
                continue
            for batch in (1, 2):
                size, expected = ((*shape,), (2,)) if kind == 'encoder' else ((2,), shape)
                assert network(torch.rand(batch, *size)).shape == (batch, *expected)
            accepted += 1
    assert accepted


# -------------------------------------------------------------------------- the LSTM report's networks


@pytest.mark.parametrize('name', networks.CONV_DECODERS)
def test_decoders_of_the_lstm_report(name):
    decoder = networks.DECODERS[name](5, (28, 28))
    modules = list(decoder.up)
    convolutions = [m for m in modules if isinstance(m, torch.nn.ConvTranspose2d)]
    norms = [m for m in modules if isinstance(m, torch.nn.BatchNorm2d)]
    slopes = {m.negative_slope for m in modules if isinstance(m, torch.nn.LeakyReLU)}
    assert len(convolutions) == int(name[4]) and modules[-1] is convolutions[-1]
    assert len(norms) == ('batchnorm' in name) * (len(convolutions) - 1)
    assert slopes == {0.0 if 'relu' in name else 0.2 if 'leaky0.2' in name else 0.01}
    image = decoder(torch.randn(3, 5))
    assert image.shape == (3, 28, 28)
    image.square().sum().backward()
    assert all(p.grad.any() for p in decoder.parameters())


def test_the_parameters_of_conv6_have_the_names_of_old_checkpoints():
    sizes = (16, 13, 9), (13, 10, 7), (10, 7, 5), (7, 4, 5), (4, 2, 3), (2, 1, 3)
    expected = {'stem.weight': (64, 7), 'stem.bias': (64,)}
    for i, (c_in, c_out, kernel) in enumerate(sizes):
        expected |= {f'up.{2 * i}.weight': (c_in, c_out, kernel, kernel), f'up.{2 * i}.bias': (c_out,)}
    state = networks.DECODERS['conv6'](7, (28, 28)).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_the_last_state_of_the_plain_lstm_is_means_and_log_scales():
    model = models.VariationalAutoEncoder('lstm-plain', 'gaussian', 64, 'conv4')
    network = model.encoder
    assert network.lstm.hidden_size == 128 and not list(network.head.parameters())
    x = torch.rand(2, 28, 28)
    _, (state, _) = network.lstm(x)
    params = model.params(model.encode(x))
    assert torch.equal(params[:, 0], state[0, :, :64]) and torch.equal(params[:, 1], state[0, :, 64:])


# ------------------------------------------------------------------- an encoder and its mirror image


@pytest.mark.parametrize('shape', [(28, 28), (3, 64, 64), (3, 20, 31), (9, 8)])
@pytest.mark.parametrize('kernel', range(2, 7))
@pytest.mark.parametrize('stride', range(1, 5))
def test_the_mirror_gives_images_of_the_shape_that_the_encoder_took(shape, kernel, stride):
    for n, padding, linear in itertools.product((2, 4), range(kernel // 2 + 1), ([], [7, 5])):
        layer = {'channels': 5, 'kernel': kernel, 'stride': stride, 'padding': padding}
        options = {'architecture': {'convolutions': [layer] * n, 'linear': linear}, 'dropout': 0.1}
        try:
            model = models.AutoEncoder('conv3', 4, 'mirror', shape, **options)
        except ValueError as error:
            assert 'expected images that are large enough' in str(error) and '\n' not in str(error)
            continue
        codes = model.encoder(torch.rand(2, *shape))
        assert codes.shape == (2, 4) and model(codes).shape == (2, *shape)
        assert isinstance(model.decoder.stem, torch.nn.Linear) and model.decoder.stem.in_features == 4


def test_the_mirror_has_the_encoders_sizes_in_the_opposite_order():
    layers = [dict(channels=c, kernel=3, stride=2, padding=p) for c, p in ((4, 1), (8, 1), (16, 0))]
    sizes = networks.map_sizes({'convolutions': layers}, (28, 28))
    assert sizes == [(1, 28, 28), (4, 14, 14), (8, 7, 7), (16, 3, 3)]


def test_a_convolution_that_is_wider_than_its_input():
    layer = dict(channels=4, kernel=6, stride=1, padding=0)
    with pytest.raises(ValueError, match='got a map of 3 x 3 for kernel 6 and padding 0 of layer 1'):
        networks.map_sizes({'convolutions': [layer]}, (3, 3))
