"""Small runs trained on incomplete digits, and test digits to complete."""

import pytest

from training import (
    ADConfig,
    AEConfig,
    Images,
    TrainedRun,
    Trainer,
    VADConfig,
    VAEConfig,
    build_model,
    encode,
    fit,
    fit_warm_start,
    initialize_latents,
    refine_latents,
)


@pytest.fixture(scope='session')
def test_set(digits):
    """40 digits of which half of the pixels are missing."""
    return digits[1].hide_pixels('pixels', 0.5, seed=0, part=1)


@pytest.fixture(scope='session')
def incomplete_run(digits, tmp_path_factory):
    """incomplete_run(system, dist): a small run trained on 64 digits, half of whose pixels are missing."""
    known = {}
    systems = {'ad': ADConfig, 'vad': VADConfig, 'ae': AEConfig, 'vae': VAEConfig}

    def train(system, dist=None):
        if (system, dist) not in known:
            train_set = digits[0].hide_pixels('pixels', 0.5, seed=0, part=0)
            small = dict(latent_dim=8, epochs=8, batch_size=16, missing=0.5)
            config = systems[system](**small, **(dict(dist=dist) if dist else {}))
            config = config.with_data(train_set, digits[1])
            model, images = build_model(config), Images(train_set, 'cpu')
            latents = None if model.encoder else initialize_latents(model, images, config.obs_std)
            fit(Trainer(model, images, config, latents), tmp_path_factory.mktemp('run'))
            if model.encoder:
                parts = dict(latents=encode(model, images))
            else:
                latents = refine_latents(model, latents, images, config)
                parts = dict(warm_start=fit_warm_start(model, images, latents, config.obs_std))
                parts |= dict(latents=latents[: images.n])
            known[system, dist] = TrainedRun(config, model, labels=train_set.y, **parts)
        return known[system, dist]

    return train
