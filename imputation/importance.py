"""Posterior draws of images, decoded and weighted.

An image's posterior q(z) approximates p(z | x_o), where x_o are its observed pixels. Draws z_k ~ q with the
self-normalised importance weights

    w_k  proportional to  p(x_o | z_k) p(z_k) / q(z_k)

correct the approximation (Mattei and Frellsen, "MIWAE", 2019): the expectation of a pixel is the weighted
mean over the decoded draws. In many dimensions a few draws have nearly all the weight, and the mean of a few
draws is a poor one. So the weights are tempered: w_k^t, with the largest t <= 1 that leaves an effective
sample size of half of the draws.
"""

import torch
from torch import Tensor

import kernels
from training import IMPUTE, TrainedRun, noise_key

SMALLEST_SHARE = 0.5  # of the draws, that the effective sample size is at least


def temper(log_weights: Tensor, smallest: float) -> Tensor:
    """Weights [K, B] that sum to 1, the power t of those whose logarithms are log_weights [K, B]: of each
    image the largest t <= 1 at which the effective sample size 1 / sum w^2 is `smallest` or more."""

    def enough(t):
        return 1 / torch.softmax(t * log_weights, 0).square().sum(0) >= smallest  # bool [B]

    low, high = torch.zeros_like(log_weights[0]), torch.ones_like(log_weights[0])  # [B]
    low = torch.where(enough(high), high, low)  # where t = 1 will do
    for _ in range(30):  # bisection: the effective sample size falls from K as t rises from 0
        t = (low + high) / 2
        low, high = torch.where(enough(t), t, low), torch.where(enough(t), high, t)
    return torch.softmax(low * log_weights, 0)


def log_likelihood(y: Tensor, x: Tensor, observed: Tensor, trained: TrainedRun) -> Tensor:
    """log p(x_o | z) [K, B], up to a constant, of images x [B, *shape] in 0-1 for decoded draws y [K, B,
    *shape]."""
    if trained.config.likelihood == 'bernoulli':
        y = y.clamp(1e-6, 1 - 1e-6)
        term = x * torch.log(y) + (1 - x) * torch.log1p(-y)
    else:
        term = -(x - y).square() / (2 * trained.config.obs_std**2)
    return (term * observed).flatten(2).sum(2)


@torch.no_grad()
def decoded_draws(
    trained: TrainedRun, latents: Tensor, x: Tensor, observed: Tensor, index: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """k draws of each image's posterior, decoded, [k, B, *shape] in 0-1, and their weights [k, B], whose sum
    over the draws is 1. A point posterior is its own and only draw: k is 1.

    latents: [B, K]. x: [B, *shape] in 0-1. observed: bool [B, *shape]. index: int64 [B], what the noise is a
    function of, besides the run's seed and the number of the draw.
    """
    model = trained.model
    params = model.params(latents)  # [B, P, D]
    if not model.dist:
        return model.decode(params[:, 0])[None] / 255, params.new_ones(1, len(params))
    b = len(params)
    z, _ = kernels.sample_kl(
        params,
        model.dist,
        seed=noise_key(trained.config.seed, IMPUTE),
        step=0,
        rows=torch.arange(b, device=params.device).repeat(k),
        ids=index.repeat(k),
        draw=torch.arange(k, device=params.device).repeat_interleave(b),
    )  # [k * B, D]
    y = (model.decode(z) / 255).view(k, b, *model.shape)
    z = z.view(k, b, -1)
    ratio = model.log_prior(z) - model.family.log_density(params, z).sum(2)  # log p(z) - log q(z), [k, B]
    return y, temper(log_likelihood(y, x, observed, trained) + ratio, SMALLEST_SHARE * k)
