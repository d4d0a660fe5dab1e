"""Grades and samples of a trained model: the course's loss, neighbours, draws from the prior and from a mixture."""

import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier

import frechet
import training

GRADE_BATCH = 64  # the course's loss depends on the batch size: figures compare at 64 only
MIXTURE_COMPONENTS = 40
NEIGHBOURS = 5
TRAIN_GRADED = 100_000  # training images whose loss is reported: of a million it would take minutes


def reconstruction_loss(x, x_rec):
    """The course's loss: |x - x_rec| (Frobenius) over the number of elements; a 0-d tensor.

    x, x_rec: images of one shape, 0-255. It falls with the batch size B as 1 / sqrt(B). ValueError: other shapes.
    """
    if x.shape != x_rec.shape:
        raise ValueError(
            f'expected images and reconstructions of one shape, got {list(x.shape)} and {list(x_rec.shape)}'
        )
    return torch.linalg.vector_norm(x - x_rec) / x.numel()


def evaluate_model(model, test_dl, opt, latents, epochs, device):
    """The course's grade: fit latents for `epochs` passes over test_dl by opt, then the mean loss over batches, a float.

    latents: leaf tensor [N, K] with a row for each image of the data set, the only thing that opt holds.
    test_dl yields (i [B], x [B, *shape] in 0-255). epochs may be 0; then opt is not used.
    """
    model.eval()
    for _ in range(epochs):
        for i, x in test_dl:
            loss = reconstruction_loss(x.to(device), model(latents[i.to(latents.device)]))
            opt.zero_grad()
            loss.backward(inputs=[latents])  # the decoder stays as it is
            opt.step()
    with torch.no_grad():
        losses = [
            reconstruction_loss(x.to(device), model(latents[i.to(latents.device)])).item() for i, x in test_dl
        ]
    return float(np.mean(losses))


def course_loss(model, dataset, latents):
    """reconstruction_loss of latents [N, K] as the course's evaluate_model returns it, at batch size 64."""
    model.calls = 0  # a variational model samples: the same samples at each grading
    loader = torch.utils.data.DataLoader(dataset, batch_size=GRADE_BATCH)
    return evaluate_model(model, loader, None, latents, epochs=0, device=latents.device)


def mean_loss(model, dataset, latents):
    """The same at the posterior means instead of samples."""

    class AtMean(torch.nn.Module):
        def forward(self, rows):
            return model.decode(model.mean(rows))

    loader = torch.utils.data.DataLoader(dataset, batch_size=GRADE_BATCH)
    return evaluate_model(AtMean(), loader, None, latents, epochs=0, device=latents.device)


def fit_test_latents(model, state, dataset, passes=training.INFER_PASSES):
    """Latents [n, K] of the data set's images under a trained model: what the encoder says, or where there is none, the
    linear start and `passes` passes."""
    device = model.pixel_bias.device
    images = training.Images(dataset, device)
    if model.encoder:
        return training.encode(model, images, torch.arange(images.n, device=device))
    start = training.start_inference(model, state['warm_start'].to(device), images)
    return training.infer(
        model,
        start,
        images,
        state['config'],
        use=training.INFER,
        passes=passes,
        lr=training.INFER_LR,
        label='fitting test latents',
    )


@torch.no_grad()
def grade(model, state, test):
    """Grades on a test ImageDataset, a dict for results.json, and the latents [n, K] fitted to it.

    state: a trained run's checkpoint. Neighbours are None where the test set has other classes, or none.
    """
    started = time.perf_counter()
    with torch.enable_grad():
        latents = fit_test_latents(model, state, test)
    seconds = time.perf_counter() - started
    test_terms = {}
    if model.dist:  # of a point posterior the ELBO is not a bound on anything
        reconstruction, kl = training.mean_negative_elbo(
            model,
            latents,
            training.Images(test, latents.device),
            state['config'],
            seed=training.key(state['config']['seed'], training.GRADE),
        )
        test_terms = {
            'test_negative_elbo': reconstruction + kl,
            'test_reconstruction': reconstruction,
            'test_kl': kl,
        }
    codes, labels = model.mean(state['latents']).cpu(), state['labels'].cpu()
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(codes))).fit(codes, labels)
    same_classes = test.labelled and test.name == state['config']['dataset']
    return {
        'dataset': test.name,
        'n_test': len(test),
        'test_loss': course_loss(model, test, latents),
        'test_loss_mean': mean_loss(model, test, latents),
        **test_terms,
        'knn_accuracy': neighbours.score(model.mean(latents).cpu(), test.y) if same_classes else None,
        'test_seconds': round(seconds, 1),
    }, latents


