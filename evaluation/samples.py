"""Images sampled from a trained model: from its prior, and from two densities fitted to the training latents.

One density is a small VAE, see second_stage.py. The other is a mixture of Gaussians that is estimated from
draws of the training images' posteriors. Its components are the clusters that k-means finds. A cluster of few
images says little of a covariance, so each is drawn towards the mean of all clusters' covariances (Friedman,
"Regularized discriminant analysis", 1989):

    C_k = (n_k S_k + shrinkage * S) / (n_k + shrinkage),        S = sum_k n_k S_k / n

for n_k of n images in cluster k and their covariance S_k. The number of components and the shrinkage are
chosen by the likelihood that the mixture gives to latents of held-out images: many components without
shrinkage would have a narrow one around each training image, and samples would be copies.
"""

import warnings

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from evaluation.second_stage import fit_second_stage
from training import DENSITY, PRIOR, TrainedRun, noise_key

COMPONENTS = 10, 20, 40, 80, 160  # that are tried
SHRINKAGE = 25, 100, 400  # likewise, in images
SMALLEST_CLUSTER = 20  # images for each component, on average
FITTED_IMAGES = 5000  # whose latents the densities are fitted to, at most
DRAWS = 5  # of each image's posterior
HELD_OUT = 5  # every fifth image
# Nats that a mixture may be below the best one. Of those so close together, the one with the most components
# and the least shrinkage makes the sharpest images.
CLOSE = 1.0
CHUNK = 1000  # images decoded at once
CHOSEN = 'mixture_components', 'mixture_shrinkage', 'mixture_images', 'mixture_log_likelihood'


def draw_codes(trained: TrainedRun) -> Tensor:
    """Codes of DRAWS samples of the posterior of each training image, of FITTED_IMAGES at most: float64 [n,
    DRAWS, D], on the CPU. Of a point all are the same, so that there is one, [n, 1, D]."""
    model, latents = trained.model, trained.latents[:FITTED_IMAGES]
    params, index = model.params(latents), torch.arange(len(latents), device=latents.device)
    seed = noise_key(trained.config.seed, DENSITY)
    steps = range(DRAWS if model.dist else 1)
    draws = [model.code(model.sample(params, seed=seed, step=step, index=index)[0]) for step in steps]
    return torch.stack(draws, 1).double().cpu()


def cluster(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """k clusters of draws x [n, M, D]: how many images each has (k numbers whose sum is n), their means [k,
    D] and covariances [k, D, D]."""
    from sklearn.cluster import KMeans  # here: a second to import
    from sklearn.exceptions import ConvergenceWarning

    flat = x.flatten(0, 1)  # [nM, D]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # fewer different points than clusters
        label = torch.as_tensor(KMeans(k, n_init=1, random_state=0).fit_predict(flat.numpy()))
    parts = [flat[label == i] for i in label.unique()]
    size = torch.tensor([len(part) / x.shape[1] for part in parts], dtype=torch.float64)
    covariance = [(part - part.mean(0)).T @ (part - part.mean(0)) / len(part) for part in parts]
    return size, torch.stack([part.mean(0) for part in parts]), torch.stack(covariance)


def mixture(size: Tensor, mean: Tensor, covariance: Tensor, shrinkage: float) -> MixtureSameFamily:
    """The mixture of such clusters with covariances drawn together."""
    weight = size[:, None, None]
    common = (weight * covariance).sum(0) / size.sum()  # [D, D]
    covariance = (weight * covariance + shrinkage * common) / (weight + shrinkage)
    # Codes that are equal for all images have no variance.
    covariance = covariance + 1e-6 * torch.eye(mean.shape[1], dtype=mean.dtype)
    return MixtureSameFamily(Categorical(probs=size), MultivariateNormal(mean, covariance))


def fit_mixture(x: Tensor) -> tuple[MixtureSameFamily, dict]:
    """The mixture for draws x float64 [n, M, D]; and what results.json says of it, by the names in CHOSEN.

    The log-likelihood is that of draws of held-out images, in nats; None: there are too few images.
    """
    most = max(1, len(x) // SMALLEST_CLUSTER)
    components = [k for k in COMPONENTS if k <= most] or [most]
    held_out, scores = torch.arange(len(x)) % HELD_OUT == HELD_OUT - 1, {}
    if held_out.any():
        for k in components:
            clusters = cluster(x[~held_out], k)
            for shrinkage in SHRINKAGE:
                log_p = mixture(*clusters, shrinkage).log_prob(x[held_out, 0])
                scores[k, shrinkage] = float(log_p.mean())
    close = [key for key, score in scores.items() if score >= max(scores.values()) - CLOSE]
    k, shrinkage = max(close, key=lambda key: (key[0], -key[1]), default=(1, SHRINKAGE[-1]))
    chosen = k, shrinkage, len(x), scores.get((k, shrinkage))
    return mixture(*cluster(x, k), shrinkage), dict(zip(CHOSEN, chosen))


def draw(density: MixtureSameFamily, n: int, seed: int) -> Tensor:
    """n draws of a mixture of Gaussians, [n, D], in random order.

    Each component gets n times its weight of them, rounded up or down at random (systematic sampling, see
    Douc and Cappé, 2005): each draw has the mixture's distribution, but how often each kind of image comes
    does not fluctuate.
    """
    normal = density.component_distribution
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(seed)
        places = (torch.randperm(n) + torch.rand(1, dtype=torch.float64)) / n  # [n] in 0-1
        ends = density.mixture_distribution.probs.cumsum(0)
        k = torch.searchsorted(ends, places).clamp_max(len(ends) - 1)  # int64 [n]
        noise = torch.randn(n, normal.loc.shape[1], dtype=torch.float64)
    return normal.loc[k] + (normal.scale_tril[k] @ noise[..., None])[..., 0]


class Sampler:
    """All ways to sample images from a trained model: 'prior', and where images have latents 'two-stage', the
    prior of a second VAE, and 'mixture'. Both are fitted here, in some seconds."""

    def __init__(self, trained: TrainedRun):
        self.trained, self.second_stage, self.mixture = trained, None, None
        self.chosen = {}  # what results.json says of the mixture
        if trained.latents is not None:
            draws = draw_codes(trained)  # [n, M, D]
            self.second_stage = fit_second_stage(draws.flatten(0, 1).float(), trained.config.seed)
            self.mixture, self.chosen = fit_mixture(draws)

    @torch.no_grad()
    def sample(self, n: int, seed: int | None = None) -> dict[str, Tensor]:
        """n images by each way: [n, *shape] in 0-255. They follow from the seed; None: the run's."""
        model, seed = self.trained.model, self.trained.config.seed if seed is None else seed
        z = model.sample_prior(n, seed=noise_key(seed, PRIOR))  # [n, D]
        images = {'prior': torch.cat([model.decode(part) for part in z.split(CHUNK)])}
        if self.mixture:
            codes = {'two-stage': self.second_stage.sample(n, seed), 'mixture': draw(self.mixture, n, seed)}
            for name, code in codes.items():
                parts = code.float().to(z.device).split(CHUNK)
                images[name] = torch.cat([255 * model.render(part) for part in parts])
        return images
