"""What the figures of results.json are called where people read them, and what they are compared with."""

from dataclasses import dataclass
from typing import Any

SYSTEMS = {
    'ad': 'auto-decoder',
    'vad': 'variational auto-decoder',
    'ae': 'auto-encoder',
    'vae': 'variational auto-encoder',
    'gan': 'generative adversarial network',
}
DATASET_NAMES = {
    'fashion-mnist': 'Fashion-MNIST',
    'mnist': 'MNIST',
    'imagenette': 'Imagenette',
    'digits': "scikit-learn's digits",
    'npy': 'a file of images',
    'pictures': 'a folder of pictures',
}
FAMILY_NAMES = {
    'gaussian': 'Gaussian',
    'laplace': 'Laplace',
    'exponential': 'exponential',
    'uniform': 'uniform',
    'gaussian-full': 'full-covariance Gaussian',
}
# The lowest test loss in a student report on the course's images, by system and family (docs/documents.md).
REPORTED_LOSSES = {
    ('ad', None): 0.1270,
    ('vad', 'gaussian'): 0.1279,
    ('vad', 'laplace'): 0.1538,
    ('vad', 'exponential'): 0.1758,
}


@dataclass(frozen=True)
class Figure:
    """A figure of results.json."""

    name: str
    unit: str = ''
    digits: int = 4  # behind the point
    better: str = ''  # 'low' or 'high'; '': neither

    @property
    def arrow(self) -> str:
        return {'low': '↓', 'high': '↑', '': ''}[self.better]

    def text(self, value: Any) -> str:
        """The value with its unit; a dash for none."""
        if value is None:
            return '–'
        text = f'{value:,.{self.digits}f}' if isinstance(value, (int, float)) else str(value)
        return f'{text} {self.unit}'.strip()


FIGURES = {
    'test_loss': Figure('loss of test images', better='low'),
    'test_loss_mean': Figure('loss of test images, at the posterior means', better='low'),
    'train_loss': Figure('loss of training images', better='low'),
    'pca_loss': Figure('loss of as many principal components', better='low'),
    'test_negative_elbo': Figure('negative ELBO of a test image', 'nats', 1, 'low'),
    'test_reconstruction': Figure('its reconstruction term', 'nats', 1, 'low'),
    'test_kl': Figure('its KL term', 'nats', 1),
    'kl': Figure('KL of a training image', 'nats', 1),
    'refined_negative_elbo': Figure('negative ELBO with refined posteriors', 'nats', 1, 'low'),
    'log_likelihood': Figure('log p of a test image', 'nats', 1, 'high'),
    'log_likelihood_error': Figure('its standard error', 'nats', 1, 'low'),
    'ess': Figure('effective sample size, median', 'samples', 1, 'high'),
    'test_rmse_missing': Figure('error of missing pixels (0-1)', better='low'),
    'test_rmse_observed': Figure('error of observed pixels (0-1)', better='low'),
    'coverage_90': Figure('missing pixels inside 90% intervals', digits=3),
    'test_crps': Figure('CRPS of missing pixels', better='low'),
    'knn_accuracy': Figure('accuracy of 5 nearest neighbours', digits=3, better='high'),
    'frechet': Figure('Fréchet distance of samples from the prior', digits=1, better='low'),
    'frechet_floor': Figure('that of real images from real images', digits=1),
    'classes': Figure('classes among the samples', digits=0, better='high'),
    'smallest_class': Figure('share of the rarest', digits=3, better='high'),
    'zero_weights': Figure('weights that are zero', digits=3),
    'best_epoch': Figure('epoch of the best weights', digits=0),
    'parameters': Figure('weights of the networks', digits=0),
    'train_seconds': Figure('training', 'seconds', 1, 'low'),
    'test_seconds': Figure('latents of the test images', 'seconds', 1, 'low'),
    'total_seconds': Figure('the whole program', 'seconds', 1, 'low'),
}
# Of the table of samples.
SAMPLE_FIGURES = {
    'frechet': Figure('Fréchet distance', digits=1, better='low'),
    'precision': Figure('precision', digits=2, better='high'),
    'recall': Figure('recall', digits=2, better='high'),
    'density': Figure('density', digits=2, better='high'),
    'coverage': Figure('coverage', digits=2, better='high'),
    'authenticity': Figure('authenticity', digits=2),
    'classes': Figure('classes', digits=0, better='high'),
    'smallest_class': Figure('share of the rarest', digits=3, better='high'),
}


def describe(results: dict) -> str:
    """What a run is, in a few words: 'a Gaussian variational auto-decoder with 60 latent dimensions'."""
    family = f'{FAMILY_NAMES[results["dist"]]} ' if results.get('dist') else ''
    article = 'an' if (family or SYSTEMS[results['system']])[0].lower() in 'aeio' else 'a'  # a uniform one
    words = f'{article} {family}{SYSTEMS[results["system"]]} with {results["latent_dim"]} latent dimensions'
    words = words.removesuffix('s') if results['latent_dim'] == 1 else words
    return words + (' and a learned prior' if results.get('prior') == 'learned' else '')


def summarise(results: dict) -> str:
    """A run in a few sentences: what was trained, and how good it is."""
    data = DATASET_NAMES.get(results['dataset'], results['dataset'])
    words = describe(results)
    sentences = [f'{words[0].upper()}{words[1:]}, trained on {results["n_train"]:,} images of {data}']
    if results.get('train_seconds') is not None:
        sentences[0] += f' in {results["train_seconds"]:,.0f} seconds'
    if results.get('test_loss') is not None:
        sentences.append(
            f'It reconstructs {results["n_test"]:,} new images with a loss of {results["test_loss"]:.4f}'
        )
        others = []
        if results.get('pca_loss') is not None:
            others.append(f'{results["latent_dim"]} principal components have {results["pca_loss"]:.4f}')
        reported = REPORTED_LOSSES.get((results['system'], results.get('dist')))
        if reported and (results['dataset'], results['n_train']) == ('fashion-mnist', 1000):
            others.append(f'the best student report has {reported:.4f}')
        if others:
            sentences[-1] += f' (lower is better: {", ".join(others)})'
    if results.get('test_rmse_missing') is not None:
        sentences.append(
            f'It fills in missing pixels with an error of {results["test_rmse_missing"]:.4f}, of 0-1'
        )
    if results.get('test_negative_elbo') is not None:
        sentences.append(f'A new image takes {results["test_negative_elbo"]:,.1f} nats (negative ELBO)')
    samples = {
        kind: row['frechet']
        for kind, row in (results.get('samples') or {}).items()
        if kind in ('prior', 'two-stage', 'mixture') and row.get('frechet') is not None
    }
    if samples:
        best = min(samples, key=samples.get)
        sentences.append(
            f'Its best samples, from the {best}, are at a Fréchet distance of {samples[best]:.1f} from real '
            f'images, which are at {results["frechet_floor"]:.1f} from each other'
        )
    return '. '.join(sentences) + '.'
