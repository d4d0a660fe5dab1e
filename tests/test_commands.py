"""The commands as their users meet them: a run from start to report, and what bad input gets."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import evaluate
import train_ad
import train_gan
import train_vad
import train_vae
import training
import utils

ROOT = Path(__file__).parent.parent
PICTURES = [
    'loss.png',
    'reconstructions.png',
    'samples.png',
    'tsne_train.png',
    'tsne_test.png',
    'interpolation.png',
]
SMALL = ['--epochs', '2', '--latent-dim', '6', '--device', 'cpu']


def one_line(err):
    return err.startswith('error: ') and err.count('\n') == 1


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def run_dir(command, csv_dir, tmp_path):
    """A finished run."""
    folder = tmp_path / 'run'
    status, _, err = command(
        train_vad, '--data-path', csv_dir, '--run-dir', folder, '--dist', 'laplace', *SMALL
    )
    assert status == 0, err
    return folder


# ------------------------------------------------------------------------------------------ what a run leaves


@pytest.mark.parametrize(
    'module, arguments, default',
    [
        (train_ad, [], 'ad'),
        (train_vad, [], 'vad-gaussian'),
        (train_vad, ['--dist', 'laplace'], 'vad-laplace'),
        (train_vad, ['--dist', 'exponential', '--decoder', 'dcgan7x7'], 'vad-exponential'),
        (train_vae, [], 'vae-gaussian'),
        (
            train_vae,
            ['--dist', 'laplace', '--encoder', 'lstm', '--likelihood', 'bernoulli', '--decoder', 'conv6'],
            'vae-laplace',
        ),
    ],
)
def test_a_run_from_start_to_report(command, csv_dir, tmp_path, monkeypatch, module, arguments, default):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('DATA_PATH', str(csv_dir))
    status, out, err = command(module, *arguments, *SMALL)
    assert status == 0 and not err, err  # quiet: this is no terminal
    assert 'test_loss' in out and 'report.html' in out
    folder = tmp_path / 'runs' / default
    wanted = {
        'config.json',
        'checkpoint.pt',
        'metrics.jsonl',
        'results.json',
        'report.html',
        'interpolation.gif',
        *PICTURES,
    }
    wanted |= {'magnitudes.png'} if module is train_ad else set()
    wanted |= {'amortisation.png', 'amortisation.json'} if module is train_vae else set()
    assert set(os.listdir(folder)) == wanted
    results = json.loads((folder / 'results.json').read_text())
    assert {
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
        'device',
    } <= set(results)
    assert results['n_train'] == 64 and results['n_test'] == 40 and results['dataset'] == 'fashion-mnist'
    assert (results['kl'] == 0) == (module is train_ad)
    report = (folder / 'report.html').read_text()
    assert report.count('data:image/gif;base64') == 1
    assert report.count('data:image/png;base64') == sum(name.endswith('.png') for name in wanted)
    assert '://' not in report and f'{results["test_loss"]:.4g}' in report
    # torch.load with weights_only reads it, and the model that it describes gives the same grade
    status, out, err = command(evaluate, '--device', 'cpu')
    assert status == 0 and default in out and not err
    again = json.loads((folder / 'results.json').read_text())
    for name in ('test_loss', 'test_loss_mean', 'knn_accuracy', 'train_loss', 'kl'):
        assert again[name] == pytest.approx(results[name], rel=1e-6)


@pytest.mark.parametrize('module', [train_ad, train_vae, train_gan])
def test_images_of_ones_own(command, tmp_path, module):
    np.save(tmp_path / 'images.npy', np.random.default_rng(0).integers(0, 256, (60, 12, 8, 3), np.uint8))
    folder = tmp_path / 'run'
    status, out, err = command(
        module,
        '--data-path',
        tmp_path / 'images.npy',
        '--n-train',
        'all',
        '--n-test',
        20,
        '--run-dir',
        folder,
        *SMALL,
    )
    assert status == 0 and not err, err
    results = json.loads((folder / 'results.json').read_text())
    assert results['dataset'] == 'npy' and results['n_train'] == 40 and results['shape'] == [3, 12, 8]
    assert (
        results.get('knn_accuracy') is results['frechet'] is results['classes'] is None
    )  # no labels, no classifier
    status, again, err = command(evaluate, folder, '--device', 'cpu')
    assert (
        status == 0
        and not err
        and again.splitlines()[0] == out.splitlines()[0 if module is not train_vae else -3]
    )


def test_codes_in_the_plane_have_a_grid(command, csv_dir, tmp_path):
    arguments = ['--data-path', csv_dir, '--run-dir', tmp_path / 'run', *SMALL, '--grid']
    status, _, err = command(train_vae, *arguments)
    assert status == 2 and one_line(err) and 'expected --latent-dim 2 for --grid' in err and 'got 6' in err
    assert not (tmp_path / 'run').exists()
    status, _, err = command(train_vae, *arguments, '--latent-dim', '2')
    assert status == 0, err
    grid = plt.imread(tmp_path / 'run' / 'grid.png')
    assert grid.shape[:2] == (20 * 28, 20 * 28)


def test_a_table_of_what_fitting_buys(command, csv_dir, tmp_path):
    status, out, _ = command(train_vae, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *SMALL)
    table = json.loads((tmp_path / 'run' / 'amortisation.json').read_text())
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert status == 0 and f'{table[0]["negative_elbo"]:.2f}' in out
    for start in ('encoder', 'prior'):
        elbo = {row['passes']: row['negative_elbo'] for row in table if row['start'] == start}
        assert list(elbo) == [0, 2, 4, 8, 16, 32] and elbo[32] < elbo[0]
    assert table[0]['negative_elbo'] == pytest.approx(results['test_negative_elbo'], rel=0.05)


@pytest.mark.parametrize('module', [train_ad, train_vad, train_vae])
def test_images_in_colour(command, imagenette_dir, tmp_path, module):
    status, out, err = command(
        module,
        '--dataset',
        'imagenette',
        '--data-path',
        imagenette_dir,
        '--run-dir',
        tmp_path / 'run',
        *SMALL,
    )
    assert status == 0 and not err, err
    status, _, err = command(evaluate, tmp_path / 'run', '--samples', '3')
    assert status == 0, err
    assert np.load(tmp_path / 'run' / 'samples_prior.npy').shape == (3, 3, 64, 64)


def test_a_decoder_that_cannot_make_such_images(command, imagenette_dir, tmp_path):
    status, _, err = command(
        train_vad,
        '--dataset',
        'imagenette',
        '--data-path',
        imagenette_dir,
        '--run-dir',
        tmp_path / 'run',
        *SMALL,
        '--decoder',
        'dcgan7x7',
    )
    assert (
        status == 2
        and one_line(err)
        and 'expected images of shape (28, 28) for decoder dcgan7x7, got (3, 64, 64)' in err
    )


def test_help_names_every_flag(command):
    for module in (train_ad, train_vad, train_vae, evaluate):
        status, out, _ = command(module, '--help')
        assert status == 0
        for flag in ('--data-path', '--dataset', '--n-test', '--device'):
            assert flag in out
    assert '--json' in out and '--samples' in out


# ------------------------------------------------------------------------------------------------ grading


def test_evaluate_prints_an_aligned_table_and_writes_json(command, run_dir, tmp_path):
    twin = tmp_path / 'a-much-longer-name'
    shutil.copytree(run_dir, twin)
    status, out, _ = command(evaluate, run_dir, twin, '--json', tmp_path / 'grades.json')
    lines = out.splitlines()
    assert status == 0 and len(lines) == 3
    columns = [line.index('laplace') for line in lines[1:]]
    assert columns[0] == columns[1] == lines[0].index('dist')
    grades = json.loads((tmp_path / 'grades.json').read_text())
    assert [g['run'] for g in grades] == [str(run_dir), str(twin)]
    assert grades[0]['test_loss'] == grades[1]['test_loss']


def test_samples_for_the_ruler(command, run_dir):
    status, _, _ = command(evaluate, run_dir, '--samples', '7')
    for name in ('prior', 'mixture'):
        samples = np.load(run_dir / f'samples_{name}.npy')
        assert (
            status == 0 and samples.shape == (7, 28, 28) and samples.dtype == np.uint8 and samples.max() > 0
        )


def test_grading_on_other_data_leaves_the_run_as_it_is(command, run_dir, tmp_path):
    before = contents(run_dir)
    status, out, _ = command(
        evaluate, run_dir, '--dataset', 'digits', '--n-test', '30', '--json', tmp_path / 'grades.json'
    )
    (grades,) = json.loads((tmp_path / 'grades.json').read_text())
    assert status == 0 and 'digits' in out and contents(run_dir) == before
    assert grades['dataset'] == 'digits' and grades['n_test'] == 30 and grades['knn_accuracy'] is None
    status, _, _ = command(evaluate, run_dir, '--n-test', '30')
    assert status == 0 and contents(run_dir) == before


def test_grading_with_other_training_images_leaves_the_run_as_it_is(command, run_dir, csv_dir, tmp_path):
    other = shutil.copytree(csv_dir, tmp_path / 'other')  # the Fréchet distance's classifier learns from them
    lines = (other / 'fashion-mnist_train.csv').read_text().splitlines()
    (other / 'fashion-mnist_train.csv').write_text('\n'.join([lines[0], *lines[:0:-1]]) + '\n')
    before = contents(run_dir)
    status, _, err = command(evaluate, run_dir, '--data-path', other, '--json', tmp_path / 'grades.json')
    (grades,) = json.loads((tmp_path / 'grades.json').read_text())
    assert (
        status == 0
        and not err
        and grades['frechet'] is grades['classes'] is None
        and contents(run_dir) == before
    )


def test_images_of_another_shape_cannot_be_graded(command, run_dir, tmp_path):
    np.save(tmp_path / 'images.npy', np.zeros((100, 12, 8), np.uint8))
    status, _, err = command(evaluate, run_dir, '--dataset', 'npy', '--data-path', tmp_path / 'images.npy')
    assert status == 2 and one_line(err) and 'expected images of shape (28, 28), got (12, 8)' in err


def test_a_run_is_graded_on_what_it_was_trained_from(command, run_dir, csv_dir, tmp_path, monkeypatch):
    monkeypatch.setenv('DATA_PATH', str(tmp_path / 'elsewhere'))  # of other runs
    status, _, err = command(evaluate, run_dir)
    assert status == 0 and not err
    csv_dir.rename(tmp_path / 'elsewhere')
    status, _, err = command(evaluate, run_dir)
    assert status == 0 and not err


def change_checkpoint(run, **changes):
    utils.save_checkpoint(run / 'checkpoint.pt', {**utils.load_checkpoint(run / 'checkpoint.pt'), **changes})


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda run: shutil.rmtree(run), 'does not exist; first run: python train_vad.py'),
        (lambda run: (run / 'results.json').unlink(), 'an unfinished one; finish it with --resume'),
        (lambda run: [path.unlink() for path in run.iterdir()], 'got none; first run'),
        (lambda run: (run / 'checkpoint.pt').write_bytes(b'x'), 'expected a checkpoint in'),
        (lambda run: (run / 'results.json').write_text('{'), 'expected a JSON object in'),
        (lambda run: (run / 'config.json').write_text('[]'), 'expected a JSON object in'),
        (lambda run: change_checkpoint(run, stage='training'), 'the checkpoint of an unfinished one'),
        (lambda run: change_checkpoint(run, model={}), 'does not fit this version of the program'),
    ],
)
def test_what_cannot_be_graded(command, run_dir, damage, message):
    damage(run_dir)
    status, _, err = command(evaluate, run_dir)
    assert status == 2 and one_line(err) and message in err


def test_what_can_be_graded_is_graded_beside_what_cannot(command, run_dir, tmp_path):
    status, out, err = command(evaluate, tmp_path / 'none', run_dir)
    assert status == 2 and one_line(err) and str(run_dir) in out


def test_evaluate_finds_whole_runs_and_settles_their_successors(command, run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / 'runs'
    runs.mkdir()
    for name in ('a.new', 'a.replaced', 'b', 'sweep/d02'):  # a was being replaced when the program died
        shutil.copytree(run_dir, runs / name)
    status, out, _ = command(evaluate)
    assert status == 0 and [line.split()[0] for line in out.splitlines()[1:]] == [
        'runs/a',
        'runs/b',
        'runs/sweep/d02',
    ]


def test_nothing_to_grade(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command(evaluate)
    assert status == 2 and one_line(err) and 'first run: python train_vad.py' in err


def test_grading_without_the_data(command, run_dir, csv_dir, tmp_path):
    status, _, err = command(evaluate, run_dir, '--data-path', tmp_path / 'none')
    assert status == 2 and one_line(err) and 'name the folder with --data-path' in err
    status, _, err = command(evaluate, run_dir, '--json', tmp_path / 'no' / 'x.json')
    assert status == 2 and one_line(err) and 'existing folder' in err


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--epochs', '0'], 'argument --epochs: expected a whole number from 1 to 2^31 - 1, got 0'),
        (['--epochs', 'ten'], "invalid whole number value: 'ten'"),
        (['--n-train', '0'], 'from 1 to'),
        (['--n-train', 'some'], 'count (a whole number or "all")'),
        (['--n-test', '41'], 'expected at most 40 images'),
        (['--batch-size', '100000000000000000000'], 'from 1 to'),
        (['--latent-dim', '-1'], 'from 1 to'),
        (['--lr', '0'], 'expected a number above 0 and below 1e18, got 0'),
        (['--lr', 'nan'], 'got nan'),
        (['--latent-lr', 'inf'], 'above 0'),
        (['--obs-std', '0'], 'above 0'),
        (['--obs-std', '1e200'], 'below 1e18'),
        (['--beta', '-1'], 'expected a number of at least 0 and below 1e18, got -1'),
        (['--seed', '-1'], 'expected a whole number from 0 to 2^32 - 1, got -1'),
        (['--decoder', 'resnet'], "invalid choice: 'resnet'"),
        (['--dist', 'cauchy'], "invalid choice: 'cauchy'"),
        (['--dataset', 'cifar'], "invalid choice: 'cifar'"),
        (['--dataset', 'mnist'], 'expected mnist in'),
        (['--device', 'tpu'], 'expected --device to be cpu'),
        (['--device', 'cuda:99'], 'CUDA devices'),
        (['--interpolate', 'trouser', 'hat'], 'expected --interpolate to name two of T-shirt'),
        (['--interpolate', '\u00b2', '3'], "got '\u00b2'"),
        (['--interpolate', 'dress', '3'], "two different classes, got 'dress' twice"),
        (
            ['--cuda-graph', '--device', 'cpu'],
            'expected a GPU, and neither --dropout nor --prune, for --cuda-graph, got device cpu',
        ),
        (['--learning-rate', '1'], 'unrecognized arguments'),
        (['--epoch', '1'], 'unrecognized arguments'),
    ],
)
def test_bad_flags_get_one_line(command, csv_dir, tmp_path, arguments, message):
    status, out, err = command(train_vad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *arguments)
    assert status == 2 and one_line(err) and message in err and not out
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda lines: lines[:1], 'a header and nothing below'),
        (lambda lines: [lines[0].replace('pixel784', 'pixel784,extra'), *lines[1:]], 'got 786 columns'),
        (lambda lines: [*lines[:5], lines[5].replace(',0', ',300', 1), *lines[6:]], 'got 0 to 300'),
        (lambda lines: None, 'expected the file'),
    ],
)
def test_broken_csv_files_get_one_line(command, csv_dir, tmp_path, damage, message):
    path = csv_dir / 'fashion-mnist_test.csv'
    lines = damage(path.read_text().splitlines())
    path.unlink() if lines is None else path.write_text('\n'.join(lines) + '\n')
    status, out, err = command(train_ad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run')
    assert status == 2 and one_line(err) and message in err and not out and not (tmp_path / 'run').exists()


def test_bad_data_gets_one_line_and_leaves_a_whole_run(command, run_dir, csv_dir):
    before = contents(run_dir)
    path = csv_dir / 'fashion-mnist_train.csv'
    path.write_text(path.read_text()[:-300])
    status, _, err = command(train_vad, '--data-path', csv_dir, '--run-dir', run_dir, *SMALL)
    assert status == 2 and one_line(err) and 'truncated' in err and contents(run_dir) == before
    assert not run_dir.with_name('run.new').exists()


def test_a_model_that_cannot_be_leaves_a_whole_run(command, run_dir, csv_dir):
    before = contents(run_dir)
    flags = ['--data-path', csv_dir, '--run-dir', run_dir, '--dist', 'laplace', *SMALL]
    status, _, err = command(train_vad, *flags, '--decoder', 'conv64')
    assert status == 2 and one_line(err) and 'for decoder conv64' in err
    status, out, err = command(train_vad, *flags, '--resume')  # nothing was left that it could go on with
    assert status == 0 and not err and 'nothing to resume' in out and contents(run_dir) == before


def test_a_run_folder_that_is_a_file(command, csv_dir, tmp_path):
    (tmp_path / 'run').write_text('')
    status, _, err = command(train_vad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run')
    assert status == 2 and one_line(err) and 'expected --run-dir to be a folder' in err
    status, _, err = command(train_vad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run' / 'below')
    assert status == 2 and one_line(err)


@pytest.mark.parametrize('name', ['runs', '.', '/', ''])
def test_a_run_folder_that_holds_other_things_is_left_alone(command, csv_dir, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs' / 'precious').mkdir(parents=True)
    status, _, err = command(train_vad, '--data-path', csv_dir, '--run-dir', name)
    assert status == 2 and one_line(err) and 'which holds other things; name another' in err
    assert (tmp_path / 'runs' / 'precious').exists()


def test_memory_that_does_not_suffice_is_one_line(command, csv_dir, tmp_path):
    status, _, err = command(
        train_vad,
        '--data-path',
        csv_dir,
        '--run-dir',
        tmp_path / 'run',
        '--latent-dim',
        2**31 - 1,
        '--device',
        'cpu',
    )
    assert status == 2 and one_line(err) and 'not enough memory' in err


def test_the_fallback_to_digits_is_warned_of_and_recorded(command, tmp_path):
    status, _, err = command(
        train_vad,
        '--data-path',
        tmp_path / 'none',
        '--n-train',
        '50',
        '--n-test',
        '50',
        '--run-dir',
        tmp_path / 'run',
        *SMALL,
    )
    assert status == 0 and err.startswith('warning: ') and err.count('\n') == 1
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['dataset'] == 'digits' and 'fallback' in results['data']


@pytest.mark.parametrize('arguments, step', [([], 5), (['--lr', '1e17', '--n-train', '10'], None)])
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(
    command, csv_dir, tmp_path, monkeypatch, arguments, step
):
    whole = training.Trainer.step

    def poisoned(self, *batch):
        if self.step_number == step:
            self.table.fill_(float('inf'))
        whole(self, *batch)

    monkeypatch.setattr(training.Trainer, 'step', poisoned)
    status, _, err = command(
        train_vad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *SMALL, *arguments
    )
    assert status == 2 and one_line(err) and 'expected a finite loss' in err and ' at step ' in err
    assert 'Delete the run and train with a lower --lr' in err
    if step:  # three steps an epoch
        assert utils.load_checkpoint(tmp_path / 'run' / 'checkpoint.pt')['step'] == 3
    assert not utils.is_whole(tmp_path / 'run')


# -------------------------------------------------------------------------------------- stopping and resuming


def stop_at(monkeypatch, number, how):
    whole = training.Trainer.step

    def step(self, *batch):
        if self.step_number == number:
            how()
        whole(self, *batch)

    monkeypatch.setattr(training.Trainer, 'step', step)
    return lambda: monkeypatch.setattr(training.Trainer, 'step', whole)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_says_how_to_go_on(command, csv_dir, tmp_path, monkeypatch):
    flags = ['--data-path', csv_dir, '--run-dir', tmp_path / 'run', *SMALL]
    heal = stop_at(monkeypatch, 4, ctrl_c)
    status, _, err = command(train_vad, *flags)
    assert status == 130 and 'the checkpoint is saved' in err
    assert err.strip().endswith('train_vad.py ' + ' '.join(map(str, flags)) + ' --resume')
    assert utils.load_checkpoint(tmp_path / 'run' / 'checkpoint.pt')['step'] == 5
    heal()
    before = contents(tmp_path / 'run')
    status, _, err = command(train_vad, *flags)
    assert status == 2 and one_line(err) and 'holds an unfinished run: go on with it by --resume' in err
    for change, message in (
        (['--epochs', '3'], 'epochs 2 (now 3)'),
        (['--seed', '1'], 'seed 0 (now 1)'),
        (['--n-train', '60'], 'n_train 64 (now 60)'),
        (['--dist', 'laplace'], 'dist gaussian (now laplace)'),
    ):
        status, _, err = command(train_vad, *flags, '--resume', *change)
        assert status == 2 and one_line(err) and 'from another configuration' in err and message in err
    assert contents(tmp_path / 'run') == before
    status, _, _ = command(train_vad, *flags, '--resume')
    assert status == 0 and utils.is_whole(tmp_path / 'run')
    status, out, _ = command(train_vad, *flags, '--resume')
    assert status == 0 and 'nothing to resume' in out


def test_a_whole_run_stays_until_its_successor_is_whole(command, run_dir, csv_dir, monkeypatch):
    before = contents(run_dir)
    flags = ['--data-path', csv_dir, '--run-dir', run_dir, '--dist', 'laplace', *SMALL, '--seed', '1']
    heal = stop_at(monkeypatch, 4, ctrl_c)
    status, _, _ = command(train_vad, *flags)
    assert status == 130 and contents(run_dir) == before
    heal()
    status, _, _ = command(train_vad, *flags, '--resume')
    assert status == 0 and json.loads((run_dir / 'results.json').read_text())['seed'] == 1
    assert [path.name for path in run_dir.parent.iterdir() if path.name.startswith('run')] == ['run']


def test_a_successor_killed_before_taking_its_place_takes_it(run_dir):
    from commands import choose_folder

    new = run_dir.with_name('run.new')
    shutil.copytree(run_dir, new)
    (new / 'mark').touch()
    assert choose_folder(run_dir) == new and (run_dir / 'mark').exists() and not new.exists()


def test_a_broken_checkpoint_is_not_resumed(command, csv_dir, tmp_path, monkeypatch):
    flags = ['--data-path', csv_dir, '--run-dir', tmp_path / 'run', *SMALL]
    heal = stop_at(monkeypatch, 4, ctrl_c)
    command(train_vad, *flags)
    heal()
    path = tmp_path / 'run' / 'checkpoint.pt'
    path.write_bytes(path.read_bytes()[:1000])
    status, _, err = command(train_vad, *flags, '--resume')
    assert status == 2 and one_line(err) and 'expected a checkpoint in' in err


def test_latents_of_another_number_of_images_are_not_resumed(command, csv_dir, tmp_path, monkeypatch):
    run = tmp_path / 'run'
    flags = ['--data-path', csv_dir, '--run-dir', run, *SMALL]
    heal = stop_at(monkeypatch, 4, ctrl_c)
    command(train_vad, *flags)
    heal()
    shares = utils.load_checkpoint(run / 'checkpoint.pt')['shares']
    change_checkpoint(run, shares={name: x[:, :-1].clone() for name, x in shares.items()})
    before = (run / 'checkpoint.pt').read_bytes()
    status, _, err = command(train_vad, *flags, '--resume')
    assert status == 2 and one_line(err) and 'table of shape [5, 63, 12] instead of [5, 64, 12]' in err
    assert (run / 'checkpoint.pt').read_bytes() == before


def test_a_run_killed_after_training_only_grades_and_draws(command, run_dir, csv_dir):
    (run_dir / 'results.json').rename(
        run_dir.parent / 'expected.json'
    )  # as if killed before the last file was written
    checkpoint = (run_dir / 'checkpoint.pt').read_bytes()
    status, _, err = command(
        train_vad, '--data-path', csv_dir, '--run-dir', run_dir, '--dist', 'laplace', *SMALL, '--resume'
    )
    assert status == 0 and not err and (run_dir / 'checkpoint.pt').read_bytes() == checkpoint
    results, expected = (
        json.loads(path.read_text()) for path in (run_dir / 'results.json', run_dir.parent / 'expected.json')
    )
    assert all(results[k] == expected[k] for k in expected if 'seconds' not in k)


def test_resuming_nothing_starts_from_the_beginning(command, csv_dir, tmp_path):
    status, _, err = command(
        train_ad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *SMALL, '--resume'
    )
    assert status == 0 and err.startswith('no checkpoint in') and utils.is_whole(tmp_path / 'run')


def start(csv_dir, run_dir, *arguments):
    return subprocess.Popen(
        [
            sys.executable,
            'train_vad.py',
            '--data-path',
            csv_dir,
            '--run-dir',
            run_dir,
            '--epochs',
            '150',
            '--batch-size',
            '8',
            '--latent-dim',
            '6',
            '--device',
            'cpu',
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(csv_dir, tmp_path):
    started = time.time()
    process = start(csv_dir, tmp_path / 'whole')
    out, err = process.communicate()
    assert process.returncode == 0 and not err, err
    whole_seconds = time.time() - started
    rng = random.Random()  # other moments every time; the printed seed tells which
    seed = rng.randrange(10**6)
    print('seed of the moments', seed)
    rng.seed(seed)
    for _ in range(4):  # anywhere between the start of the process and beyond its end
        process = start(csv_dir, tmp_path / 'killed', '--resume')
        try:
            process.wait(timeout=rng.uniform(0, whole_seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(csv_dir, tmp_path / 'killed', '--resume')
    out, err = process.communicate()
    assert process.returncode == 0, err
    final, undisturbed = (tmp_path / name / 'checkpoint.pt' for name in ('killed', 'whole'))
    assert final.read_bytes() == undisturbed.read_bytes()
    results = [json.loads((tmp_path / name / 'results.json').read_text()) for name in ('killed', 'whole')]
    assert all(results[0][k] == results[1][k] for k in results[0] if 'seconds' not in k)


def test_no_traceback_in_a_process_of_its_own(csv_dir, tmp_path):
    process = start(csv_dir, tmp_path / 'run', '--n-test', '99')
    _, err = process.communicate()
    assert process.returncode == 2 and one_line(err)
