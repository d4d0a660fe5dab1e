"""A second, small VAE, of the codes that a model gave to its training images. Draws from its prior are codes
like these, which the first model decodes.

The first model's own prior is a worse source. A thousand posteriors fill next to nothing of it, and what the
decoder makes of the rest is not clothing. The second stage learns where the codes are. (Dai and Wipf,
"Diagnosing and enhancing VAE models", 2019.)
"""

import torch
from torch import Tensor, nn

LATENT_DIM = 6  # at most. More of them leave room between the images again: samples are newer, but worse.
HIDDEN = 128
STEPS, BATCH_SIZE, LR = 600, 128, 1e-2
SMALLEST_STD = 1e-3  # of a code; those that are equal for all images have none


def mlp(n_in: int, n_out: int) -> nn.Sequential:
    """Two hidden layers. Gives zeros before training."""
    layers = nn.Sequential(
        *(nn.Linear(n_in, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, n_out))
    )
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return layers


class SecondStage(nn.Module):
    """A VAE of codes: u ~ N(0, I), z ~ N(decode(u), s^2 I) of standardised codes, with one learned s.

    Both networks are added to a linear map, the principal components, which is where training starts: from
    random weights it would first find that no latent is worth its KL.
    """

    def __init__(self, codes: Tensor):
        """codes: [n, D]."""
        super().__init__()
        dim = min(LATENT_DIM, codes.shape[1])
        self.mean, self.std = codes.mean(0), codes.std(0, correction=0).clamp_min(SMALLEST_STD)
        standardised = (codes - self.mean) / self.std
        variance, directions = torch.linalg.eigh(standardised.T @ standardised / len(codes))  # ascending
        scale = variance[-dim:].clamp_min(SMALLEST_STD**2).sqrt()
        self.directions, self.scale = directions[:, -dim:], scale  # [D, d], [d]
        self.encoder, self.decoder = mlp(codes.shape[1], 2 * dim), mlp(dim, codes.shape[1])
        self.log_std = nn.Parameter(torch.tensor(-1.0))

    def forward(self, codes: Tensor) -> Tensor:
        """The negative ELBO of codes [B, D], up to a constant, by one sample of each: [B], in nats."""
        z = (codes - self.mean) / self.std
        mean, log_std = self.encoder(z).chunk(2, 1)  # of u, [B, d] each
        mean, log_std = mean + z @ self.directions / self.scale, log_std - 1
        u = mean + log_std.exp() * torch.randn_like(mean)
        kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(1)
        return (0.5 * ((z - self.decode(u)) / self.log_std.exp()).square() + self.log_std).sum(1) + kl

    def decode(self, u: Tensor) -> Tensor:
        """The mean of the standardised codes [B, D], given u [B, d]."""
        return self.decoder(u) + (u * self.scale) @ self.directions.T

    @torch.no_grad()
    def sample(self, n: int, seed: int) -> Tensor:
        """n codes [n, D], without the noise of standard deviation s: it is what the second stage could not
        explain, and images of codes with it look worse."""
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(seed)
            u = torch.randn(n, len(self.scale))
        return self.decode(u) * self.std + self.mean


def fit_second_stage(codes: Tensor, seed: int) -> SecondStage:
    """A second stage for codes [n, D] on the CPU. Takes a second, whatever n is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SecondStage(codes)
        adam = torch.optim.Adam(model.parameters(), LR, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, LR, total_steps=STEPS)
        for _ in range(STEPS):
            batch = codes[torch.randint(len(codes), (BATCH_SIZE,))]
            adam.zero_grad()
            model(batch).mean().backward()
            adam.step()
            schedule.step()
    return model.requires_grad_(False)
