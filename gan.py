"""Generative adversarial networks (Goodfellow et al., 2014): the networks, and the loop that trains them.

A generator G makes images of noise z ~ N(0, 1), and a discriminator D gives logits of the probability that an image is a
real one. In turn, D descends the cross-entropy of its guesses, and G ascends log D(G(z)), the form that does not saturate
while D still wins. Images are in -1 to 1, the range of tanh.
"""

import math

import torch
import torch.nn.functional as F

import networks
import training
import utils

BETAS = (
    0.5,
    0.999,
)  # DCGAN's (Radford et al., 2015): a long momentum pushes on in directions that the other player has left
MAX_SHIFT = 3  # pixels
DRAWS = 64  # in samples.gif
FRAMES = 60  # in samples.gif, at most
NAMES = 'discriminator_loss', 'generator_loss', 'd_real', 'd_fake'  # d_...: means of D(x) and D(G(z))



# --------------------------------------------------------------------------------------------- training


def shift(x, generator):
    """Images [B, C, H, W] in -1 to 1, each moved by up to MAX_SHIFT pixels in each direction; what comes in is black.

    Differentiable in x. D sees real and generated images through it (Zhao et al., 2020): it cannot learn a thousand images
    by heart, and G, whose images are moved likewise, has no reason to make them off their places.
    """
    batch, _, height, width = x.shape
    offset = torch.randint(2 * MAX_SHIFT + 1, (2, batch, 1), generator=generator).to(x.device)
    rows = torch.arange(height, device=x.device) + offset[0]  # [B, H]
    columns = torch.arange(width, device=x.device) + offset[1]  # [B, W]
    padded = F.pad(x, (MAX_SHIFT,) * 4, value=-1)  # [B, C, H + 6, W + 6]
    image = torch.arange(batch, device=x.device)[:, None, None]
    # Indices around a slice put the channels last.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Trainer(training.Steps):
    """Everything that a step changes: the model, the players' optimisers, the steps done, and the frames of samples.gif."""

    def __init__(self, model, images, config):
        super().__init__(model, images, config, numbers=len(NAMES))
        self.generator_adam, self.discriminator_adam = (
            torch.optim.Adam(player.parameters(), lr=config['lr'], betas=BETAS, fused=True)
            for player in (model.generator, model.discriminator)
        )
        self.frames = torch.zeros(0, DRAWS, *model.shape, dtype=torch.uint8)  # of the epochs so far

    def state_dict(self):
        return {
            'stage': 'training',
            'config': self.config,
            'step': self.step_number,
            'model': self.model.state_dict(),
            'generator_adam': self.generator_adam.state_dict(),
            'discriminator_adam': self.discriminator_adam.state_dict(),
            'history': self.history,
            'frames': self.frames,
        }

    def load_state_dict(self, state):
        self.model.load_state_dict(state['model'])
        self.generator_adam.load_state_dict(state['generator_adam'])
        self.discriminator_adam.load_state_dict(state['discriminator_adam'])
        self.step_number = state['step']
        self.history.copy_(state['history'])
        self.frames = state['frames'].cpu()

    def step(self, rows, _):
        """One step of each player on the real images in rows, int64 [B]."""
        model, step, seed = self.model, self.step_number, self.config['seed']
        for adam in (self.generator_adam, self.discriminator_adam):
            for group in adam.param_groups:
                group['lr'] = self.config['lr'] * training.one_cycle(step, self.total_steps, warm_up=0.02)
        shifts = torch.Generator().manual_seed(
            training.fold(seed << 24 | step)
        )  # a step's own: a resumed run repeats it
        real = 2 * self.images[rows].view(len(rows), *networks.channels_first(model.shape)) - 1
        fake = model.generator(
            model.sample_prior(len(rows), seed=training.key(seed, training.TRAIN), step=step)
        )

        d_real, d_fake = model.discriminator(shift(torch.cat([real, fake.detach()]), shifts)).view(
            2, -1
        )  # logits [B]
        d_loss = F.softplus(-d_real).mean() + F.softplus(d_fake).mean()  # -log D(x) - log(1 - D(G(z)))
        self.discriminator_adam.zero_grad()
        d_loss.backward()
        self.discriminator_adam.step()

        model.discriminator.requires_grad_(False)  # the generator's step needs none of its gradients
        g_loss = F.softplus(-model.discriminator(shift(fake, shifts))).mean()  # -log D(G(z))
        self.generator_adam.zero_grad()
        g_loss.backward()
        self.generator_adam.step()
        model.discriminator.requires_grad_(True)

        self.history[step % self.steps_per_epoch] = torch.stack(
            [d_loss, g_loss, torch.sigmoid(d_real).mean(), torch.sigmoid(d_fake).mean()]
        ).detach()
        self.step_number += 1

    def check_weights(self, rows):
        """NotFinite: a weight is not finite. The last step's harm is in the weights only."""
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise self.not_finite(self.step_number)

    def describe(self, means):
        """The progress bar's text."""
        return f'D(x) {means[2]:.2f}, D(G(z)) {means[3]:.2f}'

    @torch.no_grad()
    def end_epoch(self, epoch, means):
        """The epoch's line of metrics.jsonl, less its seconds. Every so many epochs the draws of samples.gif are kept as
        they are now."""
        if epoch % math.ceil(self.config['epochs'] / FRAMES) == 0:
            self.model.eval()  # batch normalisation by its running statistics: an image does not depend on the others
            z = self.model.sample_prior(DRAWS, seed=training.key(self.config['seed'], training.PRIOR))
            self.frames = torch.cat([self.frames, self.model.decode(z).round().byte().cpu()[None]])
            self.model.train()
        return {'epoch': epoch, **dict(zip(NAMES, means))}


def fit(model, dataset, config, folder, resume=None):
    """Train both players, as training.train_epochs does.

    Returns the final checkpoint's state, whose 'frames' are uint8 [FRAMES or fewer, DRAWS, *shape], and the seconds of training.
    """
    trainer = Trainer(model, training.Images(dataset, next(model.parameters()).device), config)
    seconds = training.train_epochs(trainer, folder, resume)
    model.eval().requires_grad_(False)
    state = {'stage': 'trained', 'config': config, 'model': model.state_dict(), 'frames': trainer.frames}
    utils.save_checkpoint(folder / 'checkpoint.pt', state)
    return state, seconds
