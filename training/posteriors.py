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
from training.inference import Schedule, fit_latents, new_images_schedule
from training.memory import check_full_covariance
from training.objective import NegativeELBO
from training.optimisers import one_cycle
from training.randomness import INFER, noise_key
from training.runs import TrainedRun

FURTHER = Schedule(passes=240, lr=0.12, quiet=0.5)  # of the run's own family
FULL_PASSES = 600  # of those with a full covariance
DRAWS = 2  # of each image in a pass
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
    objective: NegativeELBO, start: Tensor, x: Tensor, observed: Tensor | None, index: Tensor, progress: tqdm
) -> Tensor:
    """Fit packed parameters [B, K], from start, to images x [B, *shape] in 0-1, whose indices are int64 [B].

    A step in the mean is taken in units of the posterior's start, mean + L w: there all directions are alike.

    The divergence from the prior is that of the samples, log q(z) - log p(z), whose gradient takes the way
    through z alone. In expectation that is the gradient of the KL. Where q is the true posterior, log q(z)
    and log p(x, z) differ by a constant, and the gradient of each single sample is zero: the noise that keeps
    Adam away from the optimum ends as it comes near. (Roeder et al., "Sticking the landing", 2017.)
    """
    model, b, seed = objective.model, len(x), noise_key(objective.config.seed, INFER)
    mean, log_diagonal, t = unpack(start)
    unit = scale_tril(log_diagonal, t)  # L
    d = mean.shape[1]
    w = torch.zeros_like(mean).requires_grad_()
    log_diagonal, packed = log_diagonal.clone().requires_grad_(), start[:, 2 * d :].clone().requires_grad_()
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
        params = current()
        z, _ = kernels.sample_kl(params, 'gaussian-full', **noise)  # [DRAWS * B, D]
        log_q = model.family.log_density(params.detach(), z.view(DRAWS, b, d)).sum(-1).flatten()
        adam.zero_grad()
        # Each image descends its own negative ELBO, whatever --beta was in training.
        loss = objective.reconstruction(z, x, observed) + log_q - model.log_prior(z)  # [DRAWS * B]
        (loss.sum() / DRAWS).backward()
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
    batches = images.own().split(BATCH)
    exact = with_posteriors(model, 'gaussian')
    exact.bfloat16 = False  # whose rounding would be larger than the differences
    if not model.dist:  # a Gaussian around the point, by Laplace's approximation
        mean = model.mean(latents)
        step = torch.full_like(mean, 0.1)
        precisions = (precision(exact, config, mean[i], step[i], images[i][1]) for i in batches)
        log_sigma = torch.cat([-0.5 * torch.log(p.diagonal(dim1=1, dim2=2)).float() for p in precisions])
        model, latents = with_posteriors(model, 'gaussian'), torch.cat([mean, log_sigma], 1)
    # Without noise only where new images are fitted so: other posteriors go astray.
    quiet = new_images_schedule(model, dataset, config).quiet > 0
    schedule = FURTHER if quiet else FURTHER._replace(quiet=0.0)
    # Also before a full covariance: Laplace's approximation is only as good as the mean it is taken around.
    latents = fit_latents(model, latents.clone(), images, config, INFER, schedule, 'refining')
    if not full:
        return model, latents
    mean, step = model.mean(latents), torch.exp(latents[:, model.latent_dim : 2 * model.latent_dim])
    posteriors = with_posteriors(model, 'gaussian-full')
    objective, fitted = NegativeELBO(posteriors, config), []
    with tqdm(total=len(batches) * FULL_PASSES, desc='refining', disable=None, leave=False) as progress:
        for index in batches:
            x, observed = images[index]
            # Also where the latents have a full covariance: they were fitted one draw a step.
            start = start_full(exact, config, mean[index], step[index], observed)
            fitted.append(fit_full(objective, start, x, observed, index, progress))
    return posteriors, torch.cat(fitted)
