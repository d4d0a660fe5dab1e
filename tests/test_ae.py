"""Auto-encoders: architectures and their mirrors, regularisers, sweep, tuning, and classifiers on their codes."""

import itertools
import json
import math
import shutil
import sys

import classify
import pictures
import pytest
import sweep
import torch
from test_commands import contents, ctrl_c, one_line, stop_at
from test_training import Stop, fit_until, raise_stop

import models
import networks
import train_ad
import train_ae
import train_gan
import train_vae
import training
import utils

SMALL = {'convolutions': [{'channels': 8, 'kernel': 3, 'stride': 2, 'padding': 1}] * 3, 'linear': [16]}
FLAGS = ['--epochs', '2', '--latent-dim', '3', '--device', 'cpu']


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few channels: for what is tested here the default's widths only take time."""
    monkeypatch.setattr(networks, 'ARCHITECTURE', SMALL)


def make_config(**changes):
    return {
        'system': 'ae',
        'dist': None,
        'dataset': 'digits',
        'latent_dim': 3,
        'architecture': SMALL,
        'epochs': 4,
        'batch_size': 32,
        'lr': 4e-3,
        'beta': 1.0,
        'obs_std': 0.08,
        'seed': 0,
        **changes,
    }


def make(config, seed=0):
    torch.manual_seed(seed)
    return models.AutoEncoder('conv3', 3, 'mirror', architecture=SMALL, dropout=config.get('dropout', 0.0))


# ---------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def ae_run(command, csv_dir, tmp_path):  # noqa: F811
    folder = tmp_path / 'ae'
    status, _, err = command(train_ae, '--data-path', csv_dir, '--run-dir', folder, *FLAGS)
    assert status == 0 and not err, err
    return folder


def test_a_run_with_all_regularisers(command, csv_dir, tmp_path):  # noqa: F811
    folder = tmp_path / 'run'
    status, out, err = command(
        train_ae,
        '--data-path',
        csv_dir,
        '--run-dir',
        folder,
        *FLAGS,
        '--dropout',
        '0.1',
        '--prune',
        '0.3',
        '--patience',
        '5',
        '--min-delta',
        '0.5',
        '--weight-decay',
        '0.01',
    )
    assert status == 0 and not err and 'test_loss' in out
    results = json.loads((folder / 'results.json').read_text())
    assert results['zero_weights'] == pytest.approx(0.3, abs=0.01) and results['best_epoch'] == 2
    assert results['n_held_out'] == 6 and results['dropout'] == 0.1 and results['min_delta'] == 0.5
    assert (folder / 'codes.png').exists() and 'principal components' in (folder / 'report.html').read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--dropout', '1'], 'expected a number of at least 0 and below 1, got 1'),
        (['--prune', '-0.1'], 'expected a number of at least 0 and below 1, got -0.1'),
        (['--prune', 'half'], "invalid number value: 'half'"),
        (['--patience', '0'], 'from 1 to'),
        (['--min-delta', '1'], 'expected --min-delta together with --patience'),
        (
            ['--dropout', '0.1', '--encoder', 'lstm'],
            'and --decoder mirror for --dropout and --tune, got lstm',
        ),
        (['--tune', '2', '--decoder', 'mlp'], 'got conv3 and mlp; leave out one or the other'),
        (['--sweep', '2,x'], 'list of latent sizes (as in 2,4,8)'),
        (['--sweep', '2,2'], 'expected different latent sizes, got 2,2'),
        (['--sweep', '2,0'], 'from 1 to'),
        (['--sweep', '2', '--tune', '2'], 'not allowed with argument'),
        (['--weight-decay', '-1'], 'expected a number of at least 0'),
        (['--prune', '0.5', '--encoder', 'lstm'], 'two epochs or more for --prune, got lstm and 27'),
        (['--prune', '0.5', '--epochs', '1'], 'for --prune, got conv3 and 1'),
        (['--patience', '2', '--n-train', '1'], 'expected two training images or more'),
        (['--sweep', '2', '--dataset', 'mnist', '--data-path', 'nowhere'], 'expected mnist in nowhere'),
        (['--tune', '2', '--dataset', 'mnist', '--data-path', 'nowhere'], 'expected mnist in nowhere'),
    ],
)
def test_bad_flags_get_one_line(command, csv_dir, tmp_path, arguments, message):  # noqa: F811
    status, out, err = command(train_ae, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *arguments)
    assert status == 2 and one_line(err) and message in err and not out
    assert not (tmp_path / 'run').exists()


# ---------------------------------------------------------------------------------------------------------- sweep


