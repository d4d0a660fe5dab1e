"""An imputer for users of scikit-learn: it trains a VAD on incomplete rows, and completes rows with it.

from imputation import VADImputer
X_complete = VADImputer(image_shape=(28, 28)).fit_transform(X)  # X [N, 784], NaN where a value is missing
"""

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from imputation.complete import impute
from networks import DECODERS, choose
from training import (
    ImageDataset,
    Images,
    NotFinite,
    TrainedRun,
    Trainer,
    UserError,
    VADConfig,
    build_model,
    check_latents,
    fit_warm_start,
    initialize_latents,
    pick_device,
    refine_latents,
)


def train(config: VADConfig, train_set: ImageDataset, device: torch.device) -> TrainedRun:
    """What train_vad.py does, without a run folder. UserError: the latents do not fit in memory."""
    check_latents(config, len(train_set), device)
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # new weights leave the caller's generators
        model = build_model(config, device)
    images = Images(train_set, device)
    latents = initialize_latents(model, images, config.obs_std)  # [5N, K], copies included
    trainer = Trainer(model, images, config, latents)
    model.train()
    while not trainer.done():
        epoch = trainer.step_number // trainer.steps_per_epoch
        for index, batch_size in images.epoch(config.seed, epoch, config.batch_size):
            trainer.step(index, batch_size)
        trainer.check_finite()
    trainer.finish()
    latents = refine_latents(model, latents, images, config)
    warm_start = fit_warm_start(model, images, latents, config.obs_std)
    return TrainedRun(config, model, latents=latents[: images.n].clone(), warm_start=warm_start)


class VADImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fill in missing values by a variational auto-decoder (VAD) that is trained on the observed ones.

    X [N, features] has NaN where a value is missing; the other values may be any real numbers. The model sees
    them in one range for all features, that of the observed values in `fit`, so features should be of similar
    ranges, as pixels are; others first go through a StandardScaler, say. `transform` fills in the conditional
    mean, `sample` draws. Observed values come back bit for bit. What is filled in lies in the training range.
    Where a feature is never observed in `fit`, there is nothing but the model's guess.

    Parameters, of which None is the default of train_vad.py for incomplete images:
        dist: family of the posteriors, a name in kernels.FAMILIES.
        latent_dim: latent dimensions of a row.
        epochs: passes over the rows in training.
        obs_std: standard deviation of a value given its latents, as a share of the range.
        decoder: as --decoder; None: groupnorm for images whose height and width are multiples of 4, else mlp.
        image_shape: (H, W), or (H, W, 3) in colour: a row of X is an image, as in images.reshape(N, -1).
            None: any features, as one row of pixels.
        random_state: int, RandomState or None. The same int gives the same results.
        device: as --device; None: a GPU if there is one.

    Attributes after `fit`: trained_, a training.TrainedRun; data_min_ and data_range_ of the observed values;
    n_features_in_; feature_names_in_, if the columns of X have names.
    """

    def __init__(
        self,
        *,
        dist='gaussian',
        latent_dim=None,
        epochs=None,
        obs_std=None,
        decoder=None,
        image_shape=None,
        random_state=None,
        device=None,
    ):
        self.dist = dist
        self.latent_dim = latent_dim
        self.epochs = epochs
        self.obs_std = obs_std
        self.decoder = decoder
        self.image_shape = image_shape
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ['float64', 'float32']
        return tags

    @torch.inference_mode(False)  # training needs gradients, whatever the caller does
    def fit(self, X, y=None):
        """Train on the rows of X [N, features]. ValueError: they, or the parameters, are not as expected."""
        X = self._validate(X, reset=True)
        if np.isnan(X).all():
            raise ValueError('expected observed values in X, got NaN only; fit on other rows')
        config = self._config(X)
        self.data_min_ = float(np.nanmin(X))
        self.data_range_ = float(np.nanmax(X)) - self.data_min_
        if math.isinf(self.data_range_):
            raise ValueError(
                f'expected a finite range of the values in X, got {self.data_range_}; scale them down'
            )
        try:
            self.trained_ = train(config, self._dataset(X), pick_device(self.device))
        except NotFinite:
            raise ValueError(
                f'expected finite losses in training, got others; choose an obs_std above {config.obs_std:g}'
            ) from None
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def transform(self, X):
        """X [N, features] with the conditional mean in the place of what is missing.

        It is estimated from random draws, whose seed is that of `fit`. They depend on a row's place among the
        incomplete rows, by much less than the error of the mean.
        """
        return self._complete(X, 0)[0]

    def sample(self, X, n_draws):
        """n_draws imputations of X [N, features], for multiple imputation: [n_draws, N, features].

        What is filled in is one of 256 values in the training range. Its noise is measured on X: give all
        rows at once. The same call gives the same draws.
        """
        check_scalar(n_draws, 'n_draws', Integral, min_val=1)
        return self._complete(X, n_draws)[1]

    def _validate(self, X, reset):
        return validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite='allow-nan'
        )

    def _config(self, X) -> VADConfig:
        """The configuration of a run on X."""
        names = {'latent_dim': Integral, 'epochs': Integral, 'obs_std': Real}
        for name, kind in names.items():
            if getattr(self, name) is not None:
                check_scalar(getattr(self, name), name, kind, min_val=0, include_boundaries='neither')
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        shape = self._image_shape()
        decoder = self.decoder or ('groupnorm' if shape[0] % 4 == shape[1] % 4 == 0 else 'mlp')
        choose(DECODERS, 'decoder', decoder)  # ValueError: there is no such decoder
        return VADConfig(
            dist=self.dist,
            decoder=decoder,
            batch_size=min(len(X), VADConfig.batch_size),
            seed=check_random_state(self.random_state).randint(2**31 - 1),
            shape=shape[2:] + shape[:2],  # channels first
            n_train=len(X),
            missing_share=round(float(np.isnan(X).mean()), 2),  # as ImageDataset.missing_share
            **given,
        )

    def _image_shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, 3). ValueError: image_shape is not that of n_features_in_ values."""
        if self.image_shape is None:
            return 1, self.n_features_in_
        shape = tuple(np.ravel(np.array(self.image_shape, dtype=object)).tolist())
        right = (
            len(shape) in (2, 3) and shape[2:] in ((), (3,)) and all(isinstance(n, Integral) for n in shape)
        )
        if not right or min(shape) < 1 or math.prod(shape) != self.n_features_in_:
            raise ValueError(
                f'expected image_shape (H, W) or (H, W, 3) of {self.n_features_in_} values, as many as X has '
                f'features, got {self.image_shape}; name the shape of your images'
            )
        return shape

    def _dataset(self, X) -> ImageDataset:
        """X as images in 0-255."""
        observed, shape = ~np.isnan(X), self._image_shape()
        X = np.where(observed, X, self.data_min_).astype(np.float64)
        X = (255 * ((X - self.data_min_) / (self.data_range_ or 1))).clip(0, 255)
        X, observed = X.reshape(-1, *shape), observed.reshape(-1, *shape)
        if len(shape) == 3:  # the model's channels come first
            X, observed = np.moveaxis(X, -1, 1), np.moveaxis(observed, -1, 1)
        return ImageDataset(X, np.zeros(len(X)), 'npy', observed=torch.as_tensor(observed), known=False)

    def _values(self, images: torch.Tensor):
        """Images [..., *shape] in 0-255 as values [..., features]."""
        images = images.numpy()
        if len(self._image_shape()) == 3:
            images = np.moveaxis(images, -3, -1)
        return self.data_min_ + self.data_range_ * (images.astype(np.float64) / 255)

    @torch.inference_mode(False)
    def _complete(self, X, n_draws):
        """X [N, features] completed by the conditional mean, and by each of n_draws draws."""
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        incomplete = np.isnan(X).any(1)
        mean, draws = X.copy(), np.repeat(X[None], n_draws, 0)
        if incomplete.any():
            completed, X = impute(self.trained_, self._dataset(X[incomplete]), n_draws), X[incomplete]
            mean[incomplete] = np.where(np.isnan(X), self._values(completed.mean).reshape(X.shape), X)
            values = self._values(completed.draws).reshape(n_draws, *X.shape)
            draws[:, incomplete] = np.where(np.isnan(X), values, X)
        return mean, draws
