"""The comparison of imputation methods. A stand-in takes the place of the scripts that train systems."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments import imputation
from experiments import scripts as experiment_scripts
from experiments.imputation_report import rows_to_show, table

QUICK = ['truth', 'zeros', 'mean', 'nearest']


@pytest.fixture
def compare(command, csv_dir, tmp_path):
    """compare(*arguments): `command` with the comparison on csv_dir, results in tmp_path / 'out'."""

    def run(*arguments):
        data = ['--data', 'fashion-mnist', '--data-path', csv_dir]
        return command(imputation, *data, '--out', tmp_path / 'out', *arguments)

    return run


@pytest.fixture
def scripts(monkeypatch):
    """Stand-ins for the scripts and for imputation; the list of commands that were run, each a list without
    the interpreter.

    Completed images are black, with an RMSE of 0.01, and of 0.02 by an encoder alone.
    """
    commands = []

    def run(command, **options):
        script, arguments = command[1].rpartition('/')[2], command[2:]
        commands.append([script, *arguments])
        run_dir = imputation.Path(arguments[arguments.index('--run-dir') + 1])
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / 'results.json').write_text(json.dumps({'train_seconds': 3.0}))
        return SimpleNamespace(returncode=0, stderr='')

    def impute(trained, test_set, fit=True):
        grades = {'test_rmse_missing': 0.01 if fit else 0.02, 'coverage_90': 0.88, 'test_crps': 0.03}
        return SimpleNamespace(mean=torch.zeros_like(test_set.X), grades=grades)

    def load_run(run_dir):
        return SimpleNamespace(model=SimpleNamespace(encoder='vae' in run_dir.name))

    monkeypatch.setattr(experiment_scripts.subprocess, 'run', run)
    monkeypatch.setattr(imputation, 'impute', impute)
    monkeypatch.setattr(imputation, 'load_run', load_run)
    return commands


def rows_of(out):
    return {(row['method'], row['rate']): row for row in json.loads((out / 'results.json').read_text())}


def test_results_tables_and_plots(compare, scripts, tmp_path, names):
    methods = [*QUICK, 'vae', 'vad']
    status, out, err = compare('--methods', *methods, '--rates', '0.3', '0.6', 'blocks', '--seeds', '0')
    assert status == 0 and not err and '18 of 18' in out
    rows = rows_of(tmp_path / 'out')
    assert set(rows) == {(method, rate) for method in methods for rate in (0.3, 0.6, 0.25)}
    assert rows['truth', 0.3]['accuracy'] >= rows['zeros', 0.6]['accuracy']
    assert rows['nearest', 0.3]['rmse_missing'] < rows['mean', 0.3]['rmse_missing'] < 1
    assert rows['vad', 0.3]['crps'] == 0.03 and rows['vad', 0.3]['seconds'] >= 3
    plots = {'rmse.png', 'pictures_fashion-mnist.png'}
    assert names(tmp_path / 'out') == {'cells', 'runs', 'results.json', 'tables.md', *plots}
    text = (tmp_path / 'out' / 'tables.md').read_text()
    assert '## Fashion-MNIST, 64 + 40 images' in text
    assert '| VAD (Gaussian) | **0.0100** (1) | **0.0100** (1) | **0.0100** (1) |' in text
    assert '| VAE, encoder only | 0.0200 (1) |' in text


def test_systems_run_as_users_run_them(compare, scripts, csv_dir, tmp_path):
    assert compare('--methods', 'miwae', '--rates', 'blocks', '--seeds', '2')[0] == 0
    run = tmp_path / 'out' / 'runs' / 'fashion-mnist-blocks-0.25-miwae-seed2'
    flags = '--importance-samples 5 --epochs 8 --missing 0.25 --missing-kind blocks --seed 2'
    data = f'--data-path {csv_dir} --dataset fashion-mnist --n-train 64 --n-test 40 --run-dir {run}'
    assert scripts == [['train_vae.py', *flags.split(), *data.split()]]


def test_all_methods_see_the_same_pixels(compare, tmp_path):
    assert compare('--methods', 'zeros', 'nearest', '--rates', '0.5', '--seeds', '0')[0] == 0
    nearest, zeros = (np.load(path) for path in sorted((tmp_path / 'out' / 'cells').glob('*.npy')))
    assert zeros.shape == (3, 8, 28, 28)
    assert np.array_equal(zeros[:2], nearest[:2], equal_nan=True)  # truth, observed
    missing = np.isnan(zeros[1])
    assert np.array_equal(zeros[2][~missing], zeros[0][~missing]) and not zeros[2][missing].any()


# ------------------------------------------------------------------------------------ starting it again


def test_it_goes_on_where_it_stopped(compare, scripts, tmp_path, ctrl_c, monkeypatch):
    flags = ['--methods', 'zeros', 'vad', 'mean', '--rates', '0.5', '--seeds', '0', '1']
    with monkeypatch.context() as context:
        whole = imputation.Comparison.compute

        def compute(self, method, kind, rate, seed, run_dir):
            if (method, seed) == ('mean', 0):
                ctrl_c()
            return whole(self, method, kind, rate, seed, run_dir)

        context.setattr(imputation.Comparison, 'compute', compute)
        assert compare(*flags)[0] == 130
    trained = len(scripts)
    status, out, err = compare(*flags)
    assert status == 0 and not err
    assert [line.split()[0] for line in out.splitlines()[:-1]] == ['3', '4', '5', '6']
    assert trained == 1 and len(scripts) == 2  # of seed 1 alone
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out' / 'cells').iterdir()}
    assert compare(*flags)[0] == 0 and len(scripts) == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_an_unfinished_run_is_resumed_and_a_finished_one_is_not_trained_again(compare, scripts, tmp_path):
    flags = ['--methods', 'ad', '--rates', '0.5', '--seeds', '0']
    run = tmp_path / 'out' / 'runs' / 'fashion-mnist-pixels-0.5-ad-seed0'
    (tmp_path / 'out' / 'cells').mkdir(parents=True)
    run.mkdir(parents=True)
    assert compare(*flags)[0] == 0
    assert scripts[0][0] == 'train_ad.py' and scripts[0][-1] == '--resume'
    for path in (tmp_path / 'out' / 'cells').iterdir():
        path.unlink()  # as if it was killed after training
    assert compare(*flags)[0] == 0
    assert [command[0] for command in scripts] == ['train_ad.py']


def test_report_alone_computes_nothing(compare, tmp_path, monkeypatch):
    assert compare('--methods', *QUICK, '--rates', '0.5', '--seeds', '0')[0] == 0
    tables = (tmp_path / 'out' / 'tables.md').read_text()
    (tmp_path / 'out' / 'tables.md').unlink()
    monkeypatch.setattr(imputation, 'compare', lambda options: pytest.fail('it computes'))
    status, out, err = compare('--report')
    assert status == 0 and not err and (tmp_path / 'out' / 'tables.md').read_text() == tables


# ---------------------------------------------------------------------------------------------- grades


def test_intervals_and_crps_of_gaussians():
    generator = np.random.default_rng(0)
    true = (0.5 + 0.05 * generator.standard_normal((1, 100_000))).astype(np.float32)
    missing = np.ones_like(true, bool)
    grades = imputation.grade(true, np.full_like(true, 0.5), np.full_like(true, 0.05), missing)
    assert grades['rmse_missing'] == pytest.approx(0.05, rel=0.01)
    assert grades['coverage_90'] == pytest.approx(0.9, abs=0.005)
    assert grades['crps'] == pytest.approx(0.05 / np.sqrt(np.pi), rel=0.01)  # of a calibrated Gaussian
    only = np.zeros_like(missing)
    only[0, 3] = True
    one = imputation.grade(true, np.full_like(true, 0.5), None, only)
    assert one == {'rmse_missing': pytest.approx(abs(true[0, 3] - 0.5), rel=1e-5)}


def test_a_table_has_the_worst_of_the_seeds():
    place = {'data': 'mnist', 'kind': 'pixels', 'rate': 0.5}
    seeds = {'VAD (Gaussian)': (0.88, 0.95, 0.91), 'PPCA': (0.82, 0.9)}
    rows = [{**place, 'label': label, 'coverage_90': x} for label, values in seeds.items() for x in values]
    lines = table(rows, 'coverage_90').splitlines()
    assert lines[2:] == ['| PPCA | 0.820 (2) |', '| VAD (Gaussian) | **0.950** |']
    assert table(rows, 'crps') == ''


def test_published_figures_stand_beside_those_of_mnist():
    row = {'kind': 'pixels', 'rate': 0.5, 'method': 'mean', 'rmse_missing': 0.2596, 'seed': 0}
    text = table(rows_to_show([{**row, 'data': 'mnist'}]), 'rmse_missing')
    assert '| EMFlow (published) | **0.0986** |' in text
    assert 'published' not in table(rows_to_show([{**row, 'data': 'fashion-mnist'}]), 'rmse_missing')


# ---------------------------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--rates', '1'], 'expected a number above 0 and below 1, got 1'),
        (['--rates', 'half'], "expected shares above 0 and below 1, or blocks, got 'half'"),
        (['--methods', 'median'], "invalid choice: 'median'"),
        (['--seeds', '-1'], '--seeds'),
        (['--n-test', '41'], 'expected at most 40 images'),
        (['--report'], 'expected results in'),
    ],
)
def test_wrong_flags(compare, one_line, arguments, message):
    status, _, err = compare(*arguments)
    assert status == 2 and one_line(err) and message in err


def test_a_script_that_fails_is_one_line(compare, one_line, monkeypatch):
    failed = SimpleNamespace(returncode=2, stderr='warning: old\nerror: expected this, got that\n')
    monkeypatch.setattr(experiment_scripts.subprocess, 'run', lambda command, **options: failed)
    status, _, err = compare('--methods', 'vad', '--rates', '0.5', '--seeds', '0')
    assert status == 2 and one_line(err) and 'train_vad.py' in err and 'got: expected this, got that' in err


def test_a_folder_of_other_things_is_left_alone(compare, tmp_path, one_line):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.tex').write_text('text')
    status, _, err = compare('--methods', 'mean')
    assert status == 2 and one_line(err) and 'holds other things' in err
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['thesis.tex']


def test_results_of_other_test_images(compare, one_line):
    flags = ['--methods', 'mean', '--rates', '0.5', '--seeds', '0']
    assert compare(*flags)[0] == 0
    status, _, err = compare(*flags, '--n-test', '30')
    assert status == 2 and one_line(err) and 'name another folder with --out' in err


def test_a_damaged_result_is_one_line(compare, tmp_path, one_line):
    flags = ['--methods', 'mean', '--rates', '0.5', '--seeds', '0']
    assert compare(*flags)[0] == 0
    (path,) = (tmp_path / 'out' / 'cells').glob('*.json')
    path.write_text('{"data": "mnist"}')
    status, _, err = compare(*flags)
    assert status == 2 and one_line(err) and f'expected an entry kind in {path}' in err