def test_an_interrupted_sweep_goes_on(command, csv_dir, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / 'sweep'
    flags = ['--data-path', csv_dir, '--run-dir', folder, *FLAGS, '--sweep', '4,1']
    whole, calls = training.Trainer.step, []

    def step(self, *batch):
        calls.append(self.model.latent_dim)
        if len(calls) == 8:  # in the second size: six steps a run
            ctrl_c()
        whole(self, *batch)

    monkeypatch.setattr(training.Trainer, 'step', step)
    status, _, err = command(train_ae, *flags)
    assert status == 130 and '--resume' in err and not (folder / 'sweep.json').exists()
    first = contents(folder / 'd01')
    status, _, err = command(train_ae, *flags)
    assert status == 2 and one_line(err) and 'go on with it by --resume' in err
    status, out, err = command(train_ae, *flags, '--resume')
    assert status == 0 and not err and calls == 6 * [1] + 6 * [4]
    assert contents(folder / 'd01') == first
    rows = json.loads((folder / 'sweep.json').read_text())['sizes']
    assert [row['latent_dim'] for row in rows] == [1, 4] and rows[0]['pca_loss'] > rows[1]['pca_loss']
    assert {'sweep.png', 'sweep.json', 'tsne_d01.png', 'tsne_d04.png', 'd01', 'd04'} == {
        p.name for p in folder.iterdir()
    }
    assert 'pca_loss' in out
    status, out, err = command(train_ae, *flags, '--seed', '1')
    assert status == 2 and one_line(err) and 'seed 0 (now 1)' in err
    status, out, err = command(train_ae, *flags[:-1], '2')  # one more size
    assert status == 0 and not err and calls == 6 * [1] + 6 * [4] + 6 * [2]
    assert [row['latent_dim'] for row in json.loads((folder / 'sweep.json').read_text())['sizes']] == [
        1,
        2,
        4,
    ]


def test_pca_of_all_components_loses_nothing(digits):
    losses = sweep.pca_losses(digits[0], digits[0], [2, 10, 64])
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1e-4


@pytest.mark.parametrize('flag', ['--sweep', '--tune'])
def test_a_folder_of_other_things_is_left_alone(command, ae_run, csv_dir, flag):  # noqa: F811
    before = contents(ae_run)
    status, _, err = command(train_ae, '--data-path', csv_dir, '--run-dir', ae_run, *FLAGS, flag, '2')
    assert status == 2 and one_line(err) and 'one of the same command' in err and contents(ae_run) == before


# ---------------------------------------------------------------------------------------------------------- tuning


def test_tuning_goes_on_where_it_stopped(command, csv_dir, tmp_path, monkeypatch):  # noqa: F811
    tune = pytest.importorskip('tune')
    flags = ['--data-path', csv_dir, *FLAGS, '--tune']
    small_space = tune.suggest

    def suggest(trial):  # the third is impossible
        chosen = small_space(trial)
        if len(tune.finished(trial.study)) == 2:
            chosen['architecture']['convolutions'][0].update(kernel=6, padding=0)
            chosen['architecture']['convolutions'] *= 9
        return chosen

    monkeypatch.setattr(tune, 'suggest', suggest)
    status, out, err = command(train_ae, *flags, '3', '--run-dir', tmp_path / 'whole')
    assert status == 0 and not err, err
    assert 'expected images that are large enough' in out

    broken = tmp_path / 'broken'
    heal = stop_at(monkeypatch, 1, ctrl_c)
    status, _, err = command(train_ae, *flags, '2', '--run-dir', broken)
    assert status == 130 and '0 trials are saved' in err
    heal()
    for n in ('2', '3'):
        status, _, err = command(train_ae, *flags, n, '--run-dir', broken)
        assert status == 0 and not err, err
    assert {p.name for p in broken.iterdir()} == {'study.db', 'best.json', 'best'}
    best = [json.loads((folder / 'best.json').read_text()) for folder in (broken, tmp_path / 'whole')]
    for b in best:
        del b['trial']  # the interrupted one has a number too
    assert best[0] == best[1]
    results = json.loads((broken / 'best' / 'results.json').read_text())
    assert all(
        results[name] == best[0][name]
        for name in ('architecture', 'lr', 'batch_size', 'latent_dim', 'patience')
    )
    metrics = training.read_metrics(broken / 'best')
    assert (
        metrics[results['best_epoch'] - 1]['validation_loss'] == best[0]['held_out_loss']
    )  # the same training again
    for other, message in (
        (['--epochs', '1'], 'epochs 2 (now 1)'),
        (['--min-delta', '5'], 'min_delta 0.0 (now 5.0)'),
        (['--n-test', '30'], 'from another configuration: test_checksum'),
    ):
        status, _, err = command(train_ae, *flags, '3', '--run-dir', broken, *other)
        assert status == 2 and one_line(err) and message in err
    shutil.rmtree(broken / 'best')
    (broken / 'best').mkdir()  # as if killed before its configuration was written
    status, _, err = command(train_ae, *flags, '3', '--run-dir', broken)
    assert status == 0 and not err and (broken / 'best' / 'results.json').exists()
    (broken / 'study.db').write_bytes(b'no study of anything' * 100)
    status, _, err = command(train_ae, *flags, '3', '--run-dir', broken)
    assert status == 2 and one_line(err) and 'expected a study of Optuna in' in err


def test_test_images_do_not_influence_the_choice(digits, tmp_path):
    tune = pytest.importorskip('tune')
    config = make_config(encoder='conv3', decoder='mirror', patience=1, min_delta=0.0)
    loss, _ = tune.held_out_loss(config, digits[0], tmp_path / 'trial', torch.device('cpu'))
    assert math.isfinite(loss) and not (tmp_path / 'trial').exists()


def test_tuning_without_optuna(command, csv_dir, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, 'optuna', None)  # as if not installed
    monkeypatch.delitem(sys.modules, 'tune', raising=False)
    status, _, err = command(train_ae, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', '--tune', '2')
    assert status == 2 and one_line(err) and 'pip install optuna' in err


# ------------------------------------------------------------------------------------------------------ classifiers


def test_classifiers_of_the_codes(command, ae_run):  # noqa: F811
    before = contents(ae_run)
    status, out, err = command(classify, ae_run, '--device', 'cpu')
    assert status == 0 and not err and 'confusion.png' in out
    grades = json.loads((ae_run / 'classify.json').read_text())
    assert list(grades['accuracy']) == [
        'three layers (64, 288)',
        'one layer',
        'logistic regression',
        '5 nearest neighbours',
    ]
    assert grades['accuracy']['one layer'] == grades['accuracy']['logistic regression']
    assert all(f'{value:.4f}' in out for value in grades['accuracy'].values())
    after = contents(ae_run)
    assert set(after) - set(before) == {'classify.json', 'confusion.png'} and all(
        after[k] == before[k] for k in before
    )


def test_classifiers_of_a_vaes_posterior_means(command, csv_dir, tmp_path):  # noqa: F811
    folder = tmp_path / 'vae'
    status, _, err = command(
        train_vae, '--data-path', csv_dir, '--run-dir', folder, *FLAGS, '--encoder', 'mlp', '--decoder', 'mlp'
    )
    assert status == 0, err
    status, out, err = command(classify, folder)
    assert status == 0 and not err and json.loads((folder / 'classify.json').read_text())['latent_dim'] == 3


def test_heads_learn_what_can_be_learned():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    codes = (
        torch.randn(200, 2, generator=generator) * 0.3
        + torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])[labels]
    )
    for head in (classify.fit_deep(codes, labels, 4, 0.01, seed=0), classify.fit_linear(codes, labels, 4)):
        assert (head(codes).argmax(1) == labels).float().mean() > 0.98


