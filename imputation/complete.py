"""Images with their missing pixels filled in, and how good that is where the truth is known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from imputation.predictive import DRAWS, Noise, Predictive, crps, interval, measure_noise, predict
from training import ImageDataset, TrainedRun, infer_latents
from training.batches import copies

# What grade_imputation gives, at most.
OF_INCOMPLETE = (
    *('missing', 'missing_kind', 'n_imputed', 'test_rmse_missing', 'test_rmse_observed'),
    *('coverage_90', 'test_crps'),
)
GRADED_IMAGES = 100  # test images that a run completes for its grades, at most: all would take a minute


@dataclass
class Imputation:
    """Completed images, in 0-255; observed pixels are as they came.

    mean: the conditional mean, float32 [N, *shape]. std: of the predictive distribution, float32 [N, *shape],
    0 where a pixel is observed. draws: M imputations, uint8 [M, N, *shape]. grades: see impute.
    """

    mean: Tensor
    std: Tensor
    draws: Tensor
    grades: dict[str, float | None]


def originals(dataset: ImageDataset, index: Tensor) -> tuple[Tensor, Tensor]:
    """Images [B, *shape] in 0-255 as they came, with what is under their missing pixels; and which pixels are
    observed."""
    x = dataset.X[index].float()
    observed = torch.ones_like(x, dtype=torch.bool) if dataset.observed is None else dataset.observed[index]
    return x, observed


def sums(predictive: Predictive, x: Tensor, missing: Tensor) -> Tensor:
    """What the grades of a chunk of images x [B, *shape] in 0-1 are made of, float64 [6]."""
    error, samples = (predictive.mean().cpu() - x).square(), predictive.samples(DRAWS).cpu()
    low, high = interval(samples)
    inside, score = (low <= x) & (x <= high), crps(samples, x)
    terms = [error[missing], error[~missing], inside[missing], score[missing], missing, ~missing]
    return torch.stack([term.double().sum() for term in terms])


def impute(
    trained: TrainedRun, dataset: ImageDataset, m: int = 0, fit: bool = True, noise: Noise | None = None
) -> Imputation:
    """Complete images under a trained model, m times besides the conditional mean.

    Latents are fitted to the observed pixels of the images and of their shifted copies. Copies are completed
    with errors of their own, of which the mean over an image and its copies has fewer. fit: False for the
    usual way with an encoder: its posterior of the image, as it is. noise: measured on other images; None: on
    these.

    The grades are the root mean squared error of the conditional mean in 0-1 (test_rmse_missing of missing
    pixels, test_rmse_observed of observed ones); of the missing pixels the share inside intervals of 90%
    (coverage_90), and the continuous ranked probability score (test_crps). They are None where the truth is
    not known.
    """
    shifts = fit and copies(len(dataset), dataset.shape) > 0  # they help even where training had none
    latents, _ = infer_latents(trained, dataset, refine=fit, copies=shifts, label='imputing')
    noise, k = noise or measure_noise(trained, dataset, fit, shifts), max(DRAWS, 4 * m)
    means, stds, draws, total = [], [], [], torch.zeros(6, dtype=torch.float64)
    for predictive in predict(trained, dataset, latents, noise, k):
        x, observed = originals(dataset, predictive.index.cpu())
        means.append(torch.where(observed, x, 255 * predictive.mean().cpu()))
        stds.append(torch.where(observed, 0.0, 255 * predictive.std().cpu()))
        draws.append(torch.where(observed, x, 255 * predictive.samples(m).cpu()).round().byte())
        total += sums(predictive, x / 255, ~observed)
    missing_error, observed_error, inside, score, missing, observed = total.tolist()
    grades = {
        'test_rmse_missing': (missing_error / max(missing, 1)) ** 0.5,
        'test_rmse_observed': (observed_error / max(observed, 1)) ** 0.5,
        'coverage_90': inside / max(missing, 1),
        'test_crps': score / max(missing, 1),
    }
    if not dataset.known:
        grades |= dict.fromkeys(('test_rmse_missing', 'coverage_90', 'test_crps'))
    return Imputation(torch.cat(means), torch.cat(stds), torch.cat(draws, 1), grades)


def grade_imputation(trained: TrainedRun, test_set: ImageDataset) -> dict[str, float | None]:
    """The grades of the first GRADED_IMAGES images, and their number; of users' own incomplete images also
    the share of their pixels that is missing."""
    some, grades = test_set.part(slice(GRADED_IMAGES)), {}
    if not trained.config.missing:
        _, observed = originals(some, torch.arange(len(some)))
        grades = {'missing': 1 - float(observed.float().mean()), 'missing_kind': 'own'}
    return {**grades, **impute(trained, some).grades, 'n_imputed': len(some)}
