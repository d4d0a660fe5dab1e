"""The predictive distribution of pixels: mean, standard deviation, intervals, imputations.

A pixel's predictive distribution is that of its decoded draws, with Gaussian noise added. What the draws do
not explain differs from pixel to pixel: a pixel that is black in most images is predicted more exactly than
one on an edge. So the noise is measured, as a function of the predicted value, on observed pixels that are
hidden for the purpose (`measure_noise`). The idea is that of conformal prediction (Vovk et al., 2005): pixels
that are missing at random, and those hidden here, are alike.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from imputation.importance import decoded_draws
from training import IMPUTE, ImageDataset, Images, TrainedRun, fold, infer_latents, noise_key

DRAWS = 50  # from the posterior of an image
CHUNK = 50  # images whose draws are decoded at once
COVERAGE = 0.9  # of the intervals
LEAST_COVERAGE = 0.85  # of the intervals around predicted values that are alike
NOISE_IMAGES = 64  # on which the noise is measured, at most
HIDDEN = 0.1  # share of their pixels that is hidden for that
BINS = 20  # of predicted values, each with a noise of its own
BIN_PIXELS = 50  # hidden pixels in a bin, at least


@dataclass
class Noise:
    """The noise's standard deviations std [bins], by the bin in which the predicted value lies. edges [bins -
    1]: the limits between neighbouring bins."""

    edges: Tensor
    std: Tensor

    def at(self, mean: Tensor) -> Tensor:
        """The standard deviation where the predicted values are mean [...]: [...]."""
        return self.std[torch.bucketize(mean, self.edges)]


@dataclass
class Predictive:
    """Of B images: decoded draws [K, B, *shape] in 0-1, their weights [K, B], the noise's standard deviation
    [B, *shape], and the images' indices, int64 [B]."""

    draws: Tensor
    weights: Tensor
    noise: Tensor
    index: Tensor
    seed: int

    def mean(self) -> Tensor:
        """[B, *shape], in 0-1."""
        return weighted_mean(self.weights, self.draws)

    def std(self) -> Tensor:
        """[B, *shape], in 0-1, noise included."""
        return (weighted_variance(self.weights, self.draws) + self.noise.square()).sqrt()

    def samples(self, n: int) -> Tensor:
        """n samples [n, B, *shape] in 0-1, noise included: of the draws, in proportion to their weights
        (sampling-importance-resampling; Rubin, 1987).

        They are grey levels, multiples of 1/255, as pixels are: else a pixel that is exactly black would lie
        below nearly all samples.
        """
        return grey_levels(self.resampled(n) + self.noise * self.standard_normal(n))

    def resampled(self, n: int) -> Tensor:
        """n of the draws, in proportion to their weights: [n, B, *shape]."""
        # Systematic resampling: n points at equal distances along the cumulated weights of the draws, which
        # are shuffled first: they come sorted by copy. The first point is random, from image to image.
        k, device = len(self.draws), self.draws.device
        order = torch.randperm(k, generator=torch.Generator().manual_seed(0)).to(device)
        first = torch.stack([torch.rand(1, generator=generator) for generator in self.generators()])
        points = (torch.arange(n) + first).to(device) / max(n, 1)  # [B, n]
        cumulated = self.weights[order].cumsum(0).T.contiguous()  # [B, K]
        chosen = order[torch.searchsorted(cumulated, points).clamp(max=k - 1)].T  # [n, B]
        return self.draws[chosen, torch.arange(chosen.shape[1], device=device)]

    def standard_normal(self, n: int) -> Tensor:
        """[n, B, *shape], of each image a function of the seed and its index."""
        shape = self.noise.shape[1:]
        normal = [torch.randn(n, *shape, generator=generator) for generator in self.generators()]
        return torch.stack(normal, 1).to(self.draws.device)

    def generators(self) -> Iterator[torch.Generator]:
        """Of each image one, seeded by the run's seed and its index; valid until the next."""
        generator, seed = torch.Generator(), noise_key(self.seed, IMPUTE)
        for i in self.index.tolist():
            yield generator.manual_seed(fold(seed ^ i * 0x9E3779B97F4A7C15 % 2**64))


def grey_levels(x: Tensor) -> Tensor:
    """x limited to 0-1 and rounded to multiples of 1/255."""
    return (255 * x).clamp(0, 255).round() / 255


def weighted_mean(weights: Tensor, draws: Tensor) -> Tensor:
    """[K, B], [K, B, *shape] -> [B, *shape]."""
    return torch.einsum('kb,kb...->b...', weights, draws)


def weighted_variance(weights: Tensor, draws: Tensor) -> Tensor:
    return weighted_mean(weights, (draws - weighted_mean(weights, draws)).square())


