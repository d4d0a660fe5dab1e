import json
import math
import os
import signal

import grading
import pytest
import torch
from sklearn.linear_model import Ridge

import kernels
import models
import networks
import training
import utils

MODELS = [None, *kernels.FAMILIES]


def make(dist, latent_dim=8, seed=0, encoder=None):
    torch.manual_seed(seed)
    if encoder:
        return (
            models.VariationalAutoEncoder(encoder, dist, latent_dim)
            if dist
            else models.AutoEncoder(encoder, latent_dim)
        )
    return models.VariationalAutoDecoder(dist, latent_dim) if dist else models.AutoDecoder(latent_dim)


def make_config(**changes):
    return {
        'system': 'vad',
        'dist': 'gaussian',
        'dataset': 'digits',
        'latent_dim': 8,
        'decoder': 'groupnorm',
        'epochs': 3,
        'batch_size': 16,
        'lr': 4e-3,
        'latent_lr': 0.1,
        'beta': 1.0,
        'obs_std': 0.1,
        'seed': 0,
        **changes,
    }


# ---------------------------------------------------------------------------------------------- images


def test_rows_are_images_and_their_shifted_copies(digits):
    train, _ = digits
    images = training.Images(train, 'cpu')
    n = len(train)
    assert len(images) == 5 * n
    x = train.X / 255
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    for copy, (top, left) in enumerate(training.SHIFTS):
        rows = torch.tensor([copy * n, copy * n + n - 1])
        torch.testing.assert_close(images[rows], padded[[0, n - 1], top : top + 28, left : left + 28])
    torch.testing.assert_close(images[torch.arange(n)], x)


@pytest.mark.parametrize('n', [1, 2, 7, 100])
def test_an_epoch_shows_every_image_and_some_copies(n):
    order = training.epoch_order(n, seed=0, epoch=3)
    assert len(order) == 3 * n == len(order.unique())
    assert (order < n).sum() == n and order.max() < 5 * n
    assert torch.equal(order, training.epoch_order(n, seed=0, epoch=3))
    if n > 2:
        for other in (
            dict(seed=1, epoch=3),
            dict(seed=0, epoch=4),
            dict(seed=4096, epoch=3),  # 4096 << 20 is 2^32
            dict(seed=2**32 - 1, epoch=3),
        ):
            assert not torch.equal(order, training.epoch_order(n, **other))


# ----------------------------------------------------------------------------------------------- start


@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('n, latent_dim', [(64, 8), (1, 4), (2, 3), (5, 20), (64, 1)])
def test_latents_start_near_the_prior(digits, dist, n, latent_dim):
    train = utils.ImageDataset(digits[0].X[:n], digits[0].y[:n], 'digits')
    model = make(dist, latent_dim)
    images = training.Images(train, 'cpu')
    table = training.start_latents(model, images, obs_std=0.1)
    assert table.shape == (5 * n, latent_dim * model.params_per_dim) and torch.isfinite(table).all()
    _, kl = model.sample(model.params(table), seed=0, step=0, index=torch.arange(5 * n))
    assert kl.mean() < 4 * latent_dim  # nats: within reach of N(0, 1), whatever the images


def test_a_model_starts_at_the_mean_image(digits):
    model, images = make(None), training.Images(digits[0], 'cpu')
    training.start_pixel_bias(model, images)
    mean = images[torch.arange(images.n)].mean(0)
    torch.testing.assert_close(torch.sigmoid(model.pixel_bias.data), mean.clamp(0.02, 0.98))


def test_components_that_carry_little_start_at_the_prior_and_unread(digits):
    model = make('gaussian', 40)
    table = training.start_latents(model, training.Images(digits[0], 'cpu'), obs_std=0.3)
    off = (model.params(table) == 0).all(0).all(0)  # [D]
    assert 0 < off.sum() < 40
    assert (model.decoder.stem.weight[:, off] == 0).all() and (model.decoder.stem.weight[:, ~off] != 0).any(
        0
    ).all()


