"""A prior that is learned together with the decoder."""

import math

import torch
from torch import Tensor, nn

COMPONENTS = 40


class LearnedPrior(nn.Module):
    """A mixture of Gaussians over z, in place of N(0, 1).

    The posteriors of a set of images fill only parts of N(0, 1); what a decoder makes of the rest is no image
    of their kind. A prior that is learned with them goes where they are. (Tomczak and Welling, "VAE with a
    VampPrior", 2018. There the components are the posteriors of pseudo-images, which are learned; without an
    encoder their latents can be learned instead.)
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        # As a Gaussian posterior's: mean and log sigma of each component, [K, 2, D]. Together they start with
        # mean 0 and variance 1, and each is so wide that all get a share of the images: a narrow one that is
        # nobody's nearest would have no gradient.
        mean = 0.5 * torch.randn(COMPONENTS, latent_dim)
        self.params = nn.Parameter(torch.stack([mean, torch.full_like(mean, 0.5 * math.log(0.75))], 1))
        self.logits = nn.Parameter(torch.zeros(COMPONENTS))  # of their shares

    def log_density(self, z: Tensor) -> Tensor:
        """z [..., D] -> log p(z) [...], in nats."""
        mean, log_sigma = self.params.to(z.dtype).unbind(1)  # [K, D] each
        precision = torch.exp(-2 * log_sigma)
        # The square is expanded: three products of matrices, and no tensor [..., K, D].
        square = z.square() @ precision.T - 2 * z @ (mean * precision).T + (mean.square() * precision).sum(1)
        constant = log_sigma.sum(1) + 0.5 * z.shape[-1] * math.log(2 * math.pi)  # [K]
        return torch.logsumexp(self.logits.to(z.dtype).log_softmax(0) - 0.5 * square - constant, -1)

    @torch.no_grad()
    def standardise(self, scale: Tensor, shift: Tensor):
        """Follow the change of z to (z - shift) / scale, [D] each."""
        mean, log_sigma = self.params.unbind(1)
        self.params.copy_(torch.stack([(mean - shift) / scale, log_sigma - torch.log(scale)], 1))
