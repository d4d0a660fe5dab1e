"""How probable a model finds new images: log p(x), estimated by importance sampling.

    p(x) = E[ p(x | z) p(z) / r(z) ],  z ~ r

for any proposal r that covers the posterior p(z | x). Here r is an image's fitted posterior q, a little
widened, mixed with the prior:

    r = (1 - SHARE) q_wide + SHARE p

A fitted q is narrower than the true posterior; draws in its tails would get enormous weights. With the prior
mixed in, no weight exceeds p(x | z) / SHARE. The estimate's logarithm is a lower bound in expectation, which
rises with the number of draws (Burda et al., "Importance weighted autoencoders", 2016). The effective sample
size tells how many draws count: if it is near 1, the bound is loose.

The figures are densities of pixels in 0-1, all constants included: they compare across --obs-std. Those of a
Bernoulli likelihood are probabilities, and compare only among images whose pixels are 0 or 1.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import kernels
from evaluation.curves import draw_likelihood
from evaluation.grades import grade_posteriors
from training import LIKELIHOOD, ImageDataset, Images, TrainedRun, noise_key, refine_posteriors
from training.objective import CHUNK, NegativeELBO, constant_term

WIDER = 1.05  # factor of the posterior's scale
SHARE = 0.02  # of the draws that come from the prior
# What grade_further adds to results.json.
FURTHER = ('refined_posterior', 'refined_negative_elbo', 'refined_reconstruction', 'refined_kl', 'proposal')
FURTHER += ('log_likelihood', 'log_likelihood_error', 'log_likelihood_half', 'ess', 'likelihood_draws')


@dataclass
class Likelihood:
    """log_p, float64 [n, J]: estimates of each image's log p(x) in nats, by draws [J] = ..., K / 4, K / 2, K
    draws. ess, float64 [n]: effective sample sizes of the K draws."""

    draws: list[int]
    log_p: Tensor
    ess: Tensor

    def grades(self) -> dict:
        """Entries of results.json: of all draws, and log_likelihood_half of half of them."""
        final = self.log_p[:, -1]
        error = float(final.std() / math.sqrt(len(final))) if len(final) > 1 else None
        return {
            'log_likelihood': float(final.mean()),
            'log_likelihood_error': error,  # standard error of the mean over the images
            'log_likelihood_half': float(self.log_p[:, -2].mean()) if len(self.draws) > 1 else None,
            'ess': float(self.ess.median()),
            'likelihood_draws': self.draws[-1],
        }


def proposal_draws(
    model: nn.Module, params: Tensor, draw: Tensor, index: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws z [k, D] of the proposal of one image, params [1, P, D] or [1, K], and their log r(z) - log p(z),
    [k].

    draw: int64 [k], the numbers of the draws; index: of the image; seed: a key of noise. z is a function of
    these.
    """
    family, numbers = model.family, draw.cpu().numpy()
    wide = family.widen(params, WIDER)
    noise = dict(seed=seed, rows=torch.zeros_like(draw), ids=torch.full_like(draw, index), draw=draw)
    z, _ = kernels.sample_kl(wide, model.dist, step=0, **noise)
    prior, _ = kernels.sample_kl(torch.zeros_like(wide), model.dist, step=1, **noise)
    u = kernels.uniform(kernels.philox_4x32(seed, 0, numbers, index, 2))[:, 0].to(z)  # [k]
    z = torch.where((u < SHARE)[:, None], prior, z)
    # Of the one image's params and of k z: [k, 1, D], so that a full covariance is solved for once.
    log_q = family.log_density(wide, z[:, None]).double().sum((1, 2))
    exact = z.double()  # for the difference of two sums
    log_standard = model.log_standard_prior(exact)
    log_r = torch.logaddexp(math.log(1 - SHARE) + log_q, math.log(SHARE) + log_standard)
    return z, log_r - model.log_prior(exact)


@torch.no_grad()
def estimate_likelihood(
    trained: TrainedRun, model: nn.Module, latents: Tensor, dataset: ImageDataset, k: int
) -> Likelihood:
    """log p of images by k draws of each.

    model, latents [n, K]: the posteriors that are the proposals, see refine_posteriors.
    """
    objective, images = NegativeELBO(model, trained.config), Images(dataset, latents.device)
    draws = [k >> j for j in range(k.bit_length())][::-1]
    seed, log_p, ess = noise_key(trained.config.seed, LIKELIHOOD), [], []
    for index in tqdm(range(len(latents)), 'likelihood', disable=None, leave=False, unit='image'):
        x, observed = images[torch.tensor([index], device=latents.device)]
        params, parts = model.params(latents[index : index + 1]), []
        pixels = x.numel() if observed is None else int(observed.sum())
        constant = constant_term(trained.config, pixels)
        for draw in torch.arange(k, device=latents.device).split(CHUNK):
            z, log_ratio = proposal_draws(model, params, draw, index, seed)
            same = x.expand(len(z), *x.shape[1:])
            reconstruction = objective.reconstruction(z, same, observed).double() + constant
            parts.append(-reconstruction - log_ratio)
        log_weight = torch.cat(parts)  # [k]
        cumulated = torch.logcumsumexp(log_weight, 0)
        log_p.append(torch.stack([cumulated[n - 1] - math.log(n) for n in draws]).cpu())
        ess.append(1 / log_weight.softmax(0).square().sum().cpu())
    return Likelihood(draws, torch.stack(log_p), torch.stack(ess))


def grade_likelihood(
    trained: TrainedRun, model: nn.Module, latents: Tensor, dataset: ImageDataset, k: int, folder: Path | None
) -> dict:
    """Entries of results.json, and likelihood.png in folder, if one is given."""
    likelihood = estimate_likelihood(trained, model, latents, dataset, k)
    if model.dist == 'uniform':
        warn(
            'a uniform posterior does not cover the true one, so log_likelihood is a lower bound that does '
            'not converge to it'
        )
    if trained.config.likelihood == 'bernoulli' and not is_binary(dataset):
        warn('the cross-entropy of grey values is not a likelihood; train with --binarise static')
    if folder:
        draw_likelihood(likelihood.draws, -likelihood.log_p.mean(0).numpy(), folder / 'likelihood.png')
    return likelihood.grades() | {'proposal': model.dist}


def is_binary(dataset: ImageDataset) -> bool:
    return bool(np.isin(dataset.X[:1000], (0, 255)).all())


def warn(text: str):
    print(f'warning: {text}', file=sys.stderr)


def grade_further(
    trained: TrainedRun,
    test_set: ImageDataset,
    latents: Tensor,
    refine: str | None,
    draws: int,
    folder: Path | None,
) -> dict:
    """What evaluate.py's --refine and --likelihood add to the grades; with a folder also likelihood.png
    there.

    latents: [n, K], of the test images. refine: None, 'own' or 'full'. draws: importance samples of an image;
    0: no likelihood.
    """
    model, grades = trained.model, {}
    if refine or not model.dist:  # a point has no density: a posterior is fitted around it
        model, latents = refine_posteriors(trained, test_set, latents, full=refine == 'full')
        grades = grade_posteriors(trained, model, test_set, latents)
    if draws:
        grades |= grade_likelihood(trained, model, latents, test_set, draws, folder)
    return grades
