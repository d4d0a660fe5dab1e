"""Annealed importance sampling: another estimate of log p(x), to check importance sampling by.

A chain starts at a draw of an image's fitted posterior q, and moves, by Hamiltonian Monte Carlo, through
densities

    q(z)^(1 - beta) (p(x | z) p(z))^beta,        beta from 0 to 1

Its weight is the product of the ratios of neighbouring densities along the way, and the mean weight of
several chains is an unbiased estimate of p(x), whatever q is (Neal, "Annealed importance sampling", 2001; as
a check of likelihoods: Wu et al., "On the quantitative analysis of decoder-based models", 2017). The true
posterior is reached by moving, not by luck, so the estimate is much less variable than that of as many
independent draws.
"""

import math

import torch
from torch import Tensor, nn
from tqdm import tqdm

import kernels
from kernels.families.gaussian_full import scale_tril, unpack
from training import GRADE, ImageDataset, Images, TrainedRun, noise_key
from training.objective import NegativeELBO, constant_term

CHAINS = 16  # of each image
TEMPERATURES = 100
LEAPFROGS = 5  # steps of a move
STEP = 0.2  # of a leapfrog, in units of the posterior's spread
BATCH = 10  # images


def annealed_likelihood(
    trained: TrainedRun, model: nn.Module, latents: Tensor, dataset: ImageDataset
) -> tuple[Tensor, float]:
    """log p [n], float64, of images with packed posteriors latents [n, K], and the share of moves that were
    accepted. model: that of the posteriors, see refine_posteriors."""
    objective, images = NegativeELBO(model, trained.config), Images(dataset, latents.device)
    seed, found, accepted = noise_key(trained.config.seed, GRADE), [], []
    generator = torch.Generator(latents.device).manual_seed(trained.config.seed)
    for index in tqdm(torch.arange(len(latents)).split(BATCH), 'annealing', disable=None, leave=False):
        mean, log_diagonal, t = unpack(latents[index])
        scale = scale_tril(log_diagonal, t)
        x, observed = images[index.to(latents.device)]
        rows = torch.arange(len(index), device=mean.device).repeat(CHAINS)  # image of each chain
        pixels = x[0].numel() if observed is None else observed.flatten(1).sum(1)[rows]
        mean, scale, x = mean[rows], scale[rows], x[rows]
        observed = None if observed is None else observed[rows]
        log_determinant = log_diagonal.sum(1)[rows]

        def log_densities(u):
            """Of z = mean + L u [n, D]: log q(z) and log p(x, z), [n] each."""
            z = mean + (scale @ u[:, :, None])[:, :, 0]
            normal = 0.5 * z.shape[1] * math.log(2 * math.pi)
            log_q = -0.5 * u.square().sum(1) - log_determinant - normal
            log_joint = -objective.reconstruction(z, x, observed) + model.log_prior(z)
            return log_q, log_joint

        ids = index.to(mean.device)[rows]
        draw = torch.arange(CHAINS, device=mean.device).repeat_interleave(len(index))
        u, _ = kernels.sample_kl(
            mean.new_zeros(1, 2, mean.shape[1]),
            'gaussian',
            seed=seed,
            step=0,
            rows=torch.zeros_like(rows),
            ids=ids,
            draw=draw,
        )  # draws of q
        log_weight = torch.zeros(len(u), dtype=torch.float64, device=u.device)
        for number in range(1, TEMPERATURES + 1):
            with torch.no_grad():
                log_q, log_joint = log_densities(u)
            log_weight += (log_joint - log_q).double() / TEMPERATURES
            u, moved = move(u, number / TEMPERATURES, log_densities, generator)
            accepted.append(float(moved))
        constant = constant_term(trained.config, 1) * pixels  # [n], or a number
        found.append((log_weight - constant).view(CHAINS, -1).logsumexp(0) - math.log(CHAINS))
    return torch.cat(found), sum(accepted) / len(accepted)


def move(u: Tensor, beta: float, log_densities, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One move of Hamiltonian Monte Carlo of chains u [n, D] that leaves the density at beta as it is, and
    the share of accepted ones (Neal, "MCMC using Hamiltonian dynamics", 2011)."""

    def energy(u):
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            log_q, log_joint = log_densities(u)
            value = -(1 - beta) * log_q - beta * log_joint
            (slope,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), slope

    momentum = torch.randn(u.shape, generator=generator, device=u.device)
    value, slope = energy(u)
    start = value + 0.5 * momentum.square().sum(1)
    proposed = u
    for _ in range(LEAPFROGS):
        momentum = momentum - 0.5 * STEP * slope
        proposed = proposed + STEP * momentum
        value, slope = energy(proposed)
        momentum = momentum - 0.5 * STEP * slope
    end = value + 0.5 * momentum.square().sum(1)
    uniform = torch.rand(len(u), generator=generator, device=u.device)
    accepted = torch.log(uniform) < start - end  # a NaN is refused
    return torch.where(accepted[:, None], proposed, u), accepted.float().mean()
