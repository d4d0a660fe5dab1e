"""The objective: the negative ELBO, averaged over a batch in training and summed over it in inference.

    |x - decode(z)|^2 / (2 obs_std^2) + beta * KL(q(z) || p(z)),        z ~ q(z; latents of x)

with pixels in 0-1, those of decode(z) too, so that beta = 1 is a true negative ELBO for a Gaussian likelihood
of standard deviation obs_std (up to a constant). With a Bernoulli likelihood the first term is the binary
cross-entropy. Of an incomplete image the sum is over its observed pixels. (Kingma and Welling, "Auto-encoding
variational Bayes", 2014; without an encoder, and of incomplete data: Zadeh et al., "Variational auto-decoder",
2019.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.batches import Images
from training.config import Config

CHUNK = 1000  # images whose loss is computed at once where no gradient is wanted


class NegativeELBO(nn.Module):
    """The two terms of the negative ELBO, as a module that DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module, config: Config):
        super().__init__()
        self.model, self.config = model, config

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
        code = self.model.code(z)  # [B, D], what the decoder reads
        if self.config.likelihood == 'bernoulli':
            logits = self.model.logits(code)
            error, scale = F.binary_cross_entropy_with_logits(logits, x, reduction='none'), 1
        else:
            error, scale = (x - self.model.render(code)).square(), 2 * self.config.obs_std**2
        if observed is not None:
            error = error * observed
        return error.flatten(1).sum(1) / scale, kl


@torch.no_grad()
def mean_negative_elbo(
    model: nn.Module, latents: Tensor, images: Images, config: Config, *, seed: int, step: int = 0
) -> tuple[float, float]:
    """Means of the two terms in nats over images with latents [n, K], by one sample for each image."""
    model.eval()
    objective = NegativeELBO(model, config)
    chunks = torch.arange(len(latents), device=latents.device).split(CHUNK)
    terms = [objective(model.params(latents[i]), *images[i], seed=seed, step=step, index=i) for i in chunks]
    return tuple(float(torch.cat(term).mean()) for term in zip(*terms))


@torch.no_grad()
def encode(model: nn.Module, images: Images, local_index: Tensor | None = None) -> Tensor:
    """The encoder's latents [B, K] of images with local indices int64 [B]; None: all, without copies."""
    model.eval()
    local_index = images.own() if local_index is None else local_index
    return torch.cat([model.encode(*images[i]) for i in local_index.split(CHUNK)])
