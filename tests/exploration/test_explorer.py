"""What the page shows of a run, computed: erased pixels, walks, ways, samples, the map."""

import numpy as np
import pytest
import torch

import train_gan
from exploration import Explorer, explorer
from training import UserError


@pytest.fixture
def run(run_dir, csv_dir):
    return Explorer(run_dir)


def test_pictures_are_enlarged(run):
    picture = run.original(3)
    assert picture.shape == (252, 252, 3) and picture.dtype == np.uint8
    assert torch.equal(run.read(picture).round(), run.test_set[3][1])


def test_a_walk_of_no_steps_is_the_reconstruction(run):
    assert np.array_equal(run.walk(2, 6 * [0.0]), run.reconstruction(2))
    assert not np.array_equal(run.walk(2, [3.0]), run.reconstruction(2))


def test_directions_are_the_principal_ones(run):
    z = run.model.mean(run.trained.latents)
    lengths = run.directions.norm(dim=1)
    assert (lengths.diff() <= 1e-5).all()
    along = (z - z.mean(0)) @ (run.directions[0] / lengths[0])
    assert float(along.std()) == pytest.approx(float(lengths[0]), rel=1e-4)


@pytest.mark.parametrize('arc', [False, True])
def test_a_way_leads_from_one_image_to_the_other(run, arc):
    path = run.between(0, 5, [0.0, 0.5, 1.0], arc)
    ends = [run.model.decode(run.code(i))[0] for i in (0, 5)]
    torch.testing.assert_close(path[[0, 2]], torch.stack(ends), atol=0.05, rtol=0)
    assert not torch.allclose(path[0], path[1], atol=0.5)


def test_an_arc_from_an_image_to_itself_stays_there(run):
    path = run.between(4, 4, [0.0, 0.5], arc=True)
    torch.testing.assert_close(path[0], path[1])


def test_erased_pixels_are_filled_in_and_the_others_stay(run):
    erased = torch.zeros(28, 28, dtype=torch.bool)
    erased[10:18, 5:20] = True
    pictures = run.fill_in(run.test_set[0][1], erased)
    assert list(pictures) == [
        'what is left',
        'conditional mean',
        'draw 1',
        'draw 2',
        'draw 3',
        'standard deviation',
    ]
    block = np.kron(erased.numpy(), np.ones((9, 9), bool))
    original = run.original(0)
    for name in ('conditional mean', 'draw 1'):
        assert np.array_equal(pictures[name][~block], original[~block])
    assert (pictures['what is left'][block] == explorer.MASKED).all()
    assert not pictures['standard deviation'][~block].any() and pictures['standard deviation'][block].any()


def test_what_lies_under_erased_pixels_is_not_read(run):
    erased = torch.zeros(28, 28, dtype=torch.bool)
    erased[:14] = True
    image = run.test_set[1][1]
    other = torch.where(erased, 255 - image, image)
    pictures = [run.fill_in(x, erased)['conditional mean'] for x in (image, other)]
    assert np.array_equal(*pictures)


def test_half_a_painted_pixel_is_erased(run):
    painted = np.zeros((252, 252), bool)
    painted[:5, :9] = True  # 5 of 9 rows
    painted[:4, 9:18] = True
    erased = run.erased(painted)
    assert erased[0, 0] and erased.sum() == 1


def test_a_picture_of_another_size_is_said(run):
    with pytest.raises(UserError, match='expected a picture of 28 x 28 pixels, .* got 30 x 28; scale it'):
        run.read(np.zeros((30, 28, 3), np.uint8))


def test_colours_become_grey(run):
    picture = np.zeros((28, 28, 4), np.uint8)
    picture[..., 1] = 100
    assert torch.allclose(run.read(picture), torch.tensor(58.7))


@pytest.mark.parametrize('way', ['prior', 'two-stage', 'mixture'])
def test_samples_follow_from_the_seed(run, way):
    first, again, other = (run.draw(way, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_the_map_finds_the_image_of_a_point(run):
    for i in (0, 7):
        x, y = run.places[i] * explorer.MAP / 1000
        assert np.allclose(run.places[run.at(x, y)], run.places[i])
    assert (run.map(7) != run.map()).any()


def test_the_map_of_a_run_without_one_is_computed(run_dir, run):
    (run_dir / 'map.json').unlink()
    assert run.places.shape == (40, 2) and run.places.min() >= 0 and run.places.max() <= 1000


def test_a_gan_has_samples_and_ways(command, csv_dir, tmp_path):
    flags = ['--data-path', csv_dir, '--epochs', 1, '--latent-dim', 6, '--device', 'cpu', '--model', 'linear']
    status, _, err = command(train_gan, *flags, '--run-dir', tmp_path / 'run')
    assert status == 0, err
    gan = Explorer(tmp_path / 'run')
    gan.prepare()
    assert not gan.has_latents and gan.draw('prior', 0).ndim == 3
    assert gan.between(0, 1, [0.0, 1.0], arc=True).shape == (2, 28, 28)