def interval(samples: Tensor) -> tuple[Tensor, Tensor]:
    """The ends [B, *shape] of the central intervals that a further sample falls into with the probability
    COVERAGE, estimated from samples [n, B, *shape].

    Between the ordered samples lie n + 1 gaps, each of which has the probability 1 / (n + 1).
    """
    n, ordered = len(samples), samples.sort(0).values

    def quantile(q):
        place = min(max(q * (n + 1) - 1, 0), n - 1)
        below = math.floor(place)
        return torch.lerp(ordered[below], ordered[min(below + 1, n - 1)], place - below)

    return quantile((1 - COVERAGE) / 2), quantile((1 + COVERAGE) / 2)


def crps(samples: Tensor, x: Tensor) -> Tensor:
    """The continuous ranked probability score E|s - x| - E|s - s'| / 2 [B, *shape] of values x [B, *shape],
    estimated without bias from samples [n, B, *shape], n at least 2 (Gneiting and Raftery, 2007)."""
    n, ordered = len(samples), samples.sort(0).values
    rank = torch.arange(1, n + 1, device=x.device).view(-1, *[1] * x.dim())
    spread = ((2 * rank - n - 1) * ordered).sum(0) / (n * (n - 1))  # E|s - s'| / 2
    return (samples - x).abs().mean(0) - spread


# --------------------------------------------------------------------------------------------- the noise


