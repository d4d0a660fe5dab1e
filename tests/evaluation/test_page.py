"""The page of a run and the page of all runs: what they say, in which files."""

import json

import numpy as np
import pytest
from PIL import Image

from evaluation.maps import THUMBNAIL, write_map
from evaluation.names import Figure, describe, summarise
from evaluation.page import write_index, write_report
from training import ImageDataset

RESULTS = dict(system='vad', dist='laplace', latent_dim=60, dataset='fashion-mnist', n_train=1000, n_test=500)
GRADES = dict(test_loss=0.0965, pca_loss=0.123, test_negative_elbo=1519.64, train_seconds=34.2)
SAMPLES = {
    'prior': dict(frechet=55.8, precision=0.6725, classes=10),
    'mixture': dict(frechet=12.4, precision=None, classes=9),
    'test images': dict(frechet=4.2, precision=0.966, classes=10),
}


def test_a_run_in_a_few_sentences():
    samples = dict(samples=SAMPLES, frechet_floor=4.2)
    assert summarise(RESULTS | GRADES | samples) == (
        'A Laplace variational auto-decoder with 60 latent dimensions, trained on 1,000 images of '
        'Fashion-MNIST in 34 seconds. It reconstructs 500 new images with a loss of 0.0965 (lower is '
        'better: 60 principal components have 0.1230, the best student report has 0.1538). A new image '
        'takes 1,519.6 nats (negative ELBO). Its best samples, from the mixture, are at a Fréchet '
        'distance of 12.4 from real images, which are at 4.2 from each other.'
    )


@pytest.mark.parametrize(
    'changes, said, not_said',
    [
        (dict(n_train=60_000), 'components have', 'student report'),
        (dict(dataset='mnist'), 'of MNIST', 'student report'),
        (dict(test_loss=None), 'Fashion-MNIST', 'reconstructs'),
        (dict(pca_loss=None), 'student report has 0.1538)', 'components have'),
        (dict(test_rmse_missing=0.0878), 'missing pixels with an error of 0.0878', 'samples'),
        (dict(train_seconds=None), 'Fashion-MNIST. It', 'seconds'),
        (dict(samples=None), 'nats', 'samples'),
    ],
)
def test_the_sentences_say_what_is_known(changes, said, not_said):
    text = summarise(RESULTS | GRADES | changes)
    assert said in text and not_said not in text


@pytest.mark.parametrize(
    'system, dist, d, words',
    [
        ('ad', None, 128, 'an auto-decoder with 128 latent dimensions'),
        ('vae', 'exponential', 2, 'an exponential variational auto-encoder with 2 latent dimensions'),
        ('vad', 'uniform', 3, 'a uniform variational auto-decoder with 3 latent dimensions'),
        ('gan', None, 1, 'a generative adversarial network with 1 latent dimension'),
    ],
)
def test_a_run_in_a_few_words(system, dist, d, words):
    assert describe(dict(system=system, dist=dist, latent_dim=d)) == words


def test_a_run_with_a_learned_prior_says_so():
    results = dict(system='vad', dist='gaussian', latent_dim=6)
    words = 'a Gaussian variational auto-decoder with 6 latent dimensions'
    assert describe({**results, 'prior': 'learned'}) == f'{words} and a learned prior'
    assert describe({**results, 'prior': 'standard'}) == words


def test_figures_have_units():
    assert Figure('KL', 'nats', 1).text(1234.56) == '1,234.6 nats'
    assert Figure('classes', digits=0).text(10) == '10'
    assert Figure('classes', digits=0).text(None) == '–'


@pytest.mark.parametrize('shape', [(5, 28, 28), (1, 28, 28), (5, 3, 64, 64), (50, 12, 8), (3, 3, 8, 100)])
def test_a_map_has_a_square_for_each_image(tmp_path, shape):
    dataset = ImageDataset(np.random.default_rng(0).integers(0, 256, shape), np.zeros(shape[0]), 'npy')
    flat = np.random.default_rng(1).normal(size=(len(dataset), 2))
    write_map(dataset, flat, tmp_path)
    found = json.loads((tmp_path / 'map.json').read_text())
    assert len(found['places']) == len(found['labels']) == len(dataset)
    assert all(0 <= x <= 1000 for place in found['places'] for x in place)
    rows = -(-len(dataset) // found['columns'])
    with Image.open(tmp_path / 'map.jpg') as sprite:
        assert sprite.size == (found['columns'] * THUMBNAIL, rows * THUMBNAIL)


def test_equal_places_are_in_the_middle(digits, tmp_path):
    write_map(digits[1], np.zeros((7, 2)), tmp_path)
    assert json.loads((tmp_path / 'map.json').read_text())['places'] == 7 * [[500, 500]]


@pytest.fixture
def run(digits, tmp_path):
    """A folder with results and a map, as a run leaves them; a class has a nasty name."""
    folder = tmp_path / 'runs' / 'vad <1>'
    folder.mkdir(parents=True)
    classes = ['</script><b>', *digits[1].classes[1:]]
    dataset = ImageDataset(digits[1].X, digits[1].y, 'digits', classes=classes)
    write_map(dataset, np.random.default_rng(0).normal(size=(20, 2)), folder)
    (folder / 'results.json').write_text(json.dumps(RESULTS | GRADES | dict(seed=0)))
    write_report(folder, GRADES | dict(samples=SAMPLES, frechet_floor=4.2), RESULTS)
    return folder


def test_a_report_is_one_file_with_names_in_place_of_keys(run):
    page = (run / 'report.html').read_text(encoding='utf-8')
    assert '<h1>A Laplace variational auto-decoder with 60 latent dimensions</h1>' in page
    assert '<td>negative ELBO of a test image ↓</td><td class="number">1,519.6 nats</td>' in page
    assert 'test_negative_elbo' not in page and 'src="' not in page.replace('src="data:', '')
    assert '<td>mixture</td><td class="number">12.4</td><td class="number">–</td>' in page
    assert page.count('</script>') == 2 and '&lt;/script&gt;&lt;b&gt;</li>' in page


def test_the_index_has_a_row_for_each_run(run):
    twin = run.parent / 'likelihood' / 'runs' / 'gan'
    twin.mkdir(parents=True)
    (twin / 'samples.png').touch()
    (twin / 'results.json').write_text(json.dumps(dict(system='gan', frechet=None)))
    (run.parent / 'broken').mkdir()
    (run.parent / 'broken' / 'results.json').write_text('{')
    write_index(run.parent)
    page = (run.parent / 'index.html').read_text(encoding='utf-8')
    assert page.count('<tr>') == 3 and '2 runs.' in page
    assert '<a href="vad &lt;1&gt;/report.html">' in page and 'src="likelihood/runs/gan/samples.png"' in page
    assert 'data-value="0.0965">0.0965<' in page
