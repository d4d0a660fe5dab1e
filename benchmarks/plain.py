"""The plain program: the 7x7 report's system as anybody would write it.

Its decoder, images from a DataLoader on the host, means and log-variances as parameters of one dense Adam,
noise from torch.randn, no start at principal components. Its loss is the mean squared error of pixels in
0-255 plus the mean KL, for training and for test images alike. It is given what anybody would give it: the
best learning rates of a small search (docs/performance.md has it; at the report's 0.02 for everything the
images often stay black for all 100 epochs), and the memory that our commands keep.
"""

import math
import time
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import synchronise
from evaluation import BATCH_SIZE, reconstruction_loss
from training import ImageDataset
from training.command import keep_freed_memory

TARGET = 0.127  # the test loss to reach: the report's is 0.1279
EPOCHS, LATENT_DIM = 100, 60  # the report's; as many passes again for the test images
DECODER_LR, LATENT_LR = 0.0005, 0.2
EVERY = 10  # epochs after which the test loss is measured
PASSES = 10  # over the test images between two measurements

Curve = list[tuple[float, float]]  # (seconds, test loss)


class PlainDecoder(nn.Sequential):
    """The 7x7 report's: z [B, D] -> images [B, 28, 28] in 0-255."""

    def __init__(self):
        super().__init__(
            nn.Linear(LATENT_DIM, 256 * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(1, (256, 7, 7)),
            nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 1, 3, 1, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return 255 * super().forward(z).squeeze(1)


class Plain:
    """The decoder, the latents of a data set, and the Adam that fits them."""

    def __init__(self, dataset: ImageDataset, device: torch.device, decoder: nn.Module | None = None):
        """decoder: a trained one, which stays as it is; None: a new one, which is trained."""
        self.loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH_SIZE)
        self.device = device
        self.decoder = decoder or PlainDecoder().to(device)
        self.mu = nn.Parameter(torch.randn(len(dataset), LATENT_DIM, device=device))
        self.logvar = nn.Parameter(torch.zeros(len(dataset), LATENT_DIM, device=device))
        weights = [] if decoder else self.decoder.parameters()
        latents = {'params': [self.mu, self.logvar], 'lr': LATENT_LR}
        self.adam = torch.optim.Adam([latents, {'params': weights, 'lr': DECODER_LR}])

    def step(self, i: Tensor, x: Tensor):
        """i: int64 [B]; x: [B, 28, 28] in 0-255, both on the host."""
        i, x = i.to(self.device), x.to(self.device)
        mu, logvar = self.mu[i], self.logvar[i]  # [B, D]
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()
        loss = F.mse_loss(self.decoder(z), x) + kl
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    def epochs(self, number: int) -> float:
        """The seconds that they took."""
        started = time.perf_counter()
        for _ in range(number):
            for i, x in self.loader:
                self.step(i, x)
        synchronise(self.device)
        return time.perf_counter() - started

    @torch.no_grad()
    def loss(self) -> float:
        """The course's loss at sampled latents."""
        losses = []
        for i, x in self.loader:
            z = self.mu[i] + torch.exp(0.5 * self.logvar[i]) * torch.randn_like(self.mu[i])
            losses.append(reconstruction_loss(x.to(self.device), self.decoder(z)))
        return float(torch.stack(losses).mean())


def plain_curve(train_set: ImageDataset, test_set: ImageDataset, device: torch.device, seed: int) -> Curve:
    """The plain program's shortest way to TARGET, or the one with the lowest loss if none arrives.

    It trains, and every EVERY epochs fits the latents of the test images from their start, the decoder as it
    is. The seconds are those of training and of a fit, not of measuring.
    """
    torch.manual_seed(seed)
    plain, trained, best = Plain(train_set, device), 0.0, []
    for epochs in range(EVERY, EPOCHS + 1, EVERY):
        plain.decoder.train().requires_grad_(True)
        trained += plain.epochs(EVERY)
        limit = best[-1][0] if best and best[-1][1] <= TARGET else math.inf
        if trained > limit:
            break
        plain.decoder.eval().requires_grad_(False)
        curve = fit_curve(Plain(test_set, device, plain.decoder), trained, limit)
        seconds, loss = curve[-1]
        print(f'plain program, {epochs} epochs, {seconds:6.1f} s: test loss {loss:.4f}', flush=True)
        best = min(best or curve, curve, key=lambda curve: (max(curve[-1][1], TARGET), curve[-1][0]))
    return best


def fit_curve(fit: Plain, seconds: float, limit: float) -> Curve:
    """The losses while latents are fitted, from seconds on, until TARGET or limit.

    They fall ever more slowly: where the last fall, repeated, would not lead to TARGET, the fit ends.
    """
    curve = []
    for left in reversed(range(EPOCHS // PASSES)):  # measurements after this one
        seconds += fit.epochs(PASSES)
        curve.append((seconds, fit.loss()))
        fall = curve[-2][1] - curve[-1][1] if len(curve) > 1 else math.inf
        if not TARGET < curve[-1][1] <= TARGET + fall * left or seconds > limit:
            break
    return curve


def send_plain_curve(pipe: Connection, *args):
    """plain_curve(*args), sent to the process behind the pipe."""
    keep_freed_memory()
    pipe.send(plain_curve(*args))
