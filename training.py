"""The one loop: where the latents start, training, inference for new images, checkpoints and resuming.

Both training (of decoder and latents) and inference (of latents alone, the decoder frozen) minimise the negative ELBO,
averaged over the batch,

    |x - render(z)|^2 / (2 obs_std^2) + beta * KL(q(z) || p(z)),        z ~ q(z; latents of x)

with pixels x in 0-1; with a Bernoulli likelihood the first term is the binary cross-entropy. An image owns its latents,
a row of a table, or has them from an encoder, which trains with the decoder. Training also shows copies of the images,
shifted by one pixel, in the table with latents of their own: a thousand images are few, and a decoder that never saw
the same coat one pixel lower overfits.
"""

import json
import math
import signal
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch.nn.utils import prune
from tqdm import tqdm

import kernels
import processes
import utils

# Which use of noise a Philox key belongs to: its high 32 bits. The low ones are --seed.
TRAIN, REFINE, INFER, GRADE, PRIOR = range(5)

SHIFTS = (
    (1, 1),
    (0, 1),
    (2, 1),
    (1, 0),
    (1, 2),
)  # rows and columns of padding cut off at the top left; 1, 1: none
COPIES_PER_EPOCH = 2  # of each image's 4 shifted copies, on average; the image itself comes every epoch
REFINE_PASSES = 10  # over the training latents after training, the decoder frozen
INFER_PASSES = 40  # over new images; the course allows 100
INFER_LR = 0.1
INFER_BATCH = 250
KEEP = 0.186  # a principal component starts switched on if its posterior spread is at most this
PCA_IMAGES = 20_000  # that principal components are estimated from, at most
RIDGE_ROWS = 100_000  # that the linear start of new images is, at most
CHECK_EVERY = 50  # steps between looks at the loss, which on a GPU make the host wait


class NotFinite(utils.UserError):
    pass


def key(seed, use):
    return use << 32 | seed


def fold(number):
    """A number of up to 64 bits as one of 32 for PyTorch's CPU generator, which ignores the bits above: they move the lower
    ones, or seeds would repeat each other."""
    return (number ^ (number >> 32) * 0x9E3779B1) % 2**32


# ------------------------------------------------------------------------------------------------ images

MANY = 100_000  # from here on no shifted copies: they are for few images, and their latents would take four times the memory


def copies(n):
    """How many shifted copies each of n images has."""
    return len(SHIFTS) - 1 if n <= MANY else 0


