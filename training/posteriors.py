"""Gaussian posteriors of new images under a trained decoder: with a full covariance, or of points.

A posterior with a full covariance comes closer to the true one than one that treats each dimension by itself,
and a model whose latents are points has none. Neither needs another training: the decoder stays as it is.
"""

import torch
from torch import Tensor, nn
from tqdm import tqdm

import kernels
from kernels.families.gaussian_full import pack, scale_tril, unpack
from models import with_posteriors
from training.batches import Images
from training.config import Config
from training.data import ImageDataset
from training.errors import NotFinite, UserError
from training.inference import Schedule, fit_latents
from training.memory import check_full_covariance
from training.objective import NegativeELBO
from training.optimisers import one_cycle
from training.randomness import INFER, noise_key
from training.runs import TrainedRun

DIAGONAL = Schedule(passes=60, lr=0.06)  # of posteriors that treat each dimension by itself
FULL_PASSES = 200  # of those with a full covariance
DRAWS = 4  # of each image in a pass: one is too noisy for so many parameters
LR_MEAN, LR_LOG_DIAGONAL, LR_T = 0.2, 0.03, 0.012  # peak learning rates
BATCH = 50  # images
SMALLEST_STEP = 1e-3  # in z, whose differences would else be lost in rounding


@torch.no_grad()
def precision(
    model: nn.Module, config: Config, mean: Tensor, step: Tensor, observed: Tensor | None
) -> Tensor:
    """The precision of Laplace's approximation to the posteriors around mean [B, D]: float64 [B, D, D].

    It is I + J' W J, where J [F, D] is the decoder's derivative and W the likelihood's second derivative in
    its output (Park et al., "Variational Laplace autoencoders", 2019). step [B, D]: J comes from the
    differences of decoded means that many units apart, so that it holds for all of the posterior.

    observed: bool [B, *shape], or None.
    """
    bernoulli = config.likelihood == 'bernoulli'
    output, step = model.logits if bernoulli else model.render, step.clamp_min(SMALLEST_STEP)
    columns = []  # of J, [B, F] each
    for d in range(model.latent_dim):
        shift = torch.zeros_like(mean)
        shift[:, d] = step[:, d]
        columns.append((output(mean + shift) - output(mean - shift)).flatten(1) / (2 * step[:, d : d + 1]))
    jacobian = torch.stack(columns, 2)  # [B, F, D]
    if bernoulli:
        p = torch.sigmoid(model.logits(mean)).flatten(1)
        weight = p * (1 - p)  # [B, F]
    else:
        weight = torch.full_like(columns[0], 1 / config.obs_std**2)
    if observed is not None:
        weight = weight * observed.flatten(1)
    # In float64: where pixels are fewer than dimensions, the prior's 1 would be lost beside the likelihood.
    jacobian, weight = jacobian.double(), weight.double()
    identity = torch.eye(model.latent_dim, dtype=torch.float64, device=mean.device)
    return identity + jacobian.mT @ (weight[:, :, None] * jacobian)


def start_full(
    model: nn.Module, config: Config, mean: Tensor, step: Tensor, observed: Tensor | None
) -> Tensor:
    """Packed parameters [B, K] of the Gaussians around mean [B, D] by Laplace's approximation."""
    covariance = torch.linalg.inv(precision(model, config, mean, step, observed))
    scale = torch.linalg.cholesky(covariance).to(mean.dtype)  # L [B, D, D]
    sigma = scale.diagonal(dim1=1, dim2=2)
    return pack(mean, torch.log(sigma), scale / sigma[:, :, None])