def decode_chunks(
    trained: TrainedRun, images: Images, latents: Tensor, k: int, label: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of one chunk of images after another: their indices [B], decoded draws [K, B, *shape] in 0-1, and the
    weights [K, B] of these; K is about k.

    latents: [n, K] or [len(images), K], of the images, or of these and their shifted copies. An equal share
    of the draws is of each copy, shifted back. label: of the progress bar.
    """
    copies = len(latents) // images.n
    k = -(-k // copies)
    size = max(1, 784 * CHUNK // images.X[0].numel())
    with tqdm(total=images.n, desc=label, disable=None, leave=False, unit='image') as progress:
        for index in images.own().split(size):
            draws, weights = [], []
            for copy in range(copies):
                local_index = copy * images.n + index
                x, observed = images[local_index]
                observed = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
                decoded, weight = decoded_draws(trained, latents[local_index], x, observed, local_index, k)
                inside = images.shift_back(torch.ones_like(decoded[0, 0]), copy) > 0
                back = images.shift_back(decoded, copy)
                # What was shifted out is that of the image's own draws.
                draws.append(torch.where(inside, back, draws[0]) if copy else back)
                weights.append(weight / copies)
            yield index, torch.cat(draws), torch.cat(weights)
            progress.update(len(index))


def in_patches(observed: Tensor) -> bool:
    """Whether the missing pixels of masks bool [N, H, W] lie together: whether those with missing neighbours
    on all four sides are many more than if pixels were missing independently of each other."""
    missing = ~observed
    inner = missing[:, 1:-1, 1:-1]
    sides = missing[:, :-2, 1:-1], missing[:, 2:, 1:-1], missing[:, 1:-1, :-2], missing[:, 1:-1, 2:]
    surrounded = inner & sides[0] & sides[1] & sides[2] & sides[3]
    share, rate = surrounded.sum() / inner.sum().clamp_min(1), missing.float().mean()
    return bool(share > rate**4 + 0.25)


def hide_more(observed: Tensor, seed: int) -> Tensor:
    """Which observed pixels of masks bool [N, *shape] are hidden to measure the noise, likewise.

    They are to be like the missing ones: where these lie in patches, the patches of the next image, else a
    tenth of the pixels at random; in a coloured image with all channels. The patches are moved to a random
    place (what leaves the image comes in on the other side): in the next image they can be where they are in
    this one.
    """
    plane = observed.flatten(1, -3).all(1) if observed.dim() > 3 else observed  # [N, H, W]
    generator = torch.Generator().manual_seed(fold(noise_key(seed, IMPUTE)))
    if in_patches(plane):
        height, width = plane.shape[1:]
        down = torch.randint(height, (len(plane),), generator=generator).tolist()
        right = torch.randint(width, (len(plane),), generator=generator).tolist()
        moved = [mask.roll(shift, (0, 1)) for mask, *shift in zip(plane.roll(1, 0), down, right)]
        chosen = ~torch.stack(moved)
    else:
        chosen = torch.rand(plane.shape, generator=generator) < HIDDEN
    return observed & (chosen if observed.dim() == 3 else chosen[:, None])


def first_incomplete(dataset: ImageDataset, n: int) -> ImageDataset:
    """The first n images that have missing pixels, or all that have; if none has, the first n."""
    found = []
    for index in torch.arange(len(dataset)).split(1000):
        if dataset.observed is not None and sum(map(len, found)) < n:
            found.append(index[~dataset.observed[index].flatten(1).all(1)])
    index = torch.cat(found)[:n] if found else torch.arange(0)
    if not len(index):
        return dataset.part(slice(n))
    observed = dataset.observed[index]  # bool [n, *shape]
    X = torch.where(observed, dataset.X[index].float(), 0.0)  # in a .npy file there is NaN
    return ImageDataset(X, dataset.y[index], dataset.name, observed=observed)


def measure_noise(trained: TrainedRun, dataset: ImageDataset, fit: bool = True, copies: bool = True) -> Noise:
    """The noise of predictions for images like those of dataset. fit, copies: as in infer_latents, refine and
    copies.

    Some of their observed pixels are hidden, latents are fitted to the rest, and the hidden pixels are
    compared with what is predicted for them.
    """
    some, seed = first_incomplete(dataset, NOISE_IMAGES), trained.config.seed
    from_file = Images(some, 'cpu')
    x, observed = from_file[from_file.own()]
    observed = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    hidden = hide_more(observed, seed)
    bins = min(BINS, int(hidden.sum()) // BIN_PIXELS)
    if not bins:  # hardly anything is observed
        return Noise(torch.zeros(0), torch.tensor([trained.config.obs_std]))
    fewer = ImageDataset(255 * x, torch.zeros(len(x)), dataset.name, observed=observed & ~hidden)
    latents, _ = infer_latents(trained, fewer, refine=fit, copies=copies, label='measuring the noise')
    images, means, draws, normal = Images(fewer, latents.device), [], [], []
    for index, decoded, weights in decode_chunks(trained, images, latents, DRAWS, 'measuring the noise'):
        predictive = Predictive(decoded, weights, torch.zeros_like(decoded[0]), index, seed)
        chosen = hidden[index.cpu()]
        means.append(predictive.mean().cpu()[chosen])
        draws.append(predictive.resampled(DRAWS).cpu()[:, chosen])
        normal.append(predictive.standard_normal(DRAWS).cpu()[:, chosen])
    mean, draws, normal = torch.cat(means), torch.cat(draws, 1), torch.cat(normal, 1)  # [n], [DRAWS, n] twice
    parts = mean.argsort().tensor_split(bins)  # of equal size
    edges = torch.tensor([mean[part[0]] for part in parts[1:]])
    order = torch.cat(parts)
    return Noise(edges, fit_noise(draws[:, order], normal[:, order], x[hidden][order], bins))


def fit_noise(draws: Tensor, normal: Tensor, x: Tensor, bins: int) -> Tensor:
    """The standard deviation s of the noise in each of the bins, which n pixels are divided into by their
    order: [bins].

    draws, normal: [DRAWS, n], so that draws + s * normal are samples of the pixels. x: [n], the pixels.

    The noise is the least at which the intervals of all bins together hold a share COVERAGE of their pixels,
    and those of each bin alone a share of LEAST_COVERAGE. The two differ because half of all pixels are
    exactly black, and known to be: their intervals are a single grey level, and hold more than COVERAGE
    without any noise.
    """
    std = torch.cat([torch.zeros(1), torch.logspace(-2.5, 0, 51)])  # those that are tried
    ends = [interval(grey_levels(draws + s * normal)) for s in std]
    inside = [((low <= x) & (x <= high)).float().tensor_split(bins) for low, high in ends]
    share = torch.tensor([[part.mean() for part in parts] for parts in inside])  # [len(std), bins]
    share[-1] = 1  # the most noise, where none suffices
    for level in torch.linspace(LEAST_COVERAGE, COVERAGE, 11):
        chosen = (share >= level).int().argmax(0)  # [bins], the first
        if share.gather(0, chosen[None]).mean() >= COVERAGE:
            break
    return std[chosen]


def predict(
    trained: TrainedRun, dataset: ImageDataset, latents: Tensor, noise: Noise, k: int = DRAWS
) -> Iterator[Predictive]:
    """The predictive distributions of all pixels of images, one chunk of images after another.

    latents: as infer_latents gives them, of the images and their shifted copies. noise: as measure_noise
    gives it. k: draws of each image.
    """
    images, seed = Images(dataset, latents.device), trained.config.seed
    for index, draws, weights in decode_chunks(trained, images, latents, k, 'imputing'):
        std = noise.at(weighted_mean(weights, draws).cpu()).to(latents.device)
        yield Predictive(draws, weights, std, index, seed)