class Images:
    """A data set and its shifted copies; row = copy * n + image. As uint8 on the device, or, if it is mapped, in its file.

    share: the slice of the data set that this process owns; n counts those. An image is the same whatever the shares: its
    number is that of its row if there were one share, copy * total + image.
    """

    def __init__(self, dataset, device, share=slice(None)):
        own = dataset.part(share)
        self.X = own.X if own.mapped else own.X.to(torch.uint8).to(device)  # [n, 28, 28] or [n, C, H, W]
        self.device = torch.device(device)
        self.shifts = torch.tensor(SHIFTS, device=device)
        self.n, self.total, self.first = len(own), len(dataset), share.start or 0

    def __len__(self):
        return self.n * (1 + copies(self.total))

    def rows(self, numbers):
        """The rows here of images with these numbers, int64 [B]."""
        return numbers // self.total * self.n + numbers % self.total - self.first

    def epoch(self, seed, epoch, batch_size):
        """An epoch's batches: of each the numbers of the images that this process owns, int64 [B], and how many all own."""
        whole = epoch_order(self.total, seed, epoch).split(batch_size)
        image = [numbers % self.total - self.first for numbers in whole]
        own = [numbers[(0 <= i) & (i < self.n)] for numbers, i in zip(whole, image)]
        on_device = torch.cat(own).to(self.device).split([len(numbers) for numbers in own])  # one transfer
        return list(zip(on_device, map(len, whole)))

    def __getitem__(self, rows):
        """rows: int64 [B] -> [B, 28, 28] (or [B, C, H, W]), float32 in 0-1."""
        height, width = self.X.shape[-2:]
        x = F.pad(self.X[(rows % self.n).to(self.X.device)].to(self.device), (1, 1, 1, 1))  # [B, 30, 30]
        windows = x.unfold(-2, height, 1).unfold(-2, width, 1)  # [B, 3, 3, 28, 28], a view
        top, left = self.shifts[rows // self.n].unbind(1)
        return windows[torch.arange(len(rows), device=self.device), ..., top, left, :, :].float() / 255


def epoch_length(n):
    """How many rows an epoch of n images has."""
    return n * (1 + min(COPIES_PER_EPOCH, copies(n)))


def epoch_order(n, seed, epoch):
    """The rows of one epoch, shuffled: every image once, and of their copies COPIES_PER_EPOCH * n. int64 [3n]."""
    generator = torch.Generator().manual_seed(fold(seed << 20 | epoch))
    shifted = n + torch.randperm(copies(n) * n, generator=generator)[: COPIES_PER_EPOCH * n]
    rows = torch.cat([torch.arange(n), shifted])
    return rows[torch.randperm(len(rows), generator=generator)]


def features(x):
    """Images [B, 28, 28] in 0-1 to what linear methods see, [B, 784]: the square root lifts faint texture,
    and its neighbourhoods follow the classes better than those of the pixels. Of larger images, averages over
    squares of pixels, about 1,000 in all: the cost of linear methods is cubic."""
    side = max(1, math.ceil((x[0].numel() / 1024) ** 0.5))
    return F.avg_pool2d(x, side).flatten(1).sqrt() if side > 1 else x.flatten(1).sqrt()


# ------------------------------------------------------------------------------------- where latents start


def principal_components(images, latent_dim):
    """Whitened scores [len(images), D] of this process's rows on the first D components of the images' features, and the
    components' variances [D]. Where the images have fewer components, zeros."""
    step = math.ceil(images.total / PCA_IMAGES)
    some = torch.arange(-images.first % step, images.n, step, device=images.device)
    x = processes.gather(features(images[some])).cpu().numpy()  # [total / step, 784]
    dims = min(latent_dim, len(x) - 1, x.shape[1])
    if dims < 1:  # a single image
        return torch.zeros(len(images), latent_dim), torch.zeros(latent_dim)
    with np.errstate(invalid='ignore'):  # images that are all the same have no variance to explain
        pca = PCA(dims, svd_solver='covariance_eigh').fit(x)
    chunks = torch.arange(len(images), device=images.device).split(10_000)
    scores = torch.cat(
        [torch.as_tensor(pca.transform(features(images[rows]).cpu().numpy())) for rows in chunks]
    )
    variance = torch.as_tensor(pca.explained_variance_).clamp_min(1e-8)
    padding = (0, latent_dim - dims)
    return F.pad(scores / variance.sqrt(), padding).float(), F.pad(variance, padding).float()


def start_latents(model, images, obs_std):
    """Latents [len(images), K] from principal components; sets the decoder's input up to match.

    Whitened scores have mean 0 and variance 1, so posteriors that start there start inside the prior. Their
    spread is that of a linear model whose observations have the standard deviation obs_std. Then, by the kind
    of posterior:
    - a point takes all components, and so do
    - families with a scale, but only where the spread is at most KEEP: the others start at the prior, cut off
      from the decoder, and are bought back if they are worth their KL. Fewer dimensions in use leave fewer
      empty places for a random sample to fall into.
    - families without a scale cannot make a dimension precise. A random rotation spreads the components over
      all dimensions, with amplitudes variance^(1/4), the best for a linear channel with equal noise in each.
    """
    device, d = images.device, model.latent_dim
    code, variance = principal_components(images, d)  # [rows, D], [D]
    spread = obs_std / torch.sqrt(variance + obs_std**2)  # [D]
    if model.dist and model.params_per_dim == 1:
        generator = torch.Generator().manual_seed(
            0
        )  # which rotation does not matter: the same for every seed
        # Orthonormal columns, the first of them along the diagonal (1, ..., 1). The diagonal stays unused: an
        # exponential's locations sit off the prior's along it, and what it carried would change with each prior sample.
        basis, _ = torch.linalg.qr(
            torch.cat([torch.ones(d, 1), torch.randn(d, d - 1, generator=generator)], 1)
        )
        used = max(1, d - 1)
        code = (code * variance**0.25)[:, :used] @ basis[:, d - used :].T
        code = code / processes.mean(code.square()).sqrt().clamp_min(1e-8)
    else:
        keep = (
            spread <= max(KEEP, float(spread.min())) if model.dist else torch.ones(d, dtype=torch.bool)
        )  # [D]
        code, spread = code * keep, torch.where(keep, spread, 1.0)
        model.decoder.stem.weight.data[:, ~keep.to(device)] = 0
        # A Gaussian's draws lie near the sphere of radius sqrt(D). Codes of one length also make better
        # neighbours: short ones would be everybody's nearest.
        code = F.normalize(code) * keep.sum().sqrt()
    return model.initialize(code, spread).to(device)


@torch.no_grad()
def start_pixel_bias(model, images):
    """Let the model begin at the mean image: logits [28, 28] where the decoder gives 0."""
    chunks = torch.arange(images.n, device=images.device).split(10_000)
    mean = processes.total(sum(images[rows].sum(0) for rows in chunks)) / images.total
    model.pixel_bias.copy_(torch.logit(mean.clamp(0.02, 0.98)))


def ridge_regression(inputs, targets, penalty):
    """Weights [784 + 1, K] of a linear map with bias from features to targets [rows, K]; inputs: batches of images.

    Minimises the mean squared error, over the batches of all processes, plus penalty * |weights|^2. Float64, and one pass:
    memory does not grow.
    """
    gram = cross = count = 0
    for x, target in zip(inputs, targets):
        phi = F.pad(features(x), (0, 1), value=1.0).double()  # [B, 785]
        gram, cross, count = gram + phi.T @ phi, cross + phi.T @ target.double(), count + len(x)
    count = torch.tensor(count, dtype=torch.float64, device=gram.device)
    gram, cross, count = processes.total(gram), processes.total(cross), processes.total(count)
    gram.diagonal()[:-1] += penalty * count  # the bias goes unpunished
    return torch.linalg.solve(gram, cross).float()


def start_inference(model, warm_start, images):
    """Latents [n, K] for new images by the linear map that predicts the training latents: no luck involved."""
    rows = torch.arange(images.n, device=images.device).split(10_000)
    return torch.cat([F.pad(features(images[r]), (0, 1), value=1.0) @ warm_start for r in rows])


# ------------------------------------------------------------------------------------------- optimisation


class RowAdam:
    """Adam (Kingma and Ba, 2015) for the rows of a table [N, K], each with its own count of steps.

    A step touches the rows of the batch only, state included: its cost does not grow with N, and no row
    moves by the stale momentum of a gradient that it did not have.
    """

    def __init__(self, table, beta1=0.9, beta2=0.999):
        self.table, self.beta1, self.beta2 = table, beta1, beta2
        self.m, self.v = torch.zeros_like(table), torch.zeros_like(table)
        self.count = torch.zeros(len(table), dtype=torch.int64, device=table.device)

    def step(self, rows, gradient, lr):
        """rows: int64 [B], each at most once. gradient: [B, K]."""
        kernels.row_adam_(
            self.table, self.m, self.v, self.count, rows, gradient, lr=lr, beta1=self.beta1, beta2=self.beta2
        )

    def state_dict(self):
        return {'m': self.m, 'v': self.v, 'count': self.count}


class Replay:
    """work(*arguments), a function without a result, as a CUDA graph: one launch in place of its hundred small ones, which a host
    cannot launch as fast as they run.

    The graph reads its arguments, tensors and numbers, where they were when it was captured: each call writes them there. Tensors
    of other shapes (a last, smaller batch) are worked on as usual. What work touches besides must stay in its place, and it must
    not wait for the device.
    """

    WARM_UP = 3  # calls as usual at first: libraries set themselves up, and the optimiser makes its state

    def __init__(self, work, device):
        self.work, self.device, self.places, self.graph, self.calls = work, device, None, None, 0

    def __call__(self, *arguments):
        if self.places is None:
            self.places = [torch.as_tensor(argument, device=self.device).clone() for argument in arguments]
        pairs = list(zip(self.places, arguments))
        if any(torch.is_tensor(argument) and argument.shape != place.shape for place, argument in pairs):
            return self.work(*arguments)
        for place, argument in pairs:
            place.copy_(argument) if torch.is_tensor(argument) else place.fill_(argument)
        if self.calls < self.WARM_UP:
            self.warm_up()
        else:
            self.graph = self.graph or self.capture()
            self.graph.replay()
        self.calls += 1

    def warm_up(self):
        aside = torch.cuda.Stream()  # PyTorch's advice: a stream that nothing else waits for
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.work(*self.places)
        torch.cuda.current_stream().wait_stream(aside)

    def capture(self):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # writes down what would be launched, and launches nothing
            self.work(*self.places)
        return graph


def replayed(work, images, config):
    """work as a CUDA graph, if the configuration wants that, and images on a GPU allow it; else work."""
    if (
        config.get('cuda_graph')
        and images.X.device == images.device
        and images.device.type == 'cuda'
        and processes.count() == 1
    ):
        return Replay(work, images.device)
    return work


def one_cycle(step, steps, warm_up):
    """Factor of the learning rate at step 0 to steps - 1: a linear rise to 1 over the share warm_up of the steps,
    then a cosine to 0.01 at the last."""
    progress = (step + 1) / steps
    if progress < warm_up:
        return progress / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def negative_elbo(model, params, x, config, *, seed, step, ids):
    """The two terms per image in nats, reconstruction [B] and KL [B], for params [B, P, D], x [B, 28, 28].

    config: 'obs_std', for a Gaussian likelihood (up to its constant), or 'likelihood': 'bernoulli'.
    """
    z, kl = model.sample(params, seed=seed, step=step, index=ids)
    if config.get('likelihood') == 'bernoulli':
        return F.binary_cross_entropy_with_logits(model.logits(z), x, reduction='none').flatten(1).sum(1), kl
    squared_error = (x - model.render(z)).square().flatten(1).sum(1)
    return squared_error / (2 * config['obs_std'] ** 2), kl


class NegativeELBO(nn.Module):
    """negative_elbo as a module, which DistributedDataParallel can wrap."""

    def __init__(self, model, config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, params, x, **noise):
        return negative_elbo(self.model, params, x, self.config, **noise)


@torch.no_grad()
def encode(model, images, rows):
    """The encoder's latents [len(rows), K] for the images in rows, int64 [...]."""
    model.eval()
    return torch.cat([model.encoder(images[part]) for part in rows.split(1000)])


@torch.no_grad()
def mean_negative_elbo(model, latents, images, config, *, seed, step=0):
    """Means over all images of the two terms for their latents [n, K], by one sample for each: floats, nats."""
    model.eval()
    terms = [
        negative_elbo(
            model, model.params(latents[rows]), images[rows], config, seed=seed, step=step, ids=rows
        )
        for rows in torch.arange(len(latents), device=latents.device).split(1000)
    ]
    return tuple(float(torch.cat(term).mean()) for term in zip(*terms))


def infer(model, latents, images, config, *, use, passes, lr, label):
    """Fit latents [n, K] of the first n images, the decoder frozen. In place; returns them.

    Batches need no shuffling: the images do not interact.
    """
    model.eval()  # batch normalisation, in the decoders that have it, by its running statistics
    optimiser = RowAdam(latents, beta2=0.99)
    batches = torch.arange(len(latents), device=latents.device).split(INFER_BATCH)
    seed = key(config['seed'], use)

    def step(rows, i, rate):
        params = model.params(latents[rows]).requires_grad_()  # [B, P, D], a leaf
        reconstruction, kl = negative_elbo(
            model, params, images[rows], config, seed=seed, step=i, ids=images.first + rows
        )
        # The sum: each image descends its own loss, whatever the batch. Only params ask for a gradient.
        (gradient,) = torch.autograd.grad((reconstruction + config['beta'] * kl).sum(), params)
        optimiser.step(rows, gradient.flatten(1), rate)

    step = replayed(step, images, config)
    with tqdm(total=passes * len(batches), desc=label, disable=None, leave=False) as progress:
        for i in range(passes):
            for rows in batches:
                step(rows, i, lr * one_cycle(i, passes, warm_up=0.05))
                progress.update()
    if not torch.isfinite(latents).all():
        raise NotFinite(
            f'expected finite latents after fitting them, got {int((~torch.isfinite(latents)).sum())} that are '
            f'not; train with a lower --lr or a higher --obs-std'
        )
    return latents


# ------------------------------------------------------------------------------------------------ training


class InterruptFlag:
    """While active, Ctrl-C only raises a flag, so that the step in progress ends whole; a second one interrupts."""

    def __enter__(self):
        self.raised = False
        self.previous = signal.signal(signal.SIGINT, self.on_signal)
        return self

    def on_signal(self, *_):
        self.raised = True
        if (
            processes.count() == 1
        ):  # torchrun passes on the signal that its workers have from the terminal: it comes twice
            signal.signal(signal.SIGINT, self.previous)

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self.previous)


