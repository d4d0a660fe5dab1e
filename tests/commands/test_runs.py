"""What a run leaves: its folder, its report, its pictures."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import evaluate
import impute
import train_ad
import train_gan
import train_vad
import train_vae
from training import load_run

FILES = {'config.json', 'checkpoint.pt', 'metrics.jsonl', 'results.json', 'report.html'}
PICTURES = {
    'map.jpg',
    'map.json',
    'loss.png',
    'reconstructions.png',
    'samples.png',
    'tsne_train.png',
    'tsne_test.png',
    'interpolation.png',
    'interpolation.gif',
}
OTHERS = {train_ad: {'magnitudes.png'}, train_vae: {'amortisation.png', 'amortisation.json'}}
RESULTS = {
    'system',
    'dist',
    'dataset',
    'n_train',
    'n_test',
    'latent_dim',
    'seed',
    'epochs',
    'decoder',
    'beta',
    'obs_std',
    'train_loss',
    'test_loss',
    'test_loss_mean',
    'kl',
    'knn_accuracy',
    'train_seconds',
    'test_seconds',
    'total_seconds',
    'device',
}
MLP = ['--encoder', 'mlp', '--decoder', 'mlp']
LSTM = ['--dist', 'laplace', '--encoder', 'lstm', '--likelihood', 'bernoulli', '--decoder', 'conv6']


@pytest.mark.parametrize(
    'module, arguments, default',
    [
        (train_ad, [], 'ad'),
        (train_vad, [], 'vad-gaussian'),
        (train_vad, ['--dist', 'laplace'], 'vad-laplace'),
        (train_vad, ['--dist', 'exponential', '--decoder', 'dcgan7x7'], 'vad-exponential'),
        (train_vae, [], 'vae-gaussian'),
        (train_vae, LSTM, 'vae-laplace'),
    ],
)
def test_a_run_from_start_to_report(
    command, csv_dir, tmp_path, small, monkeypatch, names, module, arguments, default
):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(module, '--data-path', csv_dir, *arguments, *small)
    assert status == 0 and not err, err  # quiet: this is no terminal
    assert 'test_loss' in out and 'report.html' in out
    folder = tmp_path / 'runs' / default
    wanted = FILES | PICTURES | OTHERS.get(module, set())
    assert names(folder) == wanted

    results = json.loads((folder / 'results.json').read_text())
    assert set(results) >= RESULTS
    assert results['n_train'] == 64 and results['n_test'] == 40 and results['dataset'] == 'fashion-mnist'
    assert (results['kl'] == 0) == (module is train_ad)

    report = (folder / 'report.html').read_text()  # which needs no other file
    assert report.count('data:image/gif;base64') == 1
    pictures = {name for name in wanted if name.endswith('.png')} - {'tsne_test.png'}  # a map is in its place
    assert report.count('data:image/png;base64') == len(pictures)
    assert report.count('data:image/jpeg;base64') == 1
    assert '://' not in report and f'{results["test_loss"]:.4f}' in report
    assert f'href="{default}/report.html"' in (tmp_path / 'runs' / 'index.html').read_text()

    # torch.load with weights_only reads it, and the model that it describes gives the same grade
    status, out, err = command(evaluate, '--device', 'cpu')
    assert status == 0 and default in out and not err
    again = json.loads((folder / 'results.json').read_text())
    for name in ('test_loss', 'test_loss_mean', 'knn_accuracy', 'train_loss', 'kl'):
        assert again[name] == pytest.approx(results[name], rel=1e-6)


def test_the_environment_variable_says_where_the_data_are(command, csv_dir, tmp_path, small, monkeypatch):
    monkeypatch.setenv('DATA_PATH', str(csv_dir))
    few = ['--n-train', '20', '--n-test', '20', '--decoder', 'mlp']
    status, _, err = command(train_ad, '--run-dir', tmp_path / 'run', *small, *few)
    assert status == 0 and not err, err
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['data_path'] == str(csv_dir)


@pytest.mark.parametrize('module', [train_ad, train_vae, train_gan])
def test_images_of_ones_own(command, tmp_path, small, module):
    images, folder = tmp_path / 'images.npy', tmp_path / 'run'
    np.save(images, np.random.default_rng(0).integers(0, 256, (60, 12, 8, 3), np.uint8))
    data = ['--data-path', images, '--n-train', 'all', '--n-test', 20]
    status, out, err = command(module, *data, '--run-dir', folder, *small)
    assert status == 0 and not err, err
    results = json.loads((folder / 'results.json').read_text())
    assert results['dataset'] == 'npy' and results['n_train'] == 40 and results['shape'] == [3, 12, 8]
    # no labels, no classifier
    assert results.get('knn_accuracy') is results['frechet'] is results['classes'] is None
    status, again, err = command(evaluate, folder, '--device', 'cpu')
    assert status == 0 and not err
    assert again.splitlines()[0] in out.splitlines()
    # Nor features to compare, but distances in pixels.
    rows = json.loads((folder / 'results.json').read_text())['samples'].values()
    assert all(row['frechet'] is None and 0 <= row['authenticity'] <= 1 for row in rows)


@pytest.mark.parametrize('module', [train_vad, train_vae])
def test_incomplete_images_of_ones_own(command, tmp_path, small, module):
    rng, folder = np.random.default_rng(0), tmp_path / 'run'
    images, labels = rng.integers(0, 256, (60, 12, 8), np.uint8), np.arange(60) % 12
    np.savez(tmp_path / 'images.npz', images=images, observed=rng.random(images.shape) < 0.5, labels=labels)
    flags = ['--data-path', tmp_path / 'images.npz', '--run-dir', folder, *small, '--interpolate', '3', '11']
    status, _, err = command(module, *flags)
    assert status == 0 and not err, err
    config = json.loads((folder / 'config.json').read_text())
    assert config['n_classes'] == 12 and config['missing_share'] > 0 and config['n_train'] == 30
    assert load_run(folder, 'cpu').labels.tolist() == labels[:30].tolist()
    status, out, err = command(module, *flags, '--resume')
    assert status == 0 and not err and 'nothing to resume' in out


def test_codes_in_the_plane_have_a_grid(train, tmp_path):
    status, _, err = train(train_vae, *MLP, '--grid', '--latent-dim', '2')
    assert status == 0, err
    assert plt.imread(tmp_path / 'run' / 'grid.png').shape[:2] == (20 * 28, 20 * 28)


def test_codes_that_are_not_in_the_plane_have_no_grid(train, tmp_path, one_line):
    status, _, err = train(train_vae, '--grid')
    assert status == 2 and one_line(err) and 'expected --latent-dim 2 for --grid' in err and 'got 6' in err
    assert not (tmp_path / 'run').exists()


def test_a_table_of_what_fitting_buys(train, tmp_path):
    status, out, _ = train(train_vae, *MLP)
    table = json.loads((tmp_path / 'run' / 'amortisation.json').read_text())
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert status == 0 and f'{table[0]["negative_elbo"]:.2f}' in out
    for start in ('encoder', 'prior'):
        elbo = {row['passes']: row['negative_elbo'] for row in table if row['start'] == start}
        assert list(elbo) == [0, 2, 4, 8, 16, 32] and elbo[32] < elbo[0]
    assert table[0]['negative_elbo'] == pytest.approx(results['test_negative_elbo'], rel=0.05)


@pytest.mark.parametrize(
    'module, decoder', [(train_ad, 'conv64'), (train_vad, 'groupnorm'), (train_vae, 'conv64')]
)
def test_images_in_colour(command, imagenette_dir, tmp_path, small, module, decoder):
    data = ['--dataset', 'imagenette', '--data-path', imagenette_dir, '--n-train', '10', '--n-test', '10']
    status, _, err = command(module, *data, '--run-dir', tmp_path / 'run', '--decoder', decoder, *small)
    assert status == 0 and not err, err
    status, _, err = command(evaluate, tmp_path / 'run', '--samples', '3')
    assert status == 0, err
    assert np.load(tmp_path / 'run' / 'samples_prior.npy').shape == (3, 3, 64, 64)


def test_pictures_of_ones_own(command, tmp_path, small):
    """Trained on, graded, and filled in where they are transparent."""
    generator = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / 'pictures' / f'class{i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20, 30, 4), np.uint8)
        pixels[..., 3] = 255
        Image.fromarray(pixels).save(folder / f'{i}.png')
    data = ['--data-path', tmp_path / 'pictures', '--image-size', 8, '--n-train', 'all', '--n-test', 10]
    status, _, err = command(train_vad, *data, '--run-dir', tmp_path / 'run', *small)
    assert status == 0 and not err, err
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['dataset'] == 'pictures' and results['shape'] == [3, 8, 8] and results['n_classes'] == 2
    status, _, err = command(evaluate, tmp_path / 'run')
    assert status == 0 and not err, err
    again = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert again['test_loss'] == pytest.approx(results['test_loss'], rel=1e-6)

    pixels[:10, :, 3] = 0
    (tmp_path / 'holes').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'holes' / 'a.png')
    given = tmp_path / 'run', '--data-path', tmp_path / 'holes', '--out', tmp_path / 'completed.npz'
    status, _, err = command(impute, *given)
    assert status == 0 and not err, err
    assert np.load(tmp_path / 'completed.npz')['mean'].shape == (1, 8, 8, 3)


def test_help_names_every_flag(command):
    for module in (train_ad, train_vad, train_vae, evaluate):
        status, out, _ = command(module, '--help')
        assert status == 0
        for flag in ('--data-path', '--dataset', '--n-test', '--device'):
            assert flag in out
    assert '--json' in out and '--samples' in out
