"""Small configurations of every system, and what the training scripts do with them."""

import pytest
import torch

from training.batches import Images
from training.inference import refine_latents
from training.initialization import fit_warm_start, initialize_latents
from training.loop import fit
from training.objective import encode
from training.regularisation import held_out
from training.runs import Run, build_model
from training.systems import ADConfig, AEConfig, VADConfig, VAEConfig
from training.trainer import Trainer


@pytest.fixture(scope='session')
def small_config():
    """small_config(dist, encoder, **changes): a small AD, VAD, AE or VAE for the digits."""

    def make(dist=None, encoder=None, **changes):
        small = dict(latent_dim=8, epochs=3, batch_size=16, obs_std=0.1, dataset='digits', shape=(28, 28))
        if dist:
            small['dist'] = dist
        if encoder:
            small |= dict(encoder=encoder, decoder='groupnorm')
            return (VAEConfig if dist else AEConfig)(**{**small, **changes})
        return (VADConfig if dist else ADConfig)(**{**small, **changes})

    return make


@pytest.fixture(scope='session')
def make_trainer():
    """make_trainer(config, train_set, validation_set, model, device): the Trainer of a configuration."""

    def make(config, train_set, validation_set=None, model=None, device='cpu'):
        model = (model or build_model(config)).to(device)
        images = Images(train_set, device)
        latents = None if model.encoder else initialize_latents(model, images, config.obs_std)
        validation = Images(validation_set, device) if validation_set else None
        return Trainer(model, images, config, latents, validation)

    return make


@pytest.fixture(scope='session')
def train(make_trainer):
    """train(config, train_set, folder, validation_set, model, checkpoint): the TrainedRun in folder."""

    def run(config, train_set, folder, validation_set=None, model=None, checkpoint=None):
        config = config.with_data(train_set, validation_set or train_set)
        if config.patience:  # train_set is what is left of these
            n = len(train_set)
            config = config.replace(n_train=next(m for m in range(n, 2 * n) if m - held_out(m) == n))
        folder.mkdir(exist_ok=True)
        trainer = make_trainer(config, train_set, validation_set, model)
        fit(trainer, folder, checkpoint)
        model, images, parts = trainer.model, trainer.images, dict(labels=train_set.y)
        if model.encoder:
            parts |= dict(latents=encode(model, images))
            parts |= {} if config.dist else dict(best_epoch=trainer.best_epoch)
        else:
            latents = refine_latents(model, trainer.latents, images, config)
            warm_start = fit_warm_start(model, images, latents, config.obs_std)
            parts |= dict(latents=latents[: images.n], warm_start=warm_start)
        run = Run(config, torch.device('cpu'), folder, folder, source='tests')
        run.save_trained(model, **parts)
        return run.load_trained()

    return run
