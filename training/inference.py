"""Fitting latents with the decoder frozen: of new images, and of the training images after training."""

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.batches import MANY, Images
from training.config import SPARSE, Config
from training.cuda_graph import with_cuda_graph
from training.data import ImageDataset
from training.distributed import all_gather
from training.errors import NotFinite
from training.initialization import apply_warm_start
from training.objective import CHUNK, NegativeELBO, encode
from training.optimisers import RowAdam, one_cycle
from training.randomness import INFER, REFINE, noise_key
from training.runs import TrainedRun

BATCH = 250  # images


class Schedule(NamedTuple):
    """How latents are fitted: by how many passes over their images, with which peak learning rate.

    quiet: the share of the passes that come first, without noise: they move the locations alone, by the image
    of the mean in place of a sample's. Locations that start far from their place get there in fewer passes.
    The last passes then weigh locations and scales against the noise.
    """

    passes: int
    lr: float
    quiet: float = 0.0


AFTER_TRAINING = Schedule(passes=10, lr=0.075)  # the latents of the training images
NEW_IMAGES = Schedule(passes=40, lr=0.15)  # the course allows 100 passes
NEW_IMAGES_QUIET = Schedule(passes=24, lr=0.35, quiet=0.8)
NEW_IMAGES_FAR = Schedule(passes=40, lr=0.5)


@torch.enable_grad()  # whatever the caller does
def fit_latents(
    model: nn.Module,
    latents: Tensor,
    images: Images,
    config: Config,
    use: int,
    schedule: Schedule,
    label: str,
) -> Tensor:
    """Fit latents [n, K] of the first n images, the decoder frozen, in place; returns them.

    use: of the noise, see randomness.py. label: of the progress bar. The images do not interact, so batches
    need not be shuffled. NotFinite: latents are not finite afterwards.
    """
    model.eval()  # batch normalisation, in the decoders that have it, by its running statistics
    # Little momentum: in so few passes, the usual 0.9 would lag behind.
    objective, adam = NegativeELBO(model, config), RowAdam(latents, beta1=0.5, beta2=0.99)
    batches = torch.arange(len(latents), device=latents.device).split(BATCH)
    seed, (passes, lr, quiet) = noise_key(config.seed, use), schedule

    def step(local_index, pass_number, rate, noise):
        x, observed = images[local_index]
        leaf = latents[local_index].requires_grad_()  # [B, K]
        params, mean = model.params(leaf), model.mean(leaf)  # [B, P, D], [B, D]
        index = images.first + local_index
        z, kl = model.sample(params, seed=seed, step=pass_number, index=index)  # [B, D], [B]
        # Not `if noise`: one CUDA graph, in which it is a tensor, serves both.
        z = torch.where(torch.as_tensor(noise, device=z.device), z, mean)
        reconstruction = objective.reconstruction(z, x, observed)  # [B]
        # The sum: each image descends its own loss, whatever the batch. Only the leaf has a gradient.
        (gradient,) = torch.autograd.grad((reconstruction + config.beta * kl).sum(), leaf)
        # The first D latents are locations. Without noise only the KL would move the others, to the prior.
        gradient[:, model.latent_dim :] *= noise
        adam.step(local_index, gradient, rate)

    step = with_cuda_graph(step, images, config)
    with tqdm(total=passes * len(batches), desc=label, disable=None, leave=False) as progress:
        for pass_number in range(passes):
            rate = lr * one_cycle(pass_number, passes, warm_up=0.05)
            noise = pass_number >= quiet * passes
            for local_index in batches:
                step(local_index, pass_number, rate, noise)
                progress.update()
    if not torch.isfinite(latents).all():
        raise NotFinite(
            f'expected finite latents after fitting them, got {int((~torch.isfinite(latents)).sum())} that '
            f'are not; train with a lower --lr or a higher --obs-std'
        )
    return latents


def refine_latents(model: nn.Module, latents: Tensor, images: Images, config: Config) -> Tensor:
    """Standardise the latents of images and copies, and refit those of the images: [len(images), K].

    The latents followed a decoder that moved on. Refitted under the decoder as it is now, they come to where
    new images' latents will come: training and test latents become comparable, and closer to the prior.

    The latents of many images are not refitted. The learning rate falls for tens of thousands of steps, and
    they keep up with the decoder: of 60,000 images, 10 passes lower the negative ELBO by 7 nats of 366, and
    that of test images by nothing, but take a third of the time of training.
    """
    latents = model.standardise(latents, all_gather(latents[: images.n]))
    if images.total > MANY:
        return latents
    own = latents[: images.n].clone()
    latents[: images.n] = fit_latents(model, own, images, config, REFINE, AFTER_TRAINING, 'refining')
    return latents


def new_images_schedule(model: nn.Module, dataset: ImageDataset, config: Config) -> Schedule:
    """How the new images of a data set are fitted under a model.

    First without noise where posteriors are narrow, and symmetric around any location: that saves a third of
    the time, and lowers the negative ELBO besides. In a wide posterior, as of an image with few pixels or of
    a binary one, the place that is best without noise is a bad one with it. In a family without a scale only
    locations far from the prior's say much: they move faster. docs/how-it-works.md has figures.
    """
    if model.dist and len(model.family.parameters) == 1:
        return NEW_IMAGES_FAR
    symmetric = model.dist and model.family.location_scale
    narrow = config.likelihood == 'gaussian' and (dataset.missing_share() or 0.0) < SPARSE
    return NEW_IMAGES_QUIET if symmetric and narrow else NEW_IMAGES


def infer_latents(
    trained: TrainedRun,
    dataset: ImageDataset,
    passes: int | None = None,
    refine: bool = False,
    copies: bool = False,
    label: str = 'fitting test latents',
) -> tuple[Tensor, float]:
    """Latents [n, K] of new images under a trained model (a runs.TrainedRun), and the seconds that it took.

    They are the encoder's; without an encoder they start at the linear map's, and are fitted in so many
    passes (None: those of new_images_schedule). refine: fit the posteriors that an encoder gives, too.
    copies: of the shifted copies too, after the images', [len(images), K]. label: of the progress bar. Images
    of which nothing is observed have the prior's, unless it is learned: then they stay as they are.
    """
    started = time.perf_counter()
    model, config = trained.model, trained.config
    images = Images(dataset, model.pixel_bias.device)
    local_index = torch.arange(len(images), device=images.device) if copies else images.own()
    if model.encoder:
        latents = encode(model, images, local_index)
    else:
        completion = None if images.observed is None else trained.completion
        latents = apply_warm_start(trained.warm_start, images, local_index, completion)
    if not model.encoder or refine and model.dist:
        schedule = new_images_schedule(model, dataset, config)
        if passes is not None:
            schedule = schedule._replace(passes=passes)
        latents = fit_latents(model, latents, images, config, INFER, schedule, label)
    if images.observed is not None and model.prior is None:
        seen = [images[index][1].flatten(1).any(1) for index in local_index.split(CHUNK)]  # bool [B] each
        latents[~torch.cat(seen)] = 0  # parameters 0 are the prior
    return latents, time.perf_counter() - started
