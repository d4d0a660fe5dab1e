"""Simple imputers, which the project's systems are compared with in experiments/imputation.py.

Each is a function (train [N, F], test [M, F], seed, shape) -> (completed [M, F], std). Images are float32 in
0-1 with NaN for a missing pixel, so that a hidden value cannot be read; shape [H, W] is that of an image.
Observed numbers come back as they are. std [M, F] is the standard deviation of a Gaussian around what was
imputed; None: the imputer has no notion of its own error.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from training.completion import FITTED_IMAGES, fit_ppca

NEIGHBOURS = 5
CANDIDATES = 300  # nearest training images, among which a pixel's neighbours are looked for
PREDICTORS = 50  # pixels that IterativeImputer predicts a pixel from
ROUNDS = 5  # over all pixels, of IterativeImputer
SHRINKAGES = (0.1, 0.05, 0.025, 0.0125, 0.00625)  # of soft-impute, shares of the largest singular value
ITERATIONS = 30  # of soft-impute, for each shrinkage
RANKS = (10, 20, 40)  # of probabilistic PCA, components


def pixel_means(train: np.ndarray) -> np.ndarray:
    """[F]: the mean of each pixel over the images that have it; 0 where none has it."""
    observed = ~np.isnan(train)
    return np.where(observed, train, 0).sum(0) / observed.sum(0).clip(1)


def fill(test: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """test [M, F] with `imputed` [M, F] or [F], limited to 0-1, in the place of its missing numbers."""
    return np.where(np.isnan(test), np.clip(imputed, 0, 1), test).astype(np.float32)


def tenth(shape: tuple[int, int], seed: int) -> np.ndarray:
    """bool [N, F], True for a tenth, to be held out."""
    return np.random.default_rng(seed).random(shape) < 0.1


def impute_zeros(train, test, seed, shape):
    return fill(test, 0), None


def impute_mean(train, test, seed, shape):
    return fill(test, pixel_means(train)), None


def impute_nearest(train, test, seed, shape):
    """The nearest observed pixel of the same image; of an image that has none, the mean."""
    completed = fill(test, pixel_means(train))
    for image, row in zip(test, completed):
        missing = np.isnan(image).reshape(shape)
        if missing.any() and not missing.all():
            nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
            row[:] = image.reshape(shape)[tuple(nearest)].ravel()
    return completed, None


def impute_knn(train, test, seed, shape):
    """What scikit-learn's KNNImputer(5) gives: the mean of a pixel in the five nearest training images that
    have it, by the mean squared difference of the pixels that two images both have.

    KNNImputer sorts all distances again for each pixel, hours for 60,000 + 10,000 images. Here they are
    sorted once. A pixel's neighbours are looked for among the CANDIDATES nearest.
    """
    known, values = (~np.isnan(train)).astype(np.float32), np.nan_to_num(train)  # [N, F]
    means = pixel_means(train)
    candidates, imputed = min(CANDIDATES, len(train)), np.empty_like(test)
    for first in range(0, len(test), 100):
        part = test[first : first + 100]  # [B, F]
        part_known, part_values = (~np.isnan(part)).astype(np.float32), np.nan_to_num(part)
        squares = part_values**2 @ known.T - 2 * part_values @ values.T + part_known @ (values**2).T  # [B, N]
        shared = part_known @ known.T  # [B, N], pixels
        distance = np.where(shared > 0, squares / shared.clip(1), np.inf)
        order = np.argpartition(distance, candidates - 1)[:, :candidates]  # [B, C]
        order = np.take_along_axis(order, np.take_along_axis(distance, order, 1).argsort(1), 1)
        for i, nearest in enumerate(order):
            nearest = nearest[np.isfinite(distance[i, nearest])]
            # 1 where a candidate has the pixel and is one of the first five that do.
            chosen = known[nearest] * (known[nearest].cumsum(0) <= NEIGHBOURS)  # [C, F]
            count = chosen.sum(0)
            mean = (chosen * values[nearest]).sum(0) / count.clip(1)
            imputed[first + i] = np.where(count > 0, mean, means)
    return fill(test, imputed), None


def impute_iterative(train, test, seed, shape):
    """scikit-learn's IterativeImputer: Bayesian ridge regression of each pixel on the others, in turn. On
    PREDICTORS of them, drawn by their correlation, and fitted to FITTED_IMAGES images: all would take hours.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (the next line needs it)
    from sklearn.impute import IterativeImputer

    imputer = IterativeImputer(
        max_iter=ROUNDS,
        n_nearest_features=PREDICTORS,
        min_value=0,
        max_value=1,
        keep_empty_features=True,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # after ROUNDS
        imputer.fit(train[:FITTED_IMAGES])
    return fill(test, imputer.transform(test)), None


def soft_impute(x: np.ndarray, z: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low-rank z [N, F] near the observed numbers of x [N, F], from a first z, by Mazumder et al. ("Spectral
    regularization algorithms for learning large incomplete matrices", 2010): fill in x from z, subtract
    `shrinkage` from the singular values, and again.

    Returns z, its singular values [R] above 0 and its right singular vectors [F, R].
    """
    missing, last = np.isnan(x), z
    for i in range(ITERATIONS):
        z, last = z + i / (i + 3) * (z - last), z  # Nesterov's momentum: a third of the iterations
        filled = np.where(missing, z, x)
        squares, vectors = np.linalg.eigh(filled.T @ filled)  # faster than a singular value decomposition
        singular = np.sqrt(squares.clip(0))
        kept = singular > shrinkage
        singular, vectors = singular[kept], vectors[:, kept]
        z = filled @ vectors * (1 - shrinkage / singular) @ vectors.T
    return z, singular - shrinkage, vectors


def impute_soft(train, test, seed, shape):
    """Soft-impute on the training images; then each test image by ridge regression of its observed pixels on
    their right singular vectors, which minimises soft-impute's objective.

    The shrinkage is the one that is best on a tenth of the observed training pixels, held out.
    """
    means = pixel_means(train)
    centred = (train - means)[:FITTED_IMAGES]
    held_out = ~np.isnan(centred) & tenth(centred.shape, seed)
    largest = np.linalg.norm(np.nan_to_num(centred), 2)

    rest, z, best = np.where(held_out, np.nan, centred), np.zeros_like(centred), np.inf
    for share in SHRINKAGES:
        z, _, _ = soft_impute(rest, z, share * largest)
        error = np.square((z - centred)[held_out]).sum()
        if error > best:  # and so it goes on with less shrinkage
            break
        best, shrinkage = error, share * largest
    _, singular, vectors = soft_impute(centred, np.zeros_like(centred), shrinkage)
    loadings = vectors * np.sqrt(singular)  # [F, R]; the penalty of z becomes one of its coordinates

    imputed = np.empty_like(test)
    for i, image in enumerate(test):
        own = loadings[~np.isnan(image)]  # [observed, R]
        right = own.T @ (image - means)[~np.isnan(image)]
        imputed[i] = means + loadings @ np.linalg.solve(own.T @ own + shrinkage * np.eye(len(right)), right)
    return fill(test, imputed), None


def impute_ppca(train, test, seed, shape):
    """Probabilistic PCA, see training/completion.py. The number of components is the one that is best on a
    tenth of the observed training pixels, held out."""
    x, x_test = torch.as_tensor(train[:FITTED_IMAGES]), torch.as_tensor(test)
    observed = ~x.isnan()
    rest = observed & ~torch.as_tensor(tenth(x.shape, seed))

    def held_out_error(rank):
        return (fit_ppca(x, rest, rank).complete(x, rest) - x)[observed].square().sum()  # 0 for the rest

    model = fit_ppca(x, observed, min(RANKS, key=held_out_error))
    completed, std = [], []
    for part in x_test.split(1000):
        z, factor = model.posterior(part, ~part.isnan())
        completed.append(model.complete(part, ~part.isnan()))
        # A pixel's variance is that of the noise plus that of z, along the pixel's loadings.
        loadings = model.loadings.T.expand(len(part), -1, -1)  # [B, R, F]
        spread = torch.linalg.solve_triangular(factor, loadings, upper=False)
        std.append((model.variance * (1 + spread.square().sum(1))).sqrt())
    return torch.cat(completed).numpy(), torch.cat(std).numpy()


BASELINES: dict[str, Callable] = {
    'zeros': impute_zeros,
    'mean': impute_mean,
    'nearest': impute_nearest,
    'knn': impute_knn,
    'iterative': impute_iterative,
    'soft-impute': impute_soft,
    'ppca': impute_ppca,
}