def test_ridge_regression_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.rand(90, 28, 28, generator=generator), torch.randn(90, 3, generator=generator)
    weights = training.ridge_regression(x.split(40), targets.split(40), penalty=0.05)
    ridge = Ridge(alpha=0.05 * 90).fit(training.features(x).numpy(), targets.numpy())
    torch.testing.assert_close(weights[:-1].T, torch.as_tensor(ridge.coef_), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights[-1], torch.as_tensor(ridge.intercept_), rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------------------------- Adam


def test_row_adam_equals_torch_on_the_rows_it_touches():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(10, 4, generator=generator)
    rows = torch.tensor([7, 2, 5])
    reference = table[rows].clone().requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.1)
    ours = table.clone()
    row_adam = training.RowAdam(ours)
    for _ in range(5):
        gradient = torch.randn(3, 4, generator=generator)
        reference.grad = gradient
        adam.step()
        row_adam.step(rows, gradient, 0.1)
    torch.testing.assert_close(ours[rows], reference.detach())
    others = [0, 1, 3, 4, 6, 8, 9]
    assert (
        torch.equal(ours[others], table[others])
        and not row_adam.m[others].any()
        and not row_adam.count[others].any()
    )


def test_row_adam_counts_each_row_by_itself():
    table = torch.zeros(2, 3)
    adam = training.RowAdam(table)
    for _ in range(9):
        adam.step(torch.tensor([0]), torch.ones(1, 3), 0.1)
    adam.step(torch.tensor([1]), torch.full((1, 3), 1e-3), 0.1)
    torch.testing.assert_close(
        table[1], torch.full((3,), -0.1), rtol=1e-3, atol=0
    )  # a first step has length lr


class Recorded(training.Replay):
    """A graph for machines without a GPU: what was captured is called again."""

    def warm_up(self):
        self.work(*self.places)

    def capture(self):
        class Graph:
            replay = self.warm_up

        return Graph


def graphed_and_not(monkeypatch, train, replay, device, **changes):
    """Tables and models after three epochs, the last batch of each of which is smaller; as usual, and by replay."""
    ends = []
    for wrap in (lambda work: work, replay):
        monkeypatch.setattr(training, 'replayed', lambda work, *_: wrap(work))
        model = make('laplace').to(device).train()
        trainer = training.Trainer(
            model, training.Images(train, device), make_config(batch_size=20, **changes)
        )
        for epoch in range(3):
            for batch in trainer.images.epoch(0, epoch, 20):
                trainer.step(*batch)
        latents = training.infer(
            model,
            trainer.table[:64].clone(),
            trainer.images,
            make_config(),
            use=training.REFINE,
            passes=5,
            lr=0.05,
            label='refining',
        )
        ends.append(
            {
                **trainer.state_dict()['shares'],
                **model.state_dict(),
                'history': trainer.history,
                'latents': latents,
            }
        )
    for name, x in ends[0].items():
        torch.testing.assert_close(x, ends[1][name], rtol=1e-3, atol=1e-4)


def test_a_step_reads_all_that_changes_from_its_arguments(digits, monkeypatch):
    replays = []
    graphed_and_not(
        monkeypatch, digits[0], lambda work: replays.append(Recorded(work, 'cpu')) or replays[-1], 'cpu'
    )
    assert [replay.calls for replay in replays] == [27, 5] and all(replay.graph for replay in replays)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='a CUDA graph cannot be captured without a GPU')
def test_a_cuda_graph_trains_as_its_launches_one_by_one(digits, monkeypatch):
    graphed_and_not(monkeypatch, digits[0], lambda work: training.Replay(work, torch.device('cuda')), 'cuda')


def test_one_cycle():
    factors = [training.one_cycle(i, 1000, 0.1) for i in range(1000)]
    assert 0 < factors[0] and max(factors) == factors[99] == 1 and math.isclose(factors[-1], 0.01)
    assert factors[:100] == sorted(factors[:100]) and factors[99:] == sorted(factors[99:], reverse=True)
    assert training.one_cycle(0, 1, 0.1) > 0  # a single step moves too


