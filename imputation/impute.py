"""Images with their missing pixels filled in, and how good that is where the truth is known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from imputation.predictive import DRAWS, crps, interval, measure_noise, predict
from training import ImageDataset, TrainedRun, infer_latents


@dataclass
class Imputation:
    """Completed images, in 0-255; observed pixels are as they came.

    mean: the conditional mean, float32 [N, *shape]. std: of the predictive distribution, float32 [N, *shape],
    0 where a pixel is observed. draws: M imputations, uint8 [M, N, *shape].
    """

    mean: Tensor
    std: Tensor
    draws: Tensor


def truth(dataset: ImageDataset, index: Tensor) -> tuple[Tensor, Tensor]:
    """Images [B, *shape] in 0-255 with what is under their missing pixels, and which pixels are observed."""
    x = dataset.X[index].float()
    observed = torch.ones_like(x, dtype=torch.bool) if dataset.observed is None else dataset.observed[index]
    return x, observed


def impute(trained: TrainedRun, dataset: ImageDataset, m: int = 0) -> Imputation:
    """Complete images under a trained model, m times besides the conditional mean."""
    latents, _ = infer_latents(trained, dataset, refine=True, copies=True, label='imputing')
    noise, k = measure_noise(trained, dataset), max(DRAWS, 4 * m)
    means, stds, draws = [], [], []
    for predictive in predict(trained, dataset, latents, noise, k):
        x, observed = truth(dataset, predictive.index.cpu())
        means.append(torch.where(observed, x, 255 * predictive.mean().cpu()))
        stds.append(torch.where(observed, 0.0, 255 * predictive.std().cpu()))
        samples = 255 * predictive.samples(m).cpu() if m else x[None, :0].expand(0, *x.shape)
        draws.append(torch.where(observed, x, samples).round().byte())
    return Imputation(torch.cat(means), torch.cat(stds), torch.cat(draws, 1))


def grade_imputation(trained: TrainedRun, dataset: ImageDataset) -> dict[str, float]:
    """How good the predictions of pixels are: root mean squared errors of the conditional mean in 0-1, of
    missing and of observed pixels; of the missing ones the share inside the intervals of 90%, and the CRPS.

    dataset: images with missing pixels whose truth is known.
    """
    latents, _ = infer_latents(trained, dataset, refine=True, copies=True, label='imputing')
    noise = measure_noise(trained, dataset)
    sums = torch.zeros(6, dtype=torch.float64)
    for predictive in predict(trained, dataset, latents, noise):
        x, observed = truth(dataset, predictive.index.cpu())
        x, missing = x / 255, ~observed
        error = (predictive.mean().cpu() - x).square()
        samples = predictive.samples(DRAWS).cpu()
        low, high = interval(samples)
        inside = ((low <= x) & (x <= high))[missing].sum()
        terms = [error[missing].sum(), error[observed].sum(), inside, crps(samples, x)[missing].sum()]
        sums += torch.stack([*(term.double() for term in terms), missing.sum(), observed.sum()])
    missing_error, observed_error, inside, score, missing, observed = sums.tolist()
    return {
        'missing': missing / (missing + observed),
        'test_rmse_missing': (missing_error / max(missing, 1)) ** 0.5,
        'test_rmse_observed': (observed_error / max(observed, 1)) ** 0.5,
        'coverage_90': inside / max(missing, 1),
        'test_crps': score / max(missing, 1),
    }
