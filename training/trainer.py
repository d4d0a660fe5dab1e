"""One step of training: forward, backward, two optimisers. `loop.fit` takes the steps."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from training.batches import Images, epoch_length
from training.config import Config
from training.cuda_graph import CUDAGraphStep, with_cuda_graph
from training.distributed import all_reduce, any_process, fail, is_main, replicate, synchronise_batch_norm
from training.errors import NotFinite
from training.initialization import initialize_pixel_bias
from training.objective import encode, make_objective, mean_terms
from training.optimisers import RowAdam, adam_schema, load_adam, one_cycle
from training.randomness import INFER, TRAIN, fold, noise_key
from training.regularisation import EarlyStopping, make_pruning_permanent, prune_weights
from training.schema import check


class BaseTrainer:
    """What Trainer and GANTrainer share: the count of steps, and what the steps of this epoch gave.

    `loop.fit` also needs step, describe, end_epoch, check_weights, finish, state_dict and load_state_dict.
    """

    remedy = 'a lower --lr'

    def __init__(self, model: nn.Module, images: Images, config: Config, terms: int):
        """terms: how many numbers a step gives."""
        self.model, self.images, self.config = model, images, config
        self.step_number = 0
        self.steps_per_epoch = math.ceil(epoch_length(images.total, images.X.shape[1:]) / config.batch_size)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.history = torch.zeros(self.steps_per_epoch, terms, device=images.device)  # of this epoch

    def done(self) -> bool:
        return self.step_number >= self.total_steps

    def check_finite(self) -> list[float]:
        """Means of what the steps of this epoch gave so far. NotFinite: names the first bad step."""
        steps = (self.step_number - 1) % self.steps_per_epoch + 1  # of this epoch
        history = all_reduce(self.history[:steps].clone()).cpu()  # [steps, terms]
        bad = (~torch.isfinite(history).all(1)).nonzero()
        if len(bad):
            fail(self.not_finite(self.step_number - steps + int(bad[0])))
        return history.mean(0).tolist()

    def not_finite(self, step: int) -> NotFinite:
        return NotFinite(
            f'expected a finite loss, got none at step {step} (epoch {step // self.steps_per_epoch + 1}); '
            f'nothing after the last good checkpoint was saved. Delete the run and train with {self.remedy}'
        )

    def finish(self):
        """Called once, after the last step."""
        self.model.eval().requires_grad_(False)


SMALLEST_STD = 1e-3  # that --obs-std auto finds: a quarter of a grey level
PRIOR_SPEED = 5  # of a learned prior: its learning rate as a multiple of the decoder's
FOLLOW = 0.02  # share of the way that --obs-std auto goes in a step: it averages about 50 batches


class Trainer(BaseTrainer):
    """Trains a model together with the latents of its images, or with its encoder."""

    remedy = 'a lower --lr, --latent-lr or a higher --obs-std'

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        config: Config,
        latents: Tensor | None = None,
        validation: Images | None = None,
    ):
        """latents [len(images), K]: changed in place; None: those of the encoder.

        validation: images whose loss is measured after every epoch, for a model with an encoder.
        """
        model = synchronise_batch_norm(model)  # in place
        super().__init__(model, images, config, terms=2)  # reconstruction and KL
        self.latents, self.validation = latents, validation
        initialize_pixel_bias(model, images)
        # With --obs-std auto it follows the mean squared error of a pixel, its maximum-likelihood value
        # (Rybkin et al., "Simple and effective VAE training with calibrated decoders", 2021).
        self.variance = (
            torch.tensor(config.obs_std**2, device=images.device) if config.learn_obs_std else None
        )
        self.objective = replicate(make_objective(model, config, self.variance))
        self.run_update = with_cuda_graph(self.update, images, config)
        self.uses_graph = isinstance(self.run_update, CUDAGraphStep)
        prior = [] if model.prior is None else list(model.prior.parameters())
        others = [weight for name, weight in model.named_parameters() if not name.startswith('prior.')]
        groups = [dict(params=others, speed=1.0), dict(params=prior, speed=PRIOR_SPEED)]
        self.adam = torch.optim.Adam(
            [group for group in groups if group['params']],
            lr=config.lr,
            betas=(0.9, 0.99),
            fused=True,
            capturable=self.uses_graph,
            weight_decay=config.weight_decay,
            decoupled_weight_decay=True,
        )
        if latents is not None:
            # No momentum: a row's last gradient is of an epoch ago, of another decoder and other noise. What
            # that gains: docs/how-it-works.md.
            self.latents_adam = RowAdam(latents, beta1=0.0, beta2=0.999)
        self.pruning_step = config.epochs // 2 * self.steps_per_epoch if config.prune else math.inf
        self.early_stopping = EarlyStopping(config.patience, config.min_delta)

    def step(self, index: Tensor, batch_size: int):
        """One step on batch_size images, of which this process owns those with index, int64 [B]."""
        config, step = self.config, self.step_number
        if step == self.pruning_step:
            prune_weights(self.model, config.prune)
        if config.dropout:  # which outputs are dropped is a function of seed and step, like all noise here
            torch.manual_seed(fold(config.seed * 1_000_003 + step))
        factor = one_cycle(step, self.total_steps, warm_up=0.1)
        self.run_update(index, step, config.lr * factor, config.latent_lr * factor, batch_size)
        self.step_number += 1

    def update(self, index: Tensor, step, lr, latent_lr, batch_size):
        """Forward, backward, and a step of both optimisers, on this process's part of a batch.

        step, lr, latent_lr, batch_size: numbers, or 0-d tensors in a CUDA graph.
        """
        config = self.config
        local_index, weight = self.images.local_index(index), 1 / batch_size
        has_images = len(index) > 0
        if not has_images:  # the other processes wait for a gradient: that of any image, times 0
            local_index, weight = torch.zeros(1, dtype=torch.int64, device=self.images.device), 0.0
            index = self.images.first + local_index
        # [B, 28, 28] in 0-1; bool [B, 28, 28], or None
        x, observed = self.images.in_training(index, local_index, config.seed, step)
        if self.latents is None:
            params = self.model.params(self.model.encode(x, observed))  # [B, P, D]
        else:
            params = self.model.params(self.latents[local_index]).requires_grad_()  # [B, P, D], a leaf
        seed = noise_key(config.seed, TRAIN)
        terms = self.objective(params, x, observed, seed=seed, step=step, index=index)
        reconstruction, kl = terms  # [B] each, nats
        # The mean over the batch, or this process's part of it: `replicate` adds up the processes' gradients.
        loss = (reconstruction + config.beta * kl).sum() * weight
        if self.variance is not None:
            self.follow_error(reconstruction.detach(), x, observed, has_images)
        self.adam.zero_grad()
        loss.backward()
        for group in self.adam.param_groups:
            group['lr'] = lr * group['speed']
        self.adam.step()
        if self.latents is not None and has_images:
            # Each image's latents descend its own loss: the mean's gradient, times B, whatever the batch.
            self.latents_adam.step(local_index, params.grad.flatten(1) * batch_size, latent_lr)
        terms = torch.stack([reconstruction.sum(), kl.sum()]).detach() * weight
        position = step % self.steps_per_epoch
        # Indexing by a tensor, or writing a number, would synchronise with the GPU.
        if torch.is_tensor(position):
            self.history.index_copy_(0, position.view(1), terms[None])
        else:
            self.history[position] = terms

    def follow_error(self, reconstruction: Tensor, x: Tensor, observed: Tensor | None, has_images: bool):
        """Move the variance towards the mean squared error of this batch's observed pixels, if it has any."""
        # new_full: a number of the host's could not be copied while a CUDA graph is captured.
        pixels = (
            self.variance.new_full((), x.numel()) if observed is None else observed.sum().to(self.variance)
        )
        error = 2 * self.variance * reconstruction.sum()
        error, pixels = all_reduce(torch.stack([error, pixels]) * has_images)  # of all processes
        target = torch.where(pixels > 0, error / pixels.clamp_min(1), self.variance)
        self.variance.lerp_(target, FOLLOW).clamp_min_(SMALLEST_STD**2)

    @property
    def obs_std(self) -> float:
        """The standard deviation of a pixel given its latents: the configuration's, or what training
        found."""
        return self.config.obs_std if self.variance is None else float(self.variance.sqrt())

    def end_epoch(self, epoch: int, means: list[float]) -> dict[str, float]:
        """The epoch's line of metrics.jsonl, without seconds. means: of its steps' reconstruction and KL."""
        reconstruction, kl = means
        loss = reconstruction + self.config.beta * kl
        line = {'epoch': epoch, 'loss': loss, 'reconstruction': reconstruction, 'kl': kl}
        if self.validation:
            line.update(validate(self.model, self.validation, self.config, self.variance))
            self.model.train()
        pruned = self.step_number > self.pruning_step  # an earlier epoch, not pruned, cannot be the best
        if self.config.patience and (pruned or not self.config.prune):
            self.early_stopping.update(epoch, line['validation_loss'], self.model)
        return line

    def describe(self, means: list[float]) -> str:
        """The text of the progress bar."""
        return f'loss {means[0] + self.config.beta * means[1]:.1f} nats'

    def done(self) -> bool:
        return super().done() or self.early_stopping.should_stop(self.step_number // self.steps_per_epoch)

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights early stopping kept; 0: none."""
        return self.early_stopping.best['epoch']

    def finish(self):
        self.early_stopping.restore(self.model)
        make_pruning_permanent(self.model)
        super().finish()

    @torch.no_grad()
    def check_weights(self, index: Tensor):
        """NotFinite: the weights as they are now give the images with index, int64 [B], a loss that is not
        finite. The losses in the history were computed before the last step: they do not tell what it did."""
        self.model.eval()  # or batch normalisation would count these images
        local_index = self.images.local_index(index)
        x, observed = self.images[local_index]
        latents = self.model.encode(x, observed) if self.latents is None else self.latents[local_index]
        seed = noise_key(self.config.seed, TRAIN)
        objective = make_objective(self.model, self.config)  # of this process alone
        params = self.model.params(latents)
        terms = objective(params, x, observed, seed=seed, step=self.step_number, index=index)
        self.model.train()
        if any_process(not all(torch.isfinite(term).all() for term in terms)):
            fail(self.not_finite(self.step_number))

    # ------------------------------------------------------------------------------------ checkpoints

    def shares(self) -> dict[str, Tensor]:
        """The latents and their Adam's state of this process's images, as views [1 + copies, n, ...]."""
        if self.latents is None:
            return {}
        state = {'latents': self.latents, **self.latents_adam.state_dict()}
        return {name: x.view(-1, self.images.n, *x.shape[1:]) for name, x in state.items()}

    def state_dict(self) -> dict:
        return {
            'step': self.step_number,
            'model': self.model.state_dict(),
            'adam': self.adam.state_dict(),
            'history': all_reduce(self.history.clone()),
            'best': self.early_stopping.best,
            'shares': self.shares(),
            **({} if self.variance is None else {'variance': self.variance}),
        }

    def load_state_dict(self, state: dict, path: Path):
        """Take over the state of the checkpoint in path; the shares are left to checkpoints.load_shares.

        UserError: it is not of this trainer.
        """
        check(state.get('step'), range(1, self.total_steps + 1), path, 'step')
        if state['step'] > self.pruning_step:
            # Gives the layers their masks, whose values are in the state.
            prune_weights(self.model, self.config.prune)
        weights, best = self.model.state_dict(), {'epoch': range(self.config.epochs + 1), 'loss': float}
        check(state.get('best'), dict, path, 'best')
        check(state['best'].get('epoch'), best['epoch'], path, 'best.epoch')
        if state['best']['epoch']:
            best['model'] = weights
        adam = adam_schema(self.adam)
        parts = dict(model=weights, adam=adam, history=self.history, best=best, shares=dict)
        if self.variance is not None:
            parts['variance'] = self.variance
        check(state, {'stage': str, 'config': dict, 'step': int, **parts}, path)
        self.early_stopping.best = state['best']
        self.model.load_state_dict(state['model'])
        load_adam(self.adam, state['adam'])
        self.step_number = state['step']
        self.history.copy_(state['history'])
        if self.variance is not None:
            self.variance.copy_(state['variance'])
        if not is_main():
            self.history.zero_()  # it is the sum of all processes'


def validate(
    model: nn.Module, images: Images, config: Config, variance: Tensor | None = None
) -> dict[str, float]:
    """Loss and terms for the encoder's latents of new images: a part of a line of metrics.jsonl. variance: as
    NegativeELBO's."""
    seed = noise_key(config.seed, INFER)
    objective = make_objective(model, config, variance)
    reconstruction, kl = mean_terms(objective, encode(model, images), images, seed=seed)
    return {
        'validation_loss': reconstruction + config.beta * kl,
        'validation_reconstruction': reconstruction,
        'validation_kl': kl,
    }
