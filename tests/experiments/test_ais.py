"""Annealed importance sampling, on a linear decoder, whose log p is known."""

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal

import models
from experiments.ais import annealed_likelihood
from kernels.families.gaussian_full import pack
from training.data import ImageDataset
from training.runs import TrainedRun, build_model


@pytest.mark.parametrize('missing', [False, True])
def test_the_likelihood_of_probabilistic_pca_by_poor_posteriors(vad_config, monkeypatch, missing):
    generator = torch.Generator().manual_seed(0)
    weights = 0.05 * torch.randn(4, 784, generator=generator)
    monkeypatch.setattr(models.AutoDecoder, 'render', lambda self, code: (code @ weights).view(-1, 28, 28))
    x = torch.randn(3, 4, generator=generator) @ weights + 0.1 * torch.randn(3, 784, generator=generator)
    images = ImageDataset(255 * x.view(3, 28, 28), torch.zeros(3), 'digits')
    images = images.hide_pixels('pixels', 0.5, seed=0, part=1) if missing else images
    observed = images.observed[torch.arange(3)].flatten(1) if missing else torch.ones(3, 784, dtype=bool)
    config = vad_config(dist='gaussian-full', latent_dim=4)
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    latents, expected = [], []
    for seen, image in zip(observed, x):
        w = weights[:, seen]
        covariance = torch.linalg.inv(torch.eye(4) + w @ w.T / 0.01)
        mean = image[seen] @ w.T @ covariance / 0.01
        # A posterior that is off by a standard deviation and half again as wide.
        log_sigma = 0.5 * torch.log(covariance.diagonal()) + 0.4
        latents.append(pack(mean + torch.exp(log_sigma) * 0.7, log_sigma, torch.zeros(4, 4)))
        noise = torch.full((int(seen.sum()),), 0.01)
        expected.append(LowRankMultivariateNormal(torch.zeros(len(noise)), w.T, noise).log_prob(image[seen]))
    found, accepted = annealed_likelihood(trained, trained.model, torch.stack(latents), images)
    torch.testing.assert_close(found, torch.stack(expected).double(), atol=0.3, rtol=0)
    assert 0.5 < accepted <= 1