# -------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize('dist', MODELS)
def test_inference_leaves_the_decoder_alone_and_lowers_the_loss(digits, dist):
    model = make(dist)
    images = training.Images(digits[1], 'cpu')
    start = training.start_latents(model, images, 0.1)[:40]
    model.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def loss(latents):
        rows = torch.arange(40)
        return sum(
            t.mean()
            for t in training.negative_elbo(
                model, model.params(latents), images[rows], make_config(), seed=1, step=0, ids=rows
            )
        )

    fitted = training.infer(
        model, start.clone(), images, make_config(dist=dist), use=training.INFER, passes=10, lr=0.1, label=''
    )
    assert loss(fitted) < loss(start)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_inference_does_not_depend_on_the_batches(digits, monkeypatch):
    model = make('gaussian').requires_grad_(False)
    images = training.Images(digits[1], 'cpu')
    fitted = []
    for batch in (250, 7):
        monkeypatch.setattr(training, 'INFER_BATCH', batch)
        fitted.append(
            training.infer(
                model,
                torch.zeros(40, 16),
                images,
                make_config(),
                use=training.INFER,
                passes=2,
                lr=0.01,
                label='',
            )
        )
    torch.testing.assert_close(*fitted, rtol=1e-3, atol=1e-3)


# --------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('seed', [0, 1])
def test_training_beats_the_mean_image_by_far(digits, tmp_path, dist, seed):
    train, test = digits
    model = make(dist, seed=seed)
    config = make_config(dist=dist, epochs=8, seed=seed)
    state, seconds = training.fit(model, train, config, tmp_path)
    assert seconds > 0
    mean = train.X.mean(0).expand_as(train.X)
    baseline = grading.reconstruction_loss(train.X, mean).item()
    # 64 images are one batch. The samples of a family without a scale are noisy.
    bound = 0.85 if dist and model.params_per_dim == 1 else 0.6
    assert grading.course_loss(model, train, state['latents']) < bound * baseline
    metrics = training.read_metrics(tmp_path)
    assert [m['epoch'] for m in metrics] == list(range(1, 9))
    assert metrics[-1]['loss'] < metrics[0]['loss']
    assert all(math.isclose(m['loss'], m['reconstruction'] + m['kl'], rel_tol=1e-6) for m in metrics)


@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('encoder', networks.ENCODERS)
def test_an_encoder_learns_with_its_decoder(digits, tmp_path, dist, encoder):
    train, test = digits
    model = make(dist, encoder=encoder)
    config = make_config(dist=dist, epochs=12, likelihood='bernoulli', lr=2e-3)
    state, _ = training.fit(model, train, config, tmp_path, validation=test)
    assert 'warm_start' not in state
    torch.testing.assert_close(
        state['latents'], training.encode(model, training.Images(train, 'cpu'), torch.arange(len(train)))
    )
    metrics = training.read_metrics(tmp_path)
    for name in ('loss', 'validation_loss'):
        assert metrics[-1][name] < metrics[0][name]
    last = metrics[-1]
    assert math.isclose(
        last['validation_loss'], last['validation_reconstruction'] + last['validation_kl'], rel_tol=1e-6
    )
    # what the last epoch's validation saw is what the grade finds
    images = training.Images(test, 'cpu')
    latents = training.encode(model, images, torch.arange(len(test)))
    terms = training.mean_negative_elbo(model, latents, images, config, seed=training.key(0, training.INFER))
    assert math.isclose(sum(terms), last['validation_loss'], rel_tol=1e-5)


@pytest.mark.parametrize('likelihood', ['gaussian', 'bernoulli'])
def test_the_likelihoods_equal_those_of_torch_distributions(digits, likelihood):
    model, x = make('gaussian'), digits[0].X[:5] / 255
    params, arguments = torch.zeros(5, 2, 8), dict(seed=0, step=0, ids=torch.arange(5))
    reconstruction, _ = training.negative_elbo(
        model, params, x, make_config(likelihood=likelihood), **arguments
    )
    z, _ = model.sample(params, **arguments)
    if likelihood == 'gaussian':
        expected = -torch.distributions.Normal(model.render(z), 0.1).log_prob(x) - math.log(
            0.1 * math.sqrt(2 * math.pi)
        )
    else:  # also of pixels between 0 and 1
        expected = (
            -torch.distributions.ContinuousBernoulli(logits=model.logits(z)).log_prob(x)
            + torch.distributions.ContinuousBernoulli(logits=model.logits(z))._cont_bern_log_norm()
        )
    torch.testing.assert_close(reconstruction, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-3)


class Stop(Exception):
    pass


