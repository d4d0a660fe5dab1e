import dataclasses

import pytest
import torch

from evaluation.samples import COMPONENTS, Sampler, cluster, draw, draw_codes, fit_mixture, mixture
from training import load_run


@pytest.fixture(scope='module')
def trained(finished_run):
    return load_run(finished_run, 'cpu')


@pytest.fixture(scope='module')
def sampler(trained):
    return Sampler(trained)


@pytest.fixture
def two_clusters():
    """Draws [300, 2, 3] of 300 images around two places, as many around each."""
    place = torch.tensor([[-4.0, 0, 0], [4, 0, 0]], dtype=torch.float64)[torch.arange(300) % 2]
    generator = torch.Generator().manual_seed(0)
    return place[:, None] + torch.randn(300, 2, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('n', [1, 7, 1500])
def test_samples_are_images(sampler, n):
    samples = sampler.sample(n)
    assert list(samples) == ['prior', 'two-stage', 'mixture']
    for images in samples.values():
        assert images.shape == (n, 28, 28) and 0 <= images.min() and images.max() <= 255


@pytest.mark.parametrize('name', ['prior', 'two-stage', 'mixture'])
def test_samples_follow_from_the_seed(trained, sampler, name):
    other = dataclasses.replace(trained, config=trained.config.replace(seed=1))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    images = sampler.sample(7)[name]
    assert torch.equal(images, Sampler(trained).sample(7)[name])
    assert not torch.equal(images, Sampler(other).sample(7)[name])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_latents_there_is_the_prior_alone(trained):
    sampler = Sampler(dataclasses.replace(trained, latents=None))  # as of a GAN
    assert list(sampler.sample(3)) == ['prior'] and sampler.chosen == {}


def test_codes_are_draws_of_the_posteriors(trained):
    codes = draw_codes(trained)  # [n, 5, D]
    mean = trained.model.code(trained.model.mean(trained.latents)).double()
    assert codes.shape == (len(mean), 5, mean.shape[1]) and len(codes[0].unique(dim=0)) == 5
    assert (codes.mean(1) - mean).abs().mean() < codes.std(1).mean()


def test_a_point_is_its_own_draw(trained):
    point = type('Point', (), {'dist': None, 'params': lambda _, x: x, 'code': lambda _, z: z})()
    point.sample = lambda params, **_: (params, None)
    codes = draw_codes(dataclasses.replace(trained, model=point))
    assert torch.equal(codes[:, 0].float(), trained.latents) and codes.shape[1] == 1


def test_clusters_are_found(two_clusters):
    size, mean, covariance = cluster(two_clusters, 2)
    assert size.tolist() == [150, 150]
    torch.testing.assert_close(mean[:, 0].sort().values, torch.tensor([-4.0, 4]).double(), atol=0.3, rtol=0)
    torch.testing.assert_close(covariance, torch.eye(3).double().expand(2, 3, 3), atol=0.3, rtol=0)


def test_shrinkage_draws_covariances_together(two_clusters):
    two_clusters[::2] *= torch.tensor([1.0, 1, 3])  # one cluster is wider

    def difference(shrinkage):
        covariance = mixture(*cluster(two_clusters, 2), shrinkage).component_distribution.covariance_matrix
        return float((covariance[0] - covariance[1]).norm())

    assert difference(0) > 1.5 * difference(100) and difference(1e9) < 1e-3


def test_as_many_components_as_held_out_images_allow(two_clusters):
    _, chosen = fit_mixture(two_clusters)
    assert chosen['mixture_components'] in COMPONENTS and chosen['mixture_images'] == 300
    # Clusters of two images each fit these closely and others badly.
    many = mixture(*cluster(two_clusters, 150), 0).log_prob(two_clusters[:, 0]).mean()
    assert many > chosen['mixture_log_likelihood'] > -7


def test_components_have_their_share_of_the_draws(two_clusters):
    density, _ = fit_mixture(two_clusters)
    draws = draw(density, 1001, seed=3)
    assert int((draws[:, 0] > 0).sum()) in (500, 501)
    assert 300 < int((draws[:700, 0] > 0).sum()) < 400  # in random order
    torch.testing.assert_close(draws.mean(0), two_clusters.mean((0, 1)), atol=0.2, rtol=0)
    torch.testing.assert_close(draws.std(0), two_clusters.flatten(0, 1).std(0), atol=0.2, rtol=0)


@pytest.mark.parametrize('n', [1, 2, 4, 5, 11])
def test_few_images(n):
    density, chosen = fit_mixture(torch.randn(n, 5, 60, dtype=torch.float64))
    assert torch.isfinite(draw(density, 20, seed=0)).all()
    assert (chosen['mixture_log_likelihood'] is None) == (n < 5) and chosen['mixture_components'] == 1


def test_equal_codes():
    density, _ = fit_mixture(torch.ones(40, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(draw(density, 9, seed=0), torch.ones(9, 3).double(), atol=0.01, rtol=0)