@torch.enable_grad()  # whatever the caller does
def fit_full(
    objective: NegativeELBO, params: Tensor, x: Tensor, observed: Tensor | None, index: Tensor, progress: tqdm
) -> Tensor:
    """Fit packed parameters [B, K] to images x [B, *shape] in 0-1, whose indices are int64 [B].

    A step in the mean is taken in units of the posterior's start, mean + L w: there all directions are alike.
    """
    b, seed = len(x), noise_key(objective.config.seed, INFER)
    mean, log_diagonal, t = unpack(params)
    unit = scale_tril(log_diagonal, t)  # L
    d = mean.shape[1]
    w = torch.zeros_like(mean).requires_grad_()
    log_diagonal, packed = log_diagonal.clone().requires_grad_(), params[:, 2 * d :].clone().requires_grad_()
    groups = [
        dict(params=[w], peak=LR_MEAN),
        dict(params=[log_diagonal], peak=LR_LOG_DIAGONAL),
        dict(params=[packed], peak=LR_T),
    ]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def current():
        return torch.cat([mean + (unit @ w[:, :, None])[:, :, 0], log_diagonal, packed], 1)  # [B, K]

    rows = torch.arange(b, device=x.device).repeat(DRAWS)  # [B * DRAWS]
    draw = torch.arange(DRAWS, device=x.device).repeat_interleave(b)
    x, observed = x[rows], None if observed is None else observed[rows]
    for number in range(FULL_PASSES):
        for group in adam.param_groups:
            group['lr'] = group['peak'] * one_cycle(number, FULL_PASSES, warm_up=0.05)
        noise = dict(seed=seed, step=number, rows=rows, ids=index[rows], draw=draw)
        z, kl = kernels.sample_kl(current(), 'gaussian-full', **noise)
        kl = objective.model.kl_to_prior(z, kl)
        adam.zero_grad()
        # Each image descends its own negative ELBO, whatever --beta was in training.
        ((objective.reconstruction(z, x, observed) + kl).sum() / DRAWS).backward()
        adam.step()
        progress.update()
    fitted = current().detach()
    if not torch.isfinite(fitted).all():
        raise NotFinite(
            'expected finite posteriors after fitting them, got others; train with a higher --obs-std'
        )
    return fitted


def refine_posteriors(
    trained: TrainedRun, dataset: ImageDataset, latents: Tensor, full: bool
) -> tuple[nn.Module, Tensor]:
    """Fit the posteriors of new images further: a model that has the decoder of the trained one and the
    fitted family, and its latents [n, K].

    latents: of the images under the trained model. full: with a full covariance; else of the run's own
    family, or, where its latents are points, Gaussian. UserError: full, and the family is not Gaussian, or
    the posteriors do not fit in memory.
    """
    model, config = trained.model, trained.config.replace(beta=1.0)
    if full and model.dist not in (None, 'gaussian', 'gaussian-full'):
        raise UserError(
            f'expected Gaussian posteriors, or points, for --refine full, got {model.dist}; leave it out, '
            'or use --refine own'
        )
    if full:
        check_full_covariance(model.latent_dim, len(latents), 1, latents.device)
    images = Images(dataset, latents.device)
    if not full and model.dist:
        return model, fit_latents(model, latents.clone(), images, config, INFER, DIAGONAL, 'refining')
    gaussian, mean = with_posteriors(model, 'gaussian'), model.mean(latents)
    exact = with_posteriors(model, 'gaussian')
    exact.bfloat16 = False  # whose rounding would be larger than the differences
    if model.dist:
        step = torch.exp(latents[:, model.latent_dim : 2 * model.latent_dim])
    else:
        step = torch.full_like(mean, 0.1)
    if not full:
        batches = images.own().split(BATCH)
        precisions = (precision(exact, config, mean[i], step[i], images[i][1]) for i in batches)
        log_sigma = torch.cat([-0.5 * torch.log(p.diagonal(dim1=1, dim2=2)).float() for p in precisions])
        start = torch.cat([mean, log_sigma], 1)
        return gaussian, fit_latents(gaussian, start, images, config, INFER, DIAGONAL, 'refining')
    posteriors = with_posteriors(model, 'gaussian-full')
    objective, fitted = NegativeELBO(posteriors, config), []
    batches = images.own().split(BATCH)
    with tqdm(total=len(batches) * FULL_PASSES, desc='refining', disable=None, leave=False) as progress:
        for index in batches:
            x, observed = images[index]
            # Also where the latents have a full covariance: they were fitted one draw a step.
            params = start_full(exact, config, mean[index], step[index], observed)
            fitted.append(fit_full(objective, params, x, observed, index, progress))
    return posteriors, torch.cat(fitted)