def fit_until(model, train, config, folder, stop_at, how, monkeypatch, resume=None):
    """fit, but at the step stop_at something happens before it."""
    step = training.Trainer.step

    def interrupted(self, *batch):
        if self.step_number == stop_at:
            how(self)
        step(self, *batch)

    with monkeypatch.context() as m:
        m.setattr(training.Trainer, 'step', interrupted)
        return training.fit(model, train, config, folder, resume=resume)


def raise_stop(_):
    raise Stop


@pytest.mark.parametrize(
    'dist, encoder', [(None, None), ('gaussian', None), (None, 'conv'), ('laplace', 'lstm')]
)
@pytest.mark.parametrize(
    'stop_at', [13, 24, 30]
)  # 12 steps an epoch: in the second, at its end, in the third
@pytest.mark.parametrize('gently', [True, False])
def test_a_resumed_run_ends_as_an_undisturbed_one_bit_for_bit(
    digits, tmp_path, monkeypatch, dist, encoder, stop_at, gently
):
    train, _ = digits
    config = make_config(dist=dist)
    (tmp_path / 'whole').mkdir()
    training.fit(make(dist, encoder=encoder), train, config, tmp_path / 'whole')
    broken = tmp_path / 'broken'
    broken.mkdir()

    def how(trainer):  # Ctrl-C, which saves in mid-epoch, or a death between two checkpoints
        os.kill(os.getpid(), signal.SIGINT) if gently else raise_stop(trainer)

    with pytest.raises(KeyboardInterrupt if gently else Stop):
        fit_until(make(dist, encoder=encoder), train, config, broken, stop_at, how, monkeypatch)
    state = utils.load_checkpoint(broken / 'checkpoint.pt')
    assert state['step'] == (stop_at + 1 if gently else stop_at // 12 * 12)
    training.fit(
        make(dist, seed=9, encoder=encoder), train, config, broken, resume=state
    )  # other weights at first: all must be restored
    assert (broken / 'checkpoint.pt').read_bytes() == (tmp_path / 'whole' / 'checkpoint.pt').read_bytes()
    drop_seconds = [
        [{k: v for k, v in m.items() if k != 'seconds'} for m in training.read_metrics(f)]
        for f in (broken, tmp_path / 'whole')
    ]
    assert drop_seconds[0] == drop_seconds[1]


def test_weights_that_the_last_step_ruined_are_not_saved(digits, tmp_path, monkeypatch):
    def poison(trainer):  # the loss of this step is had before its update, and finite
        update = trainer.adam.step
        trainer.adam.step = lambda: (update(), trainer.model.pixel_bias.data.fill_(float('inf')))

    with pytest.raises(training.NotFinite, match=r'at step 24 \(epoch 3\)'):
        fit_until(make('gaussian'), digits[0], make_config(), tmp_path, 23, poison, monkeypatch)
    assert utils.load_checkpoint(tmp_path / 'checkpoint.pt')['step'] == 12


@pytest.mark.parametrize('dist', MODELS)
@pytest.mark.parametrize('n, identical', [(1, False), (2, False), (3, True)])
def test_few_or_identical_images(digits, tmp_path, dist, n, identical):
    X = digits[0].X[:1].expand(n, -1, -1) if identical else digits[0].X[:n]
    train = utils.ImageDataset(X, digits[0].y[:n], 'digits')
    model = make(dist)
    state, _ = training.fit(model, train, make_config(dist=dist, epochs=1), tmp_path)
    results, latents = grading.grade(model, state, train)
    assert torch.isfinite(latents).all() and math.isfinite(results['test_loss'])
    assert torch.isfinite(grading.sample_mixture(model, state['latents'], 5, seed=0)).all()


def test_a_cut_off_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"epoch": 1}\n{"epo')
    assert training.read_metrics(tmp_path) == [{'epoch': 1}]


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(digits, tmp_path, monkeypatch):
    def poison(trainer):
        trainer.table.fill_(float('nan'))

    with pytest.raises(
        training.NotFinite,
        match=r'expected a finite loss, got none at step 17 \(epoch 2\); nothing after the last good',
    ):
        fit_until(make('gaussian'), digits[0], make_config(), tmp_path, 17, poison, monkeypatch)
    state = utils.load_checkpoint(tmp_path / 'checkpoint.pt')
    assert state['step'] == 12 and torch.isfinite(state['shares']['table']).all()
    assert len(json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])) == 5
