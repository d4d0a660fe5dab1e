"""Where the decoder and the latents start: at the mean image and at principal components.

Nothing here is random but for one fixed rotation. No run depends on a lucky start.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.batches import Images
from training.completion import FITTED_IMAGES, ProbabilisticPCA, fit_ppca, ppca_of_complete
from training.distributed import all_gather, all_mean, all_reduce, world_size

KEEP = 0.186  # a principal component starts switched on if its posterior spread is at most this
PCA_IMAGES = 20_000  # that principal components are estimated from, at most
RIDGE_IMAGES = 100_000  # images and copies that the linear start of new images is estimated from, at most
CHUNK = 10_000  # images that are handled at once


def pool(x: Tensor) -> Tensor:
    """Images [B, 28, 28] -> the numbers that linear methods see, [B, 784].

    Larger images are averaged over squares of pixels (over longer rectangles, where an image is narrower than
    that), to about 1,000 numbers: the cost of linear methods is cubic.
    """
    (height, width), area = x.shape[-2:], x[0].numel() / 1024  # area: pixels that become one number
    side = max(1, math.ceil(area**0.5))
    if side > height:
        window = height, math.ceil(area / height)
    elif side > width:
        window = math.ceil(area / width), width
    else:
        window = side, side
    return F.avg_pool2d(x, window).flatten(1)


def pool_observed(x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """As pool, of images that are 0 where a pixel is missing: means of the observed pixels [B, 784], and
    where there are any, bool [B, 784]."""
    share = pool(observed.float())
    return pool(x) / share.clamp_min(1e-6), share > 0


def features(images: Images, local_index: Tensor, completion: ProbabilisticPCA | None = None) -> Tensor:
    """Of the images with local indices int64 [B], the square roots of their pooled pixels, [B, 784].

    The square root lifts faint texture, and nearest neighbours in it follow the classes better than in
    pixels. completion: gives missing pixels their values.
    """
    x, observed = images[local_index]
    x = pool(x) if observed is None else completion.complete(*pool_observed(x, observed))
    return x.sqrt()


def every(images: Images, n: int) -> Tensor:
    """Local indices, int64 [about n or fewer], of this process's part of about n images of all processes."""
    step = math.ceil(images.total / n)
    return torch.arange(-images.first % step, images.n, step, device=images.device)


def fit_completion(images: Images) -> ProbabilisticPCA | None:
    """The linear completion of images with missing pixels; None: nothing is missing."""
    if images.observed is None:
        return None
    return fit_ppca(*map(all_gather, pool_observed(*images[every(images, FITTED_IMAGES)])))


@torch.no_grad()
def decoded_completion(model: nn.Module, latents: Tensor, obs_std: float) -> ProbabilisticPCA:
    """The linear completion of new images: principal components of the decoded training images, whose latents
    are [N, K]. Nothing is missing in these, whatever was missing in training."""
    step = math.ceil(len(latents) / FITTED_IMAGES)
    decoded = [pool(model.decode(model.mean(part)) / 255) for part in latents[::step].split(1000)]
    return ppca_of_complete(torch.cat(decoded), obs_std**2)


def principal_components(images: Images, latent_dim: int) -> tuple[Tensor, Tensor]:
    """The first D principal components of the images' features: whitened scores [len(images), D] of this
    process's images and copies, and variances [D]. Zeros where the images have fewer components.
    """
    from sklearn.decomposition import PCA  # here: a second to import

    completion = fit_completion(images)
    x = all_gather(features(images, every(images, PCA_IMAGES), completion)).cpu().numpy()  # [n, 784]
    dims = min(latent_dim, len(x) - 1, x.shape[1])
    if dims < 1:  # a single image
        return torch.zeros(len(images), latent_dim), torch.zeros(latent_dim)
    with np.errstate(invalid='ignore'):  # images that are all the same have no variance to explain
        pca = PCA(dims, svd_solver='covariance_eigh').fit(x)
    chunks = torch.arange(len(images), device=images.device).split(CHUNK)
    scores = [torch.as_tensor(pca.transform(features(images, i, completion).cpu().numpy())) for i in chunks]
    variance = torch.as_tensor(pca.explained_variance_).clamp_min(1e-8)
    missing = (0, latent_dim - dims)
    return F.pad(torch.cat(scores) / variance.sqrt(), missing).float(), F.pad(variance, missing).float()


@torch.no_grad()
def initialize_pixel_bias(model: nn.Module, images: Images):
    """Let the model begin at the mean image: where the decoder gives 0, its logits are those of the mean.

    The mean is over the observed values of each pixel; one that is observed in no image begins at 0.5.
    """
    total = count = 0
    for index in images.own().split(CHUNK):
        x, observed = images[index]
        total = total + x.sum(0)  # [28, 28]
        count = count + (len(x) if observed is None else observed.sum(0))
    count = all_reduce(torch.as_tensor(count, dtype=torch.float32, device=images.device))  # 0-d, or [28, 28]
    mean = torch.where(count > 0, all_reduce(total) / count.clamp_min(1), 0.5)
    model.pixel_bias.copy_(torch.logit(mean.clamp(0.02, 0.98)))