@torch.no_grad()
def grade_training(model, state, train):
    """Grades of the training latents (the first TRAIN_GRADED), a dict for results.json: course loss (sampled) and mean KL in
    nats."""
    train, latents = train.part(slice(TRAIN_GRADED)), state['latents'][:TRAIN_GRADED]
    ids = torch.arange(len(latents), device=latents.device)
    _, kl = model.sample(model.params(latents), seed=0, step=0, index=ids)
    return {'train_loss': course_loss(model, train, latents), 'kl': float(kl.mean())}


AMORTISATION_PASSES = (0, 2, 4, 8, 16, 32)
AMORTISATION_IMAGES = 1000  # of the test set, at most
AMORTISATION_DRAWS = 5  # samples of each image that a figure is the mean of


def amortisation(model, state, test):
    """What an encoder leaves to be gained (Cremer et al., "Inference suboptimality in variational autoencoders", 2018):
    the negative ELBO in nats of test images whose latents were fitted as a VAD's are, the decoder frozen, for some
    passes, from where the encoder puts them and from the prior.

    Returns a list of dicts: passes, start ('encoder' or 'prior'), negative_elbo, reconstruction, kl.
    """
    config, device = state['config'], model.pixel_bias.device
    images = training.Images(test, device)
    rows = torch.arange(min(images.n, AMORTISATION_IMAGES), device=device)
    encoded = training.encode(model, images, rows)
    table = []
    for start, latents in (
        ('encoder', encoded),
        ('prior', torch.zeros_like(encoded)),
    ):  # all zeros are the prior
        for passes in AMORTISATION_PASSES:
            fitted = training.infer(
                model,
                latents.clone(),
                images,
                config,
                use=training.INFER,
                passes=passes,
                lr=training.INFER_LR,
                label=f'fitting from the {start}',
            )
            terms = [
                training.mean_negative_elbo(
                    model,
                    fitted,
                    images,
                    config,
                    step=draw,
                    seed=training.key(config['seed'], training.GRADE),
                )
                for draw in range(AMORTISATION_DRAWS)
            ]
            reconstruction, kl = np.mean(terms, 0).tolist()
            table.append(
                {
                    'passes': passes,
                    'start': start,
                    'negative_elbo': reconstruction + kl,
                    'reconstruction': reconstruction,
                    'kl': kl,
                }
            )
    return table


@torch.no_grad()
def sample_prior(model, n, seed):
    """n images decoded from draws of the prior: [n, 28, 28] in 0-255."""
    z = model.sample_prior(n, seed=training.key(seed, training.PRIOR))
    return torch.cat([model.decode(part) for part in z.split(1000)])


def grade_samples(model, config, train, test):
    """Grades of draws from the prior, a dict for results.json: Fréchet distance, classes. Any system's.

    train, test: the ImageDatasets of the run, or the test images alike (other ones are no match for its samples).
    """
    return frechet.grade(sample_prior(model, frechet.SAMPLES, config['seed']), train, test)


@torch.no_grad()
def sample_mixture(model, latents, n, seed):
    """n images decoded from a Gaussian mixture fitted to the codes of the posterior means of latents [N, K]."""
    codes = model.code(model.mean(latents)).cpu().double().numpy()
    if len(codes) == 1:
        codes = codes.repeat(2, 0)  # scikit-learn wants two
    components = max(1, min(MIXTURE_COMPONENTS, len(codes) // 20))  # 20 codes or more to a component
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # 50 iterations are enough for samples
        mixture = GaussianMixture(components, reg_covar=1e-3, max_iter=50, random_state=seed).fit(
            codes[:20_000]
        )
    draws = torch.as_tensor(mixture.sample(n)[0], dtype=torch.float32, device=latents.device)
    draws = draws[
        torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(latents.device)
    ]  # they come sorted
    return torch.cat([255 * model.render_code(part) for part in draws.split(1000)])
