"""The table of samples in results.json: grades of a run's samples, beside those of real images, of their
reconstructions, and of copies."""

import torch
from torch import Tensor
from tqdm import tqdm

from evaluation import frechet
from evaluation.fidelity import SPREAD, authenticity, spread
from evaluation.samples import CHUNK, Sampler
from training import ImageDataset

GRADES = 'frechet', 'frechet_floor', 'frechet_features', 'classes', 'smallest_class', 'samples'
SPLITS = 4
NOISE = 25.5  # standard deviation of the noise on copies: a tenth of the range of a pixel


def random_orders(n: int) -> list[Tensor]:
    """SPLITS random orders of n real images, or of SAMPLES of them, int64: see grade_sets."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randperm(n, generator=generator)[: frechet.SAMPLES] for _ in range(SPLITS)]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    size = len(x) // 2
    return x[:size], x[size : 2 * size]


def compare(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float | None]:
    """Fréchet distance, precision, recall, density and coverage, the mean over pairs of features (of real
    images [n, F], of samples [n, F]). None: there are no pairs, or too few images in them."""
    found = [
        {'frechet': frechet.distance(real, samples) if len(real) > 1 else None, **spread(real, samples)}
        for real, samples in pairs
    ]
    return {
        name: None if not found or found[0][name] is None else sum(row[name] for row in found) / len(found)
        for name in ('frechet', *SPREAD)
    }


def grade_sets(sets: dict[str, Tensor], train_set: ImageDataset, test_set: ImageDataset) -> tuple[dict, str]:
    """A row of grades for each set of images [n, *shape] in 0-255, and 'inception' or 'classifier', whose
    features are compared (None: neither).

    Estimated from n images a set, the Fréchet distance is too large by an amount that falls as 1 / n and
    grows with F (Chong and Forsyth, 2020); the other grades depend on n as well. So all sets that are
    compared have one size: half of SAMPLES, or of the test images if they are fewer. A grade is the mean over
    the four pairs of a half of the samples and a half of the test images. Two rows are different:

    'test images', which is added here, is what real images get: one half of them is compared with the other,
    and the grades are the mean over SPLITS ways to halve them, since a single one is off by a third. Its
    Fréchet distance is the floor: samples as good as new real images would be there.
    'reconstructions' has the test images in the first of random_orders. One half of them is compared with the
    test images of the other half: an image is too near to its own reconstruction.

    classes, smallest_class: how many of the classes appear in a set, and the share of the rarest one, by the
    classifier: a generator that makes few things is found out.
    """
    device = sets['prior'].device
    classifier, network = frechet.feature_networks(train_set, device)
    real, real_classes = frechet.extract(test_set.X.byte(), classifier, network)
    orders = random_orders(len(test_set))
    table = {}
    sets = {**sets, 'test images': test_set.X[orders[0]]}
    for name, images in tqdm(sets.items(), desc='grading samples', disable=None, leave=False, delay=2):
        images = images.clamp(0, 255).round().byte().to(device)  # as they would be in files
        if name == 'test images':
            features, predicted = real, None if real_classes is None else real_classes[orders[0]]
        else:
            features, predicted = frechet.extract(images.cpu(), classifier, network)
        if features is None:
            pairs = []
        elif name == 'test images':
            pairs = [halves(features[order]) for order in orders]
        else:
            (a, b), (c, d) = halves(real[orders[0]]), halves(features[: len(orders[0])])
            pairs = [(a, d), (b, c)] if name == 'reconstructions' else [(a, c), (a, d), (b, c), (b, d)]
        shares = (
            None if predicted is None else predicted.bincount(minlength=len(train_set.classes)) / len(images)
        )
        table[name] = {
            **compare(pairs),
            'authenticity': authenticity(images, train_set.X),
            'classes': None if shares is None else int((shares > 0).sum()),
            'smallest_class': None if shares is None else float(shares.min()),
        }
    return table, 'inception' if network else 'classifier' if classifier else None


def noisy_copies(X: Tensor, n: int) -> Tensor:
    """n images of X [N, *shape] with noise: [n, *shape]. If N is smaller than n, each is copied several
    times. They are the same for all runs on the same images."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(len(X), generator=generator)[torch.arange(n) % len(X)]
    return X[index].float() + NOISE * torch.randn(n, *X.shape[1:], generator=generator)


@torch.no_grad()
def grade_samples(
    sampler: Sampler, train_set: ImageDataset, test_set: ImageDataset, test_latents: Tensor | None = None
) -> dict:
    """Grades of samples of any system. 'samples' is the table, see grade_sets; those with 'mixture' say how
    the mixture was chosen, see fit_mixture; the others are of draws from the prior.

    sampler: of a trained run. train_set, test_set: those of the run, or test images alike; with others the
    samples have nothing in common. test_latents: [n, K], fitted to test_set; a GAN has none. The grades are
    None where the truth under missing pixels is not known. Images without labels have no classifier: what
    needs one is None.
    """
    if not (train_set.known and test_set.known):
        return dict.fromkeys(GRADES)
    train_set, test_set = train_set.complete(), test_set.complete()
    model, n = sampler.trained.model, frechet.SAMPLES
    if frechet.inception_weights():  # the network takes seconds for a thousand images
        test_set = test_set.part(slice(n))
    sets = sampler.sample(n)
    if test_latents is not None:
        means = model.mean(test_latents[random_orders(len(test_set))[0].to(test_latents.device)])
        sets['reconstructions'] = torch.cat([model.decode(part) for part in means.split(CHUNK)])
    sets['noisy copies'] = noisy_copies(train_set.X, n)
    table, kind = grade_sets(sets, train_set, test_set)
    prior, floor = table['prior'], table['test images']['frechet']
    grades = prior['frechet'], floor, kind, prior['classes'], prior['smallest_class'], table
    return dict(zip(GRADES, grades)) | sampler.chosen
