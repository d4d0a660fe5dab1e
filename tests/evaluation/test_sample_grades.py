import dataclasses

import pytest
import torch

from evaluation import frechet
from evaluation.sample_grades import GRADES, compare, grade_samples, grade_sets, halves, noisy_copies
from evaluation.samples import CHOSEN, Sampler
from training import load_run
from training.data import ImageDataset, load_images, read_digits


def test_samples_like_new_real_images_are_at_the_floor():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=generator)
    real, samples = torch.randn(2, 1000, 8, generator=generator) @ mixing
    (a, b), (c, d) = halves(real), halves(samples)
    floor, like, unlike = (compare([pair])['frechet'] for pair in ((a, b), (a, c), (b, d + 1)))
    assert 0.5 < like / floor < 2 and unlike > 10 * floor


@pytest.mark.parametrize('size', [0, 1, 2, 5, 6])
def test_grades_that_have_too_few_images_are_none(size):
    grades = compare([torch.randn(2, size, 3)])
    assert (grades.pop('frechet') is None) == (size < 2)
    assert all((value is None) == (size < 6) for value in grades.values())
    assert set(compare([]).values()) == {None}


@pytest.fixture(scope='module')
def whole_digits():
    (X, y), (X_test, y_test) = read_digits()
    return ImageDataset(X, y, 'digits'), ImageDataset(X_test, y_test, 'digits')


@pytest.fixture(scope='module')
def table(whole_digits):
    """The grades of test images, of samples of one kind, and of copies, by a classifier of half of the steps;
    and whether the caller's random numbers were left alone."""
    train_set, test_set = whole_digits
    alike = test_set.X[test_set.y == 0][:1].expand(1000, -1, -1)
    copies = noisy_copies(train_set.X, 1000)
    sets = {'prior': test_set.X, 'alike': alike, 'noisy copies': copies, 'copies': train_set.X}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frechet, 'STEPS', frechet.STEPS // 2)
        table, kind = grade_sets(sets, train_set, test_set)
    assert kind == 'classifier'
    return table, torch.equal(state, torch.get_rng_state())


def test_the_callers_random_numbers_are_left_alone(table):
    assert table[1]


def test_real_images_are_near_the_floor_and_show_all_classes(table):
    for name in ('prior', 'test images'):
        grades = table[0][name]
        assert grades['classes'] == 10 and grades['smallest_class'] > 0.05
        assert grades['frechet'] < 2 * table[0]['test images']['frechet']
        assert min(grades['precision'], grades['recall'], grades['coverage']) > 0.85


def test_the_classifier_has_learned_the_classes(table, whole_digits):
    train_set, test_set = whole_digits
    classifier = frechet.known[train_set.checksum()]
    features, predicted = frechet.extract(test_set.X.byte(), classifier, None)
    assert features.shape == (797, 64) and (predicted == test_set.y).float().mean() > 0.9


def test_samples_of_one_kind_are_found_out(table):
    grades = table[0]['alike']
    assert grades['classes'] == 1 and grades['smallest_class'] == 0
    assert grades['frechet'] > 20 * table[0]['prior']['frechet'] and grades['coverage'] < 0.1


def test_copies_look_real_but_are_not_authentic(table):
    authentic = {name: grades['authenticity'] for name, grades in table[0].items()}
    assert authentic['copies'] == 0 and authentic['noisy copies'] < 0.8 * authentic['test images']
    assert table[0]['copies']['precision'] > 0.85


def test_noisy_copies_repeat_and_are_as_many_as_wanted(digits):
    X = digits[0].X.byte()
    copies = noisy_copies(X, 100)
    assert torch.equal(copies, noisy_copies(X, 100)) and copies.shape == (100, 28, 28)
    apart = (copies[:, None] - X[None].float()).square().mean((2, 3)).sqrt().amin(1)
    assert ((20 < apart) & (apart < 30)).all()


# ---------------------------------------------------------------------------------------- of which images


@pytest.fixture
def quick(quicken, monkeypatch):
    quicken(monkeypatch)


def test_images_in_colour_have_grades(quick):
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(20, 3, 64, 64, generator=generator) * 255
    in_colour = ImageDataset(X, torch.arange(20) % 10, 'digits')
    table, _ = grade_sets({'prior': X}, in_colour, in_colour)
    assert table['prior']['frechet'] >= 0 and table['test images']['frechet'] > 0
    assert None not in table['prior'].values()


def test_images_without_labels_have_authenticity_alone(quick, digits):
    train_set, test_set = (ImageDataset(part.X.byte(), part.y * 0, 'npy', mapped=True) for part in digits)
    table, kind = grade_sets({'prior': test_set.X}, train_set, test_set)
    assert kind is None and table['prior'].pop('authenticity') == table['test images']['authenticity'] > 0
    assert set(table['prior'].values()) == {None}


class FakeInception(torch.nn.Linear):
    def forward(self, images):  # [B, 3, 28, 28], bytes
        return super().forward(images.float().mean((1, 3)))


def test_features_of_inception_are_compared_where_there_is_one(monkeypatch, digits):
    train_set, test_set = digits
    networks = None, FakeInception(28, 8).requires_grad_(False)
    monkeypatch.setattr(frechet, 'feature_networks', lambda *_: networks)
    table, kind = grade_sets({'prior': test_set.X}, train_set, test_set)
    assert kind == 'inception' and table['prior']['frechet'] >= 0 and table['prior']['classes'] is None


@pytest.mark.parametrize('n_train, n_test', [(1, 1), (64, 3), (2, 11)])
def test_few_images_have_the_grades_that_they_can_have(quick, digits, n_train, n_test):
    train_set, test_set = (part.part(slice(n)) for part, n in zip(digits, (n_train, n_test)))
    table, _ = grade_sets({'prior': digits[1].X}, train_set, test_set)
    for grades in table.values():
        assert (grades['authenticity'] is None) == (n_train == 1)
        assert (grades['frechet'] is None) == (n_test < 4)
        assert (grades['recall'] is None) == (n_test < 12)


def test_a_run_has_a_row_for_each_set(quick, run_dir, csv_dir):
    trained, (train_set, test_set) = load_run(run_dir, 'cpu'), load_images(csv_dir)
    latents = trained.latents[:40]
    grades = grade_samples(Sampler(trained), train_set, test_set, latents)
    assert tuple(grades) == (*GRADES, *CHOSEN)
    assert grades == grade_samples(Sampler(trained), train_set, test_set, latents)
    rows = ['prior', 'two-stage', 'mixture', 'reconstructions', 'noisy copies', 'test images']
    table = grades['samples']
    assert list(table) == rows and all(value is not None for row in table.values() for value in row.values())
    assert grades['frechet_floor'] == table['test images']['frechet']
    assert all(grades[name] == table['prior'][name] for name in ('frechet', 'classes', 'smallest_class'))
    without = dataclasses.replace(trained, latents=None)  # as of a GAN
    without = grade_samples(Sampler(without), train_set, test_set)['samples']
    assert list(without) == ['prior', 'noisy copies', 'test images']
    assert without == {name: table[name] for name in without}


def test_images_that_are_not_known_in_full_have_no_grades(run_dir, digits):
    X = digits[0].X
    hidden = ImageDataset(X, digits[0].y, 'digits', observed=torch.ones_like(X).bool(), known=False)
    grades = grade_samples(Sampler(load_run(run_dir, 'cpu')), hidden, hidden)
    assert grades == dict.fromkeys(GRADES)