@torch.no_grad()
def initialize_latents(model: nn.Module, images: Images, obs_std: float) -> Tensor:
    """Latents [len(images), K] from principal components; the decoder's first layer is set up to match.

    Whitened scores have mean 0 and variance 1: posteriors that start there start inside the prior. Their
    spread is that of a linear model whose observations have the standard deviation obs_std. Which components
    are used depends on the posterior:

    - Points use all components.
    - Families with a scale use the components whose spread is at most KEEP. The other dimensions start at the
      prior, and the decoder's weights for them at 0; training brings them back if they are worth their KL.
      Fewer dimensions in use leave fewer regions of the prior without an image.
    - Families without a scale cannot make a dimension precise. A random rotation spreads the components over
      all dimensions, with amplitudes variance^(1/4), the best for a linear channel with equal noise in each.
    """
    device, d = images.device, model.latent_dim
    code, variance = principal_components(images, d)  # [len(images), D], [D]
    spread = obs_std / torch.sqrt(variance + obs_std**2)  # [D]
    if model.dist and len(model.family.parameters) == 1:
        # Which rotation does not matter: the same for every seed.
        generator = torch.Generator().manual_seed(0)
        # Orthonormal columns, the first of them along the diagonal (1, ..., 1), which stays unused. The
        # locations of an exponential differ from the prior's along it, and it would change with each sample
        # of the prior.
        columns = torch.cat([torch.ones(d, 1), torch.randn(d, d - 1, generator=generator)], 1)
        basis, _ = torch.linalg.qr(columns)
        used = max(1, d - 1)
        code = (code * variance**0.25)[:, :used] @ basis[:, d - used :].T
        code = code / all_mean(code.square()).sqrt().clamp_min(1e-8)
    else:
        keep = torch.ones(d, dtype=torch.bool)  # [D]
        if model.dist:
            keep = spread <= max(KEEP, float(spread.min()))
        code, spread = code * keep, torch.where(keep, spread, 1.0)
        model.decoder.stem.weight.data[:, ~keep.to(device)] = 0
        # Draws of a Gaussian lie near the sphere of radius sqrt(D). Codes of one length also make better
        # neighbours: short codes would be the nearest of every other.
        code = F.normalize(code) * keep.sum().sqrt()
    return model.initialize(code, spread).to(device)


# ------------------------------------------------------------------------- the start of new images


def ridge_regression(inputs: Iterable[Tensor], targets: Iterable[Tensor], penalty: float) -> Tensor:
    """Weights [784 + 1, K] of a linear map with bias from features to targets.

    inputs: batches [B, 784]. targets: batches [B, K]. Minimises the mean squared error, over the batches of
    all processes, plus penalty * |weights|^2, in float64 and in one pass: memory does not grow with the
    images.
    """
    gram = cross = count = 0
    for phi, target in zip(inputs, targets):
        phi = F.pad(phi, (0, 1), value=1.0).double()  # [B, 785]
        gram, cross, count = gram + phi.T @ phi, cross + phi.T @ target.double(), count + len(phi)
    count = torch.tensor(count, dtype=torch.float64, device=gram.device)
    gram, cross, count = all_reduce(gram), all_reduce(cross), all_reduce(count)
    gram.diagonal()[:-1] += penalty * count  # no penalty for the bias
    return torch.linalg.solve(gram, cross).float()


def fit_warm_start(model: nn.Module, images: Images, latents: Tensor, obs_std: float) -> Tensor:
    """The linear map [784 + 1, K] from images and copies to latents that gives new images their start."""
    completion = None
    if images.observed is not None:  # the one that new images will have
        completion = decoded_completion(model, all_gather(latents[: images.n]), obs_std)
    step = math.ceil(world_size() * len(images) / RIDGE_IMAGES)
    chunks = torch.arange(0, len(images), step, device=latents.device).split(CHUNK)
    inputs = (features(images, i, completion) for i in chunks)
    return ridge_regression(inputs, (latents[i] for i in chunks), obs_std**2)


def apply_warm_start(
    warm_start: Tensor, images: Images, local_index: Tensor, completion: ProbabilisticPCA | None = None
) -> Tensor:
    """Latents [B, K] of new images with local indices int64 [B] by the linear map."""
    chunks = local_index.split(CHUNK)
    return torch.cat([F.pad(features(images, i, completion), (0, 1), value=1.0) @ warm_start for i in chunks])
