"""impute.py: what it writes, and what cannot be completed; training on incomplete images as users do it."""

import json

import numpy as np
import pytest
from PIL import Image

import evaluate
import impute
import train_ad
import train_ae
import train_gan
import train_vad
import train_vae
import training.inference
from training.inference import Schedule


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    monkeypatch.setattr(training.inference, 'NEW_IMAGES', Schedule(passes=4, lr=0.15))


@pytest.fixture
def images(tmp_path):
    """images.npz: 20 images of noise, of which half of the pixels are observed; and its path."""
    generator = np.random.default_rng(0)
    arrays = dict(images=generator.integers(0, 256, (20, 28, 28), np.uint8))
    arrays['observed'] = generator.random((20, 28, 28)) < 0.5
    np.savez(tmp_path / 'images.npz', **arrays)
    return arrays, tmp_path / 'images.npz'


def test_images_of_a_file_are_completed(command, run_dir, images, tmp_path, contents):
    arrays, path = images
    before = contents(run_dir)
    status, out, err = command(
        impute, run_dir, '--data-path', path, '--out', tmp_path / 'out.npz', '--draws', 3
    )
    assert status == 0 and '20 images completed' in out and 'rmse' not in out and contents(run_dir) == before
    result, observed = np.load(tmp_path / 'out.npz'), arrays['observed']
    assert {name: (x.dtype, x.shape) for name, x in result.items()} == {
        'mean': (np.float32, (20, 28, 28)),
        'std': (np.float32, (20, 28, 28)),
        'draws': (np.uint8, (3, 20, 28, 28)),
    }
    assert np.array_equal(result['mean'][observed], arrays['images'][observed])
    assert (result['draws'][:, observed] == arrays['images'][observed]).all()
    assert (tmp_path / 'imputed.png').exists()


def test_what_lies_under_missing_pixels_changes_no_byte(command, train, images, tmp_path):
    arrays, path = images
    results = []
    for garbage in (0, 255):
        np.savez(
            path, **{**arrays, 'images': np.where(arrays['observed'], arrays['images'], garbage).astype('u1')}
        )
        run = tmp_path / f'run{garbage}'
        assert train(train_vad, '--data-path', path, '--run-dir', run)[0] == 0
        assert command(impute, run, '--data-path', path, '--out', tmp_path / 'out.npz')[0] == 0
        weights = json.loads((run / 'results.json').read_text())['checkpoint_sha256']
        results.append((weights, (tmp_path / 'out.npz').read_bytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize('system', [train_vad, train_ad, train_vae, train_ae])
def test_a_run_with_hidden_pixels_is_graded_and_completes_its_test_images(command, train, tmp_path, system):
    run = tmp_path / 'run'
    status, out, err = train(system, '--missing', 0.4, '--missing-kind', 'blocks')
    assert status == 0 and 'coverage_90' in out
    results = json.loads((run / 'results.json').read_text())
    assert results['missing'] == 0.4 and results['missing_kind'] == 'blocks' and results['n_imputed'] == 40
    assert 0 < results['test_rmse_observed'] < 1 and 0 < results['test_rmse_missing'] < 1
    assert (run / 'imputed.png').exists()
    status, out, err = command(impute, run, '--out', tmp_path / 'out.npz')
    printed = f'test_rmse_missing {results["test_rmse_missing"]:.4f}'
    assert status == 0 and '40 images completed' in out and printed in out
    status, out, err = command(evaluate, run, '--json', tmp_path / 'grades.json')
    (graded,) = json.loads((tmp_path / 'grades.json').read_text())
    assert status == 0 and graded['test_rmse_missing'] == results['test_rmse_missing']


def test_a_run_of_own_incomplete_images_is_graded_as_far_as_they_are_known(command, train, images, tmp_path):
    status, out, err = train(train_vad, '--data-path', images[1])
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert status == 0 and results['missing_kind'] == 'own' and 0.45 < results['missing'] < 0.55
    unknown = 'test_loss', 'test_loss_mean', 'train_loss', 'test_rmse_missing', 'coverage_90', 'frechet'
    assert results['samples'] is None
    assert all(results[name] is None for name in unknown) and results['test_rmse_observed'] > 0


# -------------------------------------------------------------------------------------------- bad input


def test_the_output_is_checked_before_the_work(command, run_dir, images, tmp_path, monkeypatch, one_line):
    monkeypatch.setattr(impute, 'load_run', None)  # it is not called
    for out in (
        tmp_path / 'no' / 'out.npz',
        tmp_path / 'out.npy',
        tmp_path,
        tmp_path / 'images.npz' / 'x.npz',
    ):
        status, _, err = command(impute, run_dir, '--data-path', images[1], '--out', out)
        assert (
            status == 2
            and one_line(err)
            and f'expected --out to name a .npz file in an existing folder, got {out}' in err
        )


@pytest.mark.parametrize('named', [True, False])
def test_the_images_are_not_overwritten(command, train, images, tmp_path, one_line, named):
    assert train(train_vad, '--data-path', images[1])[0] == 0
    before, which = images[1].read_bytes(), ['--data-path', images[1]] if named else []
    status, _, err = command(impute, tmp_path / 'run', *which, '--out', images[1])
    assert status == 2 and one_line(err) and images[1].read_bytes() == before
    assert f'expected --out to name a file apart from the images, which are in {images[1]}' in err


def test_nothing_is_written_among_pictures(command, run_dir, images, tmp_path, one_line):
    arrays, folder = images[0], tmp_path / 'pictures' / 'shoes'
    folder.mkdir(parents=True)
    for i, (x, observed) in enumerate(zip(arrays['images'], arrays['observed'])):
        Image.fromarray(np.stack([x, 255 * observed.astype(np.uint8)], 2), 'LA').save(folder / f'{i}.png')
    status, _, err = command(impute, run_dir, '--data-path', folder.parent, '--out', folder / 'completed.npz')
    assert status == 2 and one_line(err) and f'apart from the images, which are in {folder.parent}' in err
    assert len(list(folder.iterdir())) == 20


def test_complete_images_are_not_completed(command, run_dir, tmp_path, one_line):
    status, _, err = command(impute, run_dir, '--out', tmp_path / 'out.npz')
    assert (
        status == 2 and one_line(err) and 'expected images with missing pixels, got complete ones in' in err
    )


def test_a_gan_completes_nothing(command, train, images, tmp_path, one_line):
    assert train(train_gan, '--epochs', 1)[0] == 0
    status, _, err = command(
        impute, tmp_path / 'run', '--data-path', images[1], '--out', tmp_path / 'out.npz'
    )
    assert status == 2 and one_line(err) and 'expected a run whose images have latents, got the GAN in' in err


def test_images_of_another_shape_are_refused(command, run_dir, tmp_path, one_line):
    arrays = dict(images=np.zeros((3, 8, 8), np.uint8), observed=np.zeros((3, 8, 8), bool))
    np.savez(tmp_path / 'small.npz', **arrays)
    path, out = tmp_path / 'small.npz', tmp_path / 'out.npz'
    status, _, err = command(impute, run_dir, '--data-path', path, '--out', out)
    assert status == 2 and one_line(err) and 'expected images of shape (28, 28)' in err and '(8, 8) in' in err


@pytest.mark.parametrize('rate', ['0', '1', 'nan', '-0.1', 'half', ''])
def test_a_share_of_missing_pixels_lies_between_0_and_1(train, one_line, rate):
    status, _, err = train(train_vad, '--missing', rate)
    assert status == 2 and one_line(err) and ('expected' in err or 'invalid number value' in err)
