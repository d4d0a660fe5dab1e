"""One step of a GAN (Goodfellow et al., 2014): the discriminator's, then the generator's. `loop.fit` takes
the steps.

A generator G makes images of noise z ~ N(0, 1), and a discriminator D gives logits of the probability that an
image is a real one. D descends the cross-entropy of its guesses; G ascends log D(G(z)), the form that does
not saturate while D still wins. Images are in -1 to 1, the range of tanh.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import channels_first
from training.batches import Images
from training.optimisers import adam_schema, load_adam, one_cycle
from training.randomness import PRIOR, TRAIN, fold, noise_key
from training.schema import TensorOf, check
from training.systems import GANConfig
from training.trainer import BaseTrainer

# DCGAN's (Radford et al., 2015): a long momentum goes on in directions that no longer pay.
BETAS = (0.5, 0.999)
MAX_SHIFT = 3  # pixels
DRAWS = 64  # in a frame of samples.gif
FRAMES = 60  # in samples.gif, at most
TERMS = 'discriminator_loss', 'generator_loss', 'd_real', 'd_fake'  # d_...: means of D(x) and D(G(z))


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, C, H, W] in -1 to 1, each moved by up to MAX_SHIFT pixels in each direction; the rim becomes
    black.

    Differentiable in x. D sees real and generated images through it (Zhao et al., 2020): it cannot memorise a
    thousand images, and G, whose images are moved likewise, gains nothing by making them off their places.
    """
    batch, _, height, width = x.shape
    offset = torch.randint(2 * MAX_SHIFT + 1, (2, batch, 1), generator=generator).to(x.device)
    rows = torch.arange(height, device=x.device) + offset[0]  # [B, H]
    columns = torch.arange(width, device=x.device) + offset[1]  # [B, W]
    padded = F.pad(x, (MAX_SHIFT,) * 4, value=-1)  # [B, C, H + 6, W + 6]
    image = torch.arange(batch, device=x.device)[:, None, None]
    # PyTorch puts the sliced dimension, the channels, last.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class GANTrainer(BaseTrainer):
    """Trains a GAN's two networks; keeps the frames of samples.gif."""

    def __init__(self, model: nn.Module, images: Images, config: GANConfig):
        super().__init__(model, images, config, terms=len(TERMS))
        self.generator_adam, self.discriminator_adam = (
            torch.optim.Adam(network.parameters(), lr=config.lr, betas=BETAS, fused=True)
            for network in (model.generator, model.discriminator)
        )
        self.frames = torch.zeros(0, DRAWS, *model.shape, dtype=torch.uint8)  # of the epochs so far

    def step(self, index: Tensor, batch_size: int):
        """One step of each network on the real images with index, int64 [B]."""
        model, step, seed = self.model, self.step_number, self.config.seed
        for adam in (self.generator_adam, self.discriminator_adam):
            for group in adam.param_groups:
                group['lr'] = self.config.lr * one_cycle(step, self.total_steps, warm_up=0.02)
        shifts = torch.Generator().manual_seed(fold(seed << 24 | step))  # a resumed run repeats them
        real = 2 * self.images[index][0].view(batch_size, *channels_first(model.shape)) - 1
        fake = model.generator(model.sample_prior(batch_size, seed=noise_key(seed, TRAIN), step=step))

        both = shift(torch.cat([real, fake.detach()]), shifts)  # [2B, C, H, W]
        d_real, d_fake = model.discriminator(both).view(2, -1)  # logits [B]
        d_loss = F.softplus(-d_real).mean() + F.softplus(d_fake).mean()  # -log D(x) - log(1 - D(G(z)))
        self.discriminator_adam.zero_grad()
        d_loss.backward()
        self.discriminator_adam.step()

        model.discriminator.requires_grad_(False)  # the generator's step needs no gradient in D's weights
        g_loss = F.softplus(-model.discriminator(shift(fake, shifts))).mean()  # -log D(G(z))
        self.generator_adam.zero_grad()
        g_loss.backward()
        self.generator_adam.step()
        model.discriminator.requires_grad_(True)

        terms = [d_loss, g_loss, torch.sigmoid(d_real).mean(), torch.sigmoid(d_fake).mean()]
        self.history[step % self.steps_per_epoch] = torch.stack(terms).detach()
        self.step_number += 1

    def check_weights(self, index: Tensor):
        """NotFinite: a weight is not finite. The losses in the history were computed before the last step."""
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise self.not_finite(self.step_number)

    def describe(self, means: list[float]) -> str:
        """The text of the progress bar."""
        return f'D(x) {means[2]:.2f}, D(G(z)) {means[3]:.2f}'

    @torch.no_grad()
    def end_epoch(self, epoch: int, means: list[float]) -> dict[str, float]:
        """The epoch's line of metrics.jsonl, without seconds. Every so many epochs a frame of samples.gif
        is kept."""
        if epoch % math.ceil(self.config.epochs / FRAMES) == 0:
            # Batch normalisation by its running statistics: an image does not depend on the others.
            self.model.eval()
            z = self.model.sample_prior(DRAWS, seed=noise_key(self.config.seed, PRIOR))
            self.frames = torch.cat([self.frames, self.model.decode(z).round().byte().cpu()[None]])
            self.model.train()
        return {'epoch': epoch, **dict(zip(TERMS, means))}

    def state_dict(self) -> dict:
        return {
            'step': self.step_number,
            'model': self.model.state_dict(),
            'generator_adam': self.generator_adam.state_dict(),
            'discriminator_adam': self.discriminator_adam.state_dict(),
            'history': self.history,
            'frames': self.frames,
        }

    def load_state_dict(self, state: dict, path: Path):
        """UserError: the checkpoint in path is not of this trainer."""
        adams = {'generator_adam': self.generator_adam, 'discriminator_adam': self.discriminator_adam}
        parts = {'stage': str, 'config': dict, 'step': range(1, self.total_steps + 1)}
        parts |= {'history': self.history} | {name: adam_schema(adam) for name, adam in adams.items()}
        frames = TensorOf(torch.uint8, (None, *self.frames.shape[1:]))
        check(state, {**parts, 'model': self.model.state_dict(), 'frames': frames}, path)
        self.model.load_state_dict(state['model'])
        for name, adam in adams.items():
            load_adam(adam, state[name])
        self.step_number = state['step']
        self.history.copy_(state['history'])
        self.frames = state['frames'].cpu()