def hold_out(dataset):
    """The images to train on, and the last tenth, held out: two ImageDatasets. UserError: fewer than two images."""
    n = len(dataset) - max(1, len(dataset) // 10)
    if n < 1:
        raise utils.UserError(
            'expected two training images or more, to hold some out for --patience, got 1; use a larger '
            '--n-train'
        )
    return dataset.part(slice(n)), dataset.part(slice(n, None))


def prunable(model):
    return [
        module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]


def zero_weights(model):
    """Fraction of the weights of linear layers and convolutions that are 0 (biases do not count)."""
    weights = [module.weight for module in prunable(model)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


class Steps:
    """A trainer's steps: how many are done and are to be done, and what those of this epoch gave. train_epochs needs more of a
    trainer: step, describe, end_epoch, check_weights, state_dict, load_state_dict."""

    remedy = 'a lower --lr'

    def __init__(self, model, images, config, numbers):
        """numbers: how many a step gives."""
        self.model, self.images, self.config = model, images, config
        self.step_number = 0
        self.steps_per_epoch = math.ceil(epoch_length(images.total) / config['batch_size'])
        self.total_steps = self.steps_per_epoch * config['epochs']
        self.history = torch.zeros(self.steps_per_epoch, numbers, device=images.device)  # of this epoch

    def done(self):
        return self.step_number >= self.total_steps

    def check_finite(self):
        """Means of what this epoch's steps gave so far. NotFinite names the first bad step."""
        done = (self.step_number - 1) % self.steps_per_epoch + 1
        history = processes.total(self.history[:done].clone()).cpu()
        bad = (~torch.isfinite(history).all(1)).nonzero()
        if len(bad):
            processes.fail(self.not_finite(self.step_number - done + int(bad[0])))
        return history.mean(0).tolist()

    def not_finite(self, step):
        return NotFinite(
            f'expected a finite loss, got none at step {step} (epoch {step // self.steps_per_epoch + 1}); '
            f'nothing after the last good checkpoint was saved. Delete the run and train with {self.remedy}'
        )


class Trainer(Steps):
    """Everything that a step changes: model, table (if no encoder is in its place), their optimisers, the steps done;
    and the best weights so far, where early stopping (`patience` in config) looks for them."""

    remedy = 'a lower --lr, --latent-lr or a higher --obs-std'

    def __init__(self, model, images, config, validation=None):
        """images, validation: Images to train on, and to measure the loss on after every epoch."""
        super().__init__(model, images, config, numbers=2)  # reconstruction and KL
        self.validation = validation
        start_pixel_bias(model, images)
        self.elbo = NegativeELBO(model, config)
        if processes.count() > 1:
            self.elbo = nn.parallel.DistributedDataParallel(
                self.elbo, gradient_as_bucket_view=True
            )  # saves copies
        self.replayed_update = replayed(self.update, images, config)
        self.adam = torch.optim.Adam(
            model.parameters(),
            lr=config['lr'],
            betas=(0.9, 0.99),
            fused=True,
            capturable=isinstance(self.replayed_update, Replay),
            weight_decay=config.get('weight_decay', 0),
            decoupled_weight_decay=True,
        )
        self.table = None
        if not model.encoder:
            self.table = start_latents(model, images, config['obs_std'])  # [5n, K]
            self.table_adam = RowAdam(self.table)
        self.pruning_step = config['epochs'] // 2 * self.steps_per_epoch if config.get('prune') else None
        self.best = {'epoch': 0, 'loss': math.inf}

    def state_dict(self):
        return {
            'stage': 'training',
            'config': self.config,
            'step': self.step_number,
            'model': self.model.state_dict(),
            'adam': self.adam.state_dict(),
            'history': processes.total(self.history.clone()),
            'best': self.best,
            'shares': self.shares(),
        }

    def shares(self):
        """The table and its Adam's state, views [1 + copies, n, ...]: what this process has for the images that it owns."""
        if self.table is None:
            return {}
        return {
            name: x.view(-1, self.images.n, *x.shape[1:])
            for name, x in {'table': self.table, **self.table_adam.state_dict()}.items()
        }

    def load_state_dict(self, state):
        """All but the shares, which processes.load reads."""
        if self.pruning_step is not None and state['step'] > self.pruning_step:
            self.prune()  # gives the modules their masks; which weights those hide is in the state
        self.best = state['best']
        self.model.load_state_dict(state['model'])
        self.adam.load_state_dict(state['adam'])
        for group in self.adam.param_groups:
            group['capturable'] = isinstance(
                self.replayed_update, Replay
            )  # here, wherever the checkpoint was written
        self.step_number = state['step']
        self.history.copy_(state['history'])
        if processes.rank():
            self.history.zero_()  # it is the sum of all processes'

    def step(self, numbers, batch_size):
        """One step of model and latents on a batch of batch_size images, of which numbers, int64 [B], are this process's."""
        config, step = self.config, self.step_number
        if step == self.pruning_step:
            self.prune()
        if config.get('dropout'):
            # Which outputs are dropped is a function of seed and step, like all other noise here.
            torch.manual_seed(fold(config['seed'] * 1_000_003 + step))
        factor = one_cycle(step, self.total_steps, warm_up=0.1)
        rates = config['lr'] * factor, config.get('latent_lr', 0.0) * factor
        if processes.count() > 1:
            self.update(numbers, step, *rates, batch_size)
        else:
            self.replayed_update(numbers, step, *rates)
        self.step_number += 1

    def update(self, numbers, step, lr, latent_lr, batch_size=None):
        """step, lr, latent_lr: numbers, or 0-d tensors for a CUDA graph. batch_size: None if numbers are the whole batch."""
        config, weight = self.config, processes.count() / (batch_size or len(numbers))
        rows = self.images.rows(numbers)
        if not len(
            rows
        ):  # a process without a part in the batch takes an image of no weight: the others wait for its gradient
            rows, weight = torch.zeros(1, dtype=torch.int64, device=self.images.device), 0.0
            numbers = self.images.first + rows
        x = self.images[rows]
        for group in self.adam.param_groups:
            group['lr'] = lr
        if self.table is None:
            params = self.model.params(self.model.encoder(x))  # [B, P, D]
        else:
            params = self.model.params(self.table[rows]).requires_grad_()  # [B, P, D], a leaf
        reconstruction, kl = self.elbo(params, x, seed=key(config['seed'], TRAIN), step=step, ids=numbers)
        self.adam.zero_grad()
        ((reconstruction + config['beta'] * kl).sum() * weight).backward()
        self.adam.step()
        if self.table is not None and weight:
            # Without the weight: a row's gradient is that of its own loss, not of a mean it has a share in.
            self.table_adam.step(
                rows, params.grad.flatten(1) * ((batch_size or len(numbers)) / processes.count()), latent_lr
            )
        terms = torch.stack([reconstruction.sum(), kl.sum()]).detach() * (weight / processes.count())
        position = step % self.steps_per_epoch
        if torch.is_tensor(
            position
        ):  # as an index the host would ask the device for it, as a number the device the host
            self.history.index_copy_(0, position.view(1), terms[None])
        else:
            self.history[position] = terms

    def prune(self):
        """Set the smallest weights of every layer to 0, and keep them there: torch's `weight` is now `weight_orig`, which
        Adam goes on to move, times `weight_mask`. Layer by layer: weights of wide layers are small, but not idle."""
        for module in prunable(self.model):
            # Scores in the plain layout: torch's choice of the smallest cannot read channels-last weights.
            prune.l1_unstructured(
                module, 'weight', self.config['prune'], module.weight.detach().abs().contiguous()
            )

    def end_epoch(self, epoch, means):
        """The epoch's line of metrics.jsonl, less its seconds. means: of its steps' reconstruction and KL."""
        reconstruction, kl = means
        line = {
            'epoch': epoch,
            'loss': reconstruction + self.config['beta'] * kl,
            'reconstruction': reconstruction,
            'kl': kl,
        }
        if self.validation:
            line.update(validate(self.model, self.validation, self.config))
        if 'patience' in self.config:
            self.look(line['validation_loss'])
        return line

    def describe(self, means):
        """The progress bar's text."""
        return f'loss {means[0] + self.config["beta"] * means[1]:.1f} nats'

    def look(self, validation_loss):
        """At an epoch's end: keep the weights if they are the best so far by more than min_delta."""
        epoch = self.step_number // self.steps_per_epoch
        pruned = (
            self.pruning_step is None or self.step_number > self.pruning_step
        )  # or the best might have all weights
        if pruned and validation_loss < self.best['loss'] - self.config['min_delta']:
            weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.best = {'epoch': epoch, 'loss': validation_loss, 'model': weights}

    def done(self):
        epoch = self.step_number // self.steps_per_epoch
        stopped = self.best['epoch'] and epoch - self.best['epoch'] >= self.config['patience']
        return super().done() or bool(stopped)

    def finish(self):
        """The weights that training ends with: the best, where it looked for them, and pruned ones as plain zeros."""
        if self.best['epoch']:
            self.model.load_state_dict(self.best['model'])
        if self.pruning_step is not None:
            for module in prunable(self.model):
                prune.remove(module, 'weight')

    @torch.no_grad()
    def check_weights(self, numbers):
        """NotFinite if the weights as they are now give the images with these numbers a loss that is not finite. The losses
        in the history were had before the last step: they do not say that it did no harm."""
        self.model.eval()  # or batch normalisation would count these images
        rows = self.images.rows(numbers)
        x = self.images[rows]
        params = self.model.params(self.model.encoder(x) if self.table is None else self.table[rows])
        terms = negative_elbo(
            self.model,
            params,
            x,
            self.config,
            seed=key(self.config['seed'], TRAIN),
            step=self.step_number,
            ids=numbers,
        )
        self.model.train()
        if processes.any_of(not all(torch.isfinite(term).all() for term in terms)):
            processes.fail(self.not_finite(self.step_number))


def train_epochs(trainer, folder, resume):
    """Step until the trainer is done; write folder/metrics.jsonl and folder/checkpoint.pt after every epoch.

    trainer: this file's Trainer, or that of gan.py. resume: the checkpoint state to go on from, or None.
    Returns the seconds of all epochs, those before a resume included.
    On Ctrl-C the step in progress ends, a checkpoint is written, and KeyboardInterrupt goes up.
    NotFinite: the loss was not; the last checkpoint is left as it is.
    """
    started = time.perf_counter()
    images, config, first = trainer.images, trainer.config, not processes.rank()
    metrics_path, checkpoint_path = folder / 'metrics.jsonl', folder / 'checkpoint.pt'
    metrics = []
    if resume:
        trainer.load_state_dict(resume)
        if 'shares' in resume:
            processes.load(checkpoint_path, resume['shares'], trainer.shares(), images)
        # A run killed between the two writes left a line for an epoch that comes again.
        metrics = read_metrics(folder)[: trainer.step_number // trainer.steps_per_epoch]
    if first:
        utils.write_atomically(
            metrics_path, lambda path: path.write_text(''.join(json.dumps(m) + '\n' for m in metrics))
        )
    trainer.model.train()
    bar = tqdm(
        total=trainer.total_steps,
        initial=trainer.step_number,
        desc='training',
        disable=None if first else True,
        leave=False,
        unit='step',
    )
    # On a GPU nobody waits for the loss within an epoch, unless somebody watches it or the processes must agree.
    looks = images.device.type == 'cpu' or processes.count() > 1 or not bar.disable
    with bar as progress, InterruptFlag() as interrupt:
        while not trainer.done():
            epoch, position = divmod(trainer.step_number, trainer.steps_per_epoch)
            for numbers, batch_size in images.epoch(config['seed'], epoch, config['batch_size'])[position:]:
                trainer.step(numbers, batch_size)
                progress.update()
                stop, look = interrupt.raised, looks and trainer.step_number % CHECK_EVERY == 0
                if look:
                    progress.set_postfix_str(f'epoch {epoch + 1}, {trainer.describe(trainer.check_finite())}')
                if processes.count() > 1:  # all stop at the same step, then when they look
                    stop = look and processes.any_of(stop)
                if stop:
                    break
            means = trainer.check_finite()
            trainer.check_weights(numbers)
            if trainer.step_number % trainer.steps_per_epoch == 0:
                stop = processes.any_of(interrupt.raised)
                line = trainer.end_epoch(epoch + 1, means)
                metrics.append({**line, 'seconds': round(time.perf_counter() - started, 3)})
                if first:
                    with open(metrics_path, 'a') as file:
                        file.write(json.dumps(metrics[-1]) + '\n')
                started = time.perf_counter()
            processes.save(checkpoint_path, trainer.state_dict(), images.total)
            if stop:
                raise KeyboardInterrupt
    return sum(m['seconds'] for m in metrics)


def fit(model, dataset, config, folder, resume=None, validation=None):
    """Train model and latents, as train_epochs does, and let the latents settle.

    validation: a data set whose loss is measured after every epoch, for a model with an encoder. With `patience` in config,
    training stops after so many epochs in which that loss did not fall by more than `min_delta` nats, and its best weights
    are kept.
    Returns the final checkpoint's state, and the seconds of training (of what came before a resume, the whole epochs).
    """
    device = model.pixel_bias.device
    started = time.perf_counter()
    if processes.count() > 1 and any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()
    ):
        if device.type == 'cpu':
            processes.fail(
                utils.UserError(
                    'expected a decoder without batch normalisation, whose statistics PyTorch cannot share '
                    'between processes on a CPU, got one with it; use --decoder groupnorm, or one process'
                )
            )
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    images = Images(dataset, device, processes.share(len(dataset)))
    trainer = Trainer(model, images, config, Images(validation, device) if validation else None)
    seconds = time.perf_counter() - started + train_epochs(trainer, folder, resume)
    started = time.perf_counter()
    trainer.finish()
    model.requires_grad_(False)
    if model.encoder:
        state = {'latents': encode(model, images, torch.arange(images.n, device=device))}
    else:
        state = settle_latents(trainer)
    if 'patience' in config:
        state['best_epoch'] = trainer.best['epoch']
    state = {'stage': 'trained', 'config': config, 'model': model.state_dict(), **state, 'labels': dataset.y}
    if not processes.rank():
        utils.save_checkpoint(folder / 'checkpoint.pt', state)
        processes.clean(folder / 'checkpoint.pt')
    return state, seconds + time.perf_counter() - started


def validate(model, images, config):
    """The loss and its two terms for the encoder's latents of new images, a part of a line of metrics.jsonl."""
    latents = encode(model, images, torch.arange(images.n, device=images.device))
    reconstruction, kl = mean_negative_elbo(model, latents, images, config, seed=key(config['seed'], INFER))
    model.train()
    return {
        'validation_loss': reconstruction + config['beta'] * kl,
        'validation_reconstruction': reconstruction,
        'validation_kl': kl,
    }


def settle_latents(trainer):
    """The parts of a trained auto-decoder's checkpoint besides its weights: final training latents [n, K] of all processes, and
    the linear map from images to latents that gives new images their start."""
    model, images, config = trainer.model, trainer.images, trainer.config
    table = model.standardise(trainer.table, processes.gather(trainer.table[: images.n]))
    # The latents chased a decoder that moved on; now that it rests, they settle where new images' latents
    # will: training and test latents become comparable, and closer to the prior.
    latents = infer(
        model,
        table[: images.n].clone(),
        images,
        config,
        use=REFINE,
        passes=REFINE_PASSES,
        lr=INFER_LR / 2,
        label='refining',
    )
    table[: images.n] = latents
    step = math.ceil(processes.count() * len(images) / RIDGE_ROWS)
    batches = torch.arange(0, len(images), step, device=table.device).split(10_000)
    warm_start = ridge_regression(
        (images[r] for r in batches), (table[r] for r in batches), config['obs_std'] ** 2
    )
    return {'latents': processes.gather(latents), 'warm_start': warm_start}


def read_metrics(folder):
    """The whole lines of a run's metrics.jsonl; a last one that was cut off (by a full disk, say) is left out."""
    metrics = []
    for line in (folder / 'metrics.jsonl').read_text().splitlines():
        try:
            metrics.append(json.loads(line))
        except ValueError:
            break
    return metrics
