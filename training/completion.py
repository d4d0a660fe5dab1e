"""The linear completion of incomplete images: probabilistic PCA, fitted by expectation-maximisation.

    x = mean + loadings z + noise,        z ~ N(0, I),  noise ~ N(0, variance) in every pixel

(Tipping and Bishop, "Probabilistic principal component analysis", 1999; with missing values: Ilin and Raiko,
"Practical approaches to principal component analysis in the presence of missing values", 2010.) It gives
latents their start, and never sees the value of a missing pixel. scikit-learn's PCA wants complete data.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RANK = 40  # components; the cost grows with the square
ITERATIONS = 10
FITTED_IMAGES = 5000  # that the model is fitted to, at most


@dataclass
class ProbabilisticPCA:
    """mean [F], loadings [F, R], variance of the noise, a 0-d tensor."""

    mean: Tensor
    loadings: Tensor
    variance: Tensor

    def posterior(self, x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of z [B, R] given the observed numbers of x [B, F], and the Cholesky factor [B, R, R] of
        variance times the inverse of its covariance."""
        loadings, eye = self.loadings, torch.eye(self.loadings.shape[1], device=x.device)
        squares = (loadings[:, :, None] * loadings[:, None, :]).flatten(1)  # [F, R * R]
        precision = (observed.float() @ squares).view(len(x), *eye.shape) + self.variance * eye  # [B, R, R]
        factor = torch.linalg.cholesky(precision)
        centred = torch.where(observed, x - self.mean, 0.0)  # [B, F]
        z = torch.cholesky_solve((centred @ loadings)[:, :, None], factor)[:, :, 0]
        return z, factor

    def complete(self, x: Tensor, observed: Tensor) -> Tensor:
        """x [B, F] in 0-1 with its missing numbers replaced by their expectation."""
        z, _ = self.posterior(x, observed)
        return torch.where(observed, x, (self.mean + z @ self.loadings.T).clamp(0, 1))


def fit_ppca(x: Tensor, observed: Tensor, rank: int = RANK) -> ProbabilisticPCA:
    """The model of incomplete images x [N, F] in 0-1, with at most `rank` components. Numbers that are not
    observed are not read.

    Each loading has a Gaussian prior with a variance of its component's own, which EM estimates too: where
    few numbers are observed, it switches components off that would fit the noise.
    """
    n, count = len(x), observed.sum(0).clamp_min(1)  # [F]
    share = observed.float().mean().clamp_min(1e-6)
    mean = torch.where(observed, x, 0.0).sum(0) / count
    mean = torch.where(observed.any(0), mean, mean[observed.any(0)].mean().nan_to_num())
    centred = torch.where(observed, x - mean, 0.0)  # [N, F]
    # The start: principal components of the images with the mean in the place of what is missing.
    rank = min(rank, n, x.shape[1])
    _, singular, components = torch.linalg.svd(centred, full_matrices=False)  # [min(N, F)], [min(N, F), F]
    loadings = (components[:rank].T * singular[:rank] / (n * share) ** 0.5).contiguous()  # [F, R]
    # Half of the variance is noise at first. From less, EM would fit the noise where little is observed.
    model = ProbabilisticPCA(mean, loadings, centred.square().mean() / share / 2 + 1e-6)
    prior = loadings.square().mean(0) + 1e-8  # [R], variances of the loadings
    for _ in range(ITERATIONS):
        # E: the posterior of every image's z.
        z, factor = model.posterior(x, observed)  # [N, R], [N, R, R]
        covariance = model.variance * torch.cholesky_inverse(factor)
        second = (covariance + z[:, :, None] * z[:, None, :]).flatten(1)  # [N, R * R], E[z z^T]
        # M: a ridge regression from z to each of the F numbers.
        gram = (observed.float().T @ second).view(-1, rank, rank) + torch.diag(model.variance / prior)
        factor = torch.linalg.cholesky(gram)  # [F, R, R]
        right = torch.where(observed, x - model.mean, 0.0).T @ z  # [F, R]
        loadings = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        error = torch.where(observed, x - z @ loadings.T, 0.0)
        mean = torch.where(observed.any(0), error.sum(0) / count, model.mean)
        error = torch.where(observed, error - mean, 0.0)
        squares = (loadings[:, :, None] * loadings[:, None, :]).flatten(1)  # [F, R * R]
        spread = (covariance.flatten(1) @ squares.T * observed).sum()  # of the posteriors, in x
        variance = (error.square().sum() + spread) / observed.sum().clamp_min(1) + 1e-6
        # A change of z's scale that leaves the model as it is and gives z the covariance I: EM converges in
        # a few steps with it, and in hundreds without.
        scale = torch.linalg.cholesky(
            second.mean(0).view(rank, rank) + 1e-6 * torch.eye(rank, device=x.device)
        )
        model = ProbabilisticPCA(mean, loadings @ scale, variance)
        prior = model.loadings.square().mean(0) + 1e-8
    return model


def ppca_of_complete(x: Tensor, variance: float) -> ProbabilisticPCA:
    """The model of complete images x [N, F], in closed form, with at least that variance of the noise."""
    from sklearn.decomposition import PCA  # here: a second to import

    rank = min(RANK, len(x) - 1, x.shape[1])
    if rank < 1 or not (x != x[0]).any():  # a single image, or images that are all the same
        return ProbabilisticPCA(x.mean(0), x.new_zeros(x.shape[1], 1), x.new_tensor(variance))
    pca = PCA(rank, svd_solver='covariance_eigh').fit(x.cpu().numpy())
    noise = max(variance, float(pca.noise_variance_))
    scale = torch.as_tensor(pca.explained_variance_).to(x).sub(noise).clamp_min(0).sqrt()  # [R]
    loadings = torch.as_tensor(pca.components_).to(x).T * scale
    return ProbabilisticPCA(torch.as_tensor(pca.mean_).to(x), loadings.contiguous(), x.new_tensor(noise))