def test_runs_that_cannot_be_classified(command, ae_run, csv_dir, tmp_path):  # noqa: F811
    ad = tmp_path / 'ad'
    status, _, err = command(train_ad, '--data-path', csv_dir, '--run-dir', ad, *FLAGS, '--decoder', 'mlp')
    assert status == 0, err
    status, _, err = command(
        train_gan, '--data-path', csv_dir, '--run-dir', tmp_path / 'gan', '--model', 'linear', *FLAGS
    )
    assert status == 0, err
    alike = tmp_path / 'alike'
    shutil.copytree(ae_run, alike)
    state = utils.load_checkpoint(alike / 'checkpoint.pt')
    utils.save_checkpoint(alike / 'checkpoint.pt', {**state, 'labels': torch.zeros_like(state['labels'])})
    other = tmp_path / 'other'
    shutil.copytree(csv_dir, other)
    lines = (other / 'fashion-mnist_test.csv').read_text().splitlines()
    (other / 'fashion-mnist_test.csv').write_text('\n'.join([lines[0], *lines[:0:-1]]) + '\n')
    for arguments, message in (
        ([ad], 'expected a run with an encoder in'),
        ([tmp_path / 'gan'], 'got one of gan'),
        ([tmp_path / 'none'], 'does not exist; first run: python train_ae.py'),
        ([csv_dir], 'expected a finished run in'),
        ([alike], 'of two classes or more'),
        ([ae_run, '--data-path', other], 'expected the test images that'),
        ([ae_run, '--data-path', tmp_path / 'none'], 'name the folder with --data-path'),
        ([], 'the following arguments are required: RUN'),
    ):
        status, out, err = command(classify, *arguments)
        assert status == 2 and one_line(err) and message in err and not out
