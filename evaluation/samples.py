"""Images sampled from a trained model: from the prior, and from a density fitted to the training latents."""

import warnings

import torch
from torch import Tensor

from training import PRIOR, TrainedRun, noise_key

MIXTURE_COMPONENTS = 40
MIXTURE_CODES = 5000  # that the mixture is fitted to, at most: of 20,000 it takes minutes
CHUNK = 1000  # images decoded at once


@torch.no_grad()
def sample_prior(trained: TrainedRun, n: int) -> Tensor:
    """n images decoded from draws of the prior: [n, *shape] in 0-255."""
    z = trained.model.sample_prior(n, seed=noise_key(trained.config.seed, PRIOR))
    return torch.cat([trained.model.decode(part) for part in z.split(CHUNK)])


@torch.no_grad()
def sample_mixture(trained: TrainedRun, n: int) -> Tensor:
    """n images decoded from a Gaussian mixture fitted to the codes of the training images' posterior means:
    [n, *shape] in 0-255."""
    from sklearn.exceptions import ConvergenceWarning  # here: a second to import
    from sklearn.mixture import GaussianMixture

    model, latents, seed = trained.model, trained.latents, trained.config.seed
    codes = model.code(model.mean(latents)).cpu().double().numpy()
    if len(codes) == 1:
        codes = codes.repeat(2, 0)  # scikit-learn wants two
    components = max(1, min(MIXTURE_COMPONENTS, len(codes) // 20))  # 20 codes or more for a component
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # 50 iterations are enough for samples
        mixture = GaussianMixture(components, reg_covar=1e-3, max_iter=50, random_state=seed)
        mixture.fit(codes[:MIXTURE_CODES])
    draws = torch.as_tensor(mixture.sample(n)[0], dtype=torch.float32, device=latents.device)
    # The mixture's draws come sorted by component.
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    draws = draws[shuffled.to(latents.device)]
    return torch.cat([255 * model.render(part) for part in draws.split(CHUNK)])
