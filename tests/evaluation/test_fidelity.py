import pytest
import torch

from evaluation import fidelity
from evaluation.fidelity import NEIGHBOURS, authenticity, nearest, spread


@pytest.fixture
def points():
    return torch.randn(100, 8, generator=torch.Generator().manual_seed(0))


def test_equal_sets_have_all_of_each_other(points):
    grades = spread(points, points.flip(0))
    assert grades['precision'] == grades['recall'] == grades['coverage'] == 1
    # In a ball there are its centre, NEIGHBOURS - 1 points inside, and one on its surface.
    assert grades['density'] == pytest.approx(1 + 1 / NEIGHBOURS)


def test_sets_far_apart_have_nothing_of_each_other(points):
    assert set(spread(points, points + 100).values()) == {0}


def test_points_on_a_line():
    real = torch.arange(10.0)[:, None]
    grades = spread(real, torch.cat([torch.full((6, 1), 4.5), torch.full((6, 1), 50.0)]))
    # The radii are 5, 4, 3, 3, 3, 3, 3, 3, 4 and 5: 4.5 is in all ten balls.
    assert grades['precision'] == 0.5 and grades['coverage'] == 1
    assert grades['density'] == pytest.approx(6 * 10 / (12 * NEIGHBOURS))
    assert grades['recall'] == 0  # each sample has five neighbours like itself: balls of radius 0


def test_two_samples_of_one_distribution_have_the_expected_density_and_coverage():
    generator = torch.Generator().manual_seed(0)
    real, samples = torch.randn(2, 1000, 4, generator=generator)
    grades = spread(real, samples)
    assert grades['density'] == pytest.approx(1, abs=0.1)
    assert grades['coverage'] == pytest.approx(1 - 2**-NEIGHBOURS, abs=0.03)


def test_samples_of_one_kind_are_precise_and_cover_little(points):
    grades = spread(points, points[:1].expand(100, -1))
    assert grades['precision'] == 1 and grades['coverage'] < 0.2 and grades['recall'] < 0.05


@pytest.mark.parametrize('n, m', [(NEIGHBOURS, 50), (50, NEIGHBOURS), (0, 0)])
def test_too_few_points_have_no_grades(n, m):
    assert set(spread(torch.randn(n, 3), torch.randn(m, 3)).values()) == {None}
    assert None not in spread(torch.randn(NEIGHBOURS + 1, 3), torch.randn(NEIGHBOURS + 1, 3)).values()


# ------------------------------------------------------------------------------------------- authenticity


@pytest.fixture(params=[(28, 28), (3, 5, 7)])
def images(request):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (40, *request.param), generator=generator).byte()


@pytest.mark.parametrize('chunk', [1, 7, 1000])
def test_nearest_images_are_found_in_every_chunk(images, monkeypatch, chunk):
    monkeypatch.setattr(fidelity, 'CHUNK', chunk)
    flat = images.flatten(1).double()
    apart = torch.cdist(flat, flat, compute_mode='donot_use_mm_for_euclid_dist').square()
    index, distance = nearest(images.flip(0), images)
    assert torch.equal(index, torch.arange(40).flip(0)) and torch.equal(distance, torch.zeros(40).double())
    apart.fill_diagonal_(torch.inf)
    index, distance = nearest(images, images, own=torch.arange(40))
    assert torch.equal(index, apart.argmin(1))
    assert torch.allclose(distance, apart.amin(1))


def test_bright_images_that_differ_in_one_pixel_are_told_apart():
    X = torch.full((50, 64, 64), 250.0)
    X[torch.arange(50), 0, torch.arange(50)] = 249
    index, distance = nearest(X, X)
    assert torch.equal(index, torch.arange(50)) and not distance.any()


def test_copies_are_not_authentic_and_other_images_are(images):
    assert authenticity(images, images) == 0
    assert authenticity(images.float(), images.float()) == 0
    assert authenticity(255 * (images > 100).byte(), images // 20) == 1
    half = torch.cat([images[:20], 255 - images[:20] // 50])
    assert authenticity(half, images) == 0.5


def test_the_distance_decides_that_the_nearest_image_has_to_the_others():
    X = torch.tensor([0.0, 10, 30, 200]).view(4, 1, 1)
    samples = torch.tensor([9.0, 4, 41, 49, 51, 255]).view(6, 1, 1)
    # Nearest 10, 0, 30, 30, 30, 200, at 1, 4, 11, 19, 21, 55; these have another at 10, 10, 20, 20, 20, 170.
    assert authenticity(samples, X) == pytest.approx(1 / 6)


def test_what_differs_at_all_from_an_image_that_is_there_twice_is_authentic(images):
    twice = torch.cat([images, images])
    assert authenticity(images, twice) == 0
    assert authenticity(images // 2 * 2 + 1 - images % 2, twice) == 1  # every pixel differs by one


def test_a_single_training_image_has_no_neighbour(images):
    assert authenticity(images, images[:1]) is None
    assert authenticity(images[:1], images[:2]) == 0
