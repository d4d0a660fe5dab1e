"""The objective: the negative ELBO, averaged over a batch in training and summed over it in inference.

    |x - decode(z)|^2 / (2 obs_std^2) + beta * KL(q(z) || p(z)),        z ~ q(z; latents of x)

with pixels in 0-1, those of decode(z) too, so that beta = 1 is a true negative ELBO for a Gaussian likelihood
of standard deviation obs_std (up to a constant). With a Bernoulli likelihood the first term is the binary
cross-entropy. Of an incomplete image the sum is over its observed pixels. (Kingma and Welling,
"Auto-encoding variational Bayes", 2014; without an encoder, and of incomplete data: Zadeh et al.,
"Variational auto-decoder", 2019.) A VAE can be trained on a tighter bound, by several samples of each image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from training.batches import Images
from training.config import Config

CHUNK = 1000  # samples that are decoded at once where no gradient is wanted


class NegativeELBO(nn.Module):
    """The two terms of the negative ELBO, as a module that DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module, config: Config, variance: Tensor | None = None):
        """variance: of the Gaussian likelihood, a 0-d tensor that may change; None: obs_std squared."""
        super().__init__()
        self.model, self.config = model, config
        self.variance = config.obs_std**2 if variance is None else variance

    def forward(
        self,
        params: Tensor,
        x: Tensor,
        observed: Tensor | None,
        *,
        seed: int,
        step: int | Tensor,
        index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """params [B, P, D], images x [B, 28, 28] in 0-1 -> reconstruction [B] and KL [B], in nats.

        observed: which pixels are, bool [B, 28, 28]; None: all. A missing pixel is absent from the sum.
        seed, step, index (int64 [B]): what the noise is a function of.
        """
        z, kl = self.model.sample(params, seed=seed, step=step, index=index)  # [B, D], [B]
        return self.reconstruction(z, x, observed), kl

    def reconstruction(self, z: Tensor, x: Tensor, observed: Tensor | None) -> Tensor:
        """The first term [B] of images x [B, 28, 28] for samples z [B, D]."""
        code = self.model.code(z)  # [B, D], what the decoder reads
        if self.config.likelihood == 'bernoulli':
            logits = self.model.logits(code)
            error, scale = F.binary_cross_entropy_with_logits(logits, x, reduction='none'), 1
        else:
            error, scale = (x - self.model.render(code)).square(), 2 * self.variance
        if observed is not None:
            error = error * observed
        return error.flatten(1).sum(1) / scale


class ImportanceWeightedBound(NegativeELBO):
    """The bound of K = importance_samples draws z_k of each image's posterior, in place of the negative ELBO:

        -log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k; latents of x)

    Its expectation is at least -log p(x). With one sample it is that of the negative ELBO, and it falls with
    the number of samples. (Burda et al., "Importance weighted autoencoders", 2016; of observed pixels: Mattei
    and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets", 2019.)
    """

    def forward(
        self,
        params: Tensor,
        x: Tensor,
        observed: Tensor | None,
        *,
        seed: int,
        step: int | Tensor,
        index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As NegativeELBO's: two terms [B] in nats, whose sum is the bound.

        The first is the mean of the samples' reconstruction terms, with the normalised weights
        p(x, z_k) / q(z_k), and has no gradient. The second is the bound minus the first.
        """
        samples = self.config.importance_samples
        draw = torch.arange(samples, device=params.device).repeat(len(params))  # [BK], K of each image
        params, x, index = (each.repeat_interleave(samples, 0) for each in (params, x, index))  # [BK, ...]
        if observed is not None:
            observed = observed.repeat_interleave(samples, 0)
        z, _ = kernels.sample_kl(params, self.model.dist, seed=seed, step=step, ids=index, draw=draw)
        reconstruction = self.reconstruction(z, x, observed)  # [BK]
        log_ratio = self.model.log_prior(z) - self.model.family.log_density(params, z).sum(1)  # [BK]
        log_weight = (log_ratio - reconstruction).view(-1, samples)  # [B, K]
        bound = math.log(samples) - log_weight.logsumexp(1)
        mean = (log_weight.softmax(1) * reconstruction.view(-1, samples)).sum(1).detach()
        return mean, bound - mean


def constant_term(config: Config, pixels: int) -> float:
    """What the first term leaves out of -log p(x | z) for an image of so many observed pixels, in nats: with
    it, figures compare across obs_std."""
    if config.likelihood == 'bernoulli':
        return 0.0
    return 0.5 * pixels * math.log(2 * math.pi * config.obs_std**2)


def make_objective(model: nn.Module, config: Config, variance: Tensor | None = None) -> NegativeELBO:
    """What training minimises."""
    bound = ImportanceWeightedBound if config.importance_samples > 1 else NegativeELBO
    return bound(model, config, variance)


@torch.no_grad()
def mean_terms(
    objective: NegativeELBO, latents: Tensor, images: Images, *, seed: int, step: int = 0
) -> tuple[float, float]:
    """Means of the two terms of an objective in nats over images with latents [n, K]."""
    model = objective.model.eval()
    size = max(1, CHUNK // objective.config.importance_samples)  # images
    chunks = torch.arange(len(latents), device=latents.device).split(size)
    terms = [objective(model.params(latents[i]), *images[i], seed=seed, step=step, index=i) for i in chunks]
    return tuple(float(torch.cat(term).mean()) for term in zip(*terms))


def mean_negative_elbo(
    model: nn.Module, latents: Tensor, images: Images, config: Config, *, seed: int, step: int = 0
) -> tuple[float, float]:
    """Means of the two terms of the negative ELBO, by one sample for each image."""
    return mean_terms(NegativeELBO(model, config), latents, images, seed=seed, step=step)


@torch.no_grad()
def encode(model: nn.Module, images: Images, local_index: Tensor | None = None) -> Tensor:
    """The encoder's latents [B, K] of images with local indices int64 [B]; None: all, without copies."""
    model.eval()
    local_index = images.own() if local_index is None else local_index
    return torch.cat([model.encode(*images[i]) for i in local_index.split(CHUNK)])
