"""The LSTM report's ten decoders. The runs are tiny ones, trained in this process."""

import json
import re

import pytest

import networks
import train_vae
from experiments import scripts as experiment_scripts
from experiments import sweep_decoders
from training import read_metrics

TINY = ['--epochs', '1', '--n-train', '40', '--n-test', '20']


@pytest.fixture
def compare(command, digits, write_idx, tmp_path):
    """compare(*arguments): `command` with the comparison on digits as MNIST, results in tmp_path / 'out'."""
    write_idx(tmp_path / 'data', digits)
    places = ['--data-path', tmp_path / 'data', '--out', tmp_path / 'out']
    return lambda *rest: command(sweep_decoders, *places, *TINY, *rest)


@pytest.fixture
def trained(monkeypatch, command):
    """Scripts run in this process; the list of those that were run, with their flags."""
    scripts = []

    def run_script(script, *arguments):
        scripts.append((script, *arguments))
        status, _, err = command(train_vae, *arguments)
        assert status == 0, err

    monkeypatch.setattr(experiment_scripts, 'run_script', run_script)
    return scripts


@pytest.fixture
def made_up(monkeypatch):
    """Made-up results take the place of training: a negative ELBO of 100 + seed. The list of the scripts."""
    scripts = []

    def run_script(script, *arguments):
        scripts.append(arguments)
        flags = dict(zip(arguments[::2], arguments[1::2]))
        run_dir, seed = flags['--run-dir'], flags['--seed']
        run_dir.mkdir(parents=True, exist_ok=True)
        results = dict(test_negative_elbo=100.0 + seed, test_reconstruction=80.0, test_kl=20.0 + seed)
        config = dict(n_train=40, n_test=20, epochs=flags['--epochs'])
        results |= config
        config |= {f'{part}_checksum': images.checksum() for part, images in loaded.items()}
        (run_dir / 'config.json').write_text(json.dumps(config))
        (run_dir / 'metrics.jsonl').write_text('{"epoch": 1, "seconds": 1.0, "loss": 99.0}\n')
        (run_dir / 'results.json').write_text(json.dumps(results))

    whole, loaded = sweep_decoders.load_images, {}

    def load_images(*arguments):
        sets = whole(*arguments)
        loaded.update(zip(('train', 'test'), sets))
        return sets

    monkeypatch.setattr(sweep_decoders, 'load_images', load_images)
    monkeypatch.setattr(experiment_scripts, 'run_script', run_script)
    return scripts


def rows_of(out):
    return [line.strip('| ').split(' | ') for line in out.splitlines() if line.startswith('| ')][2:]


def test_from_training_to_the_table(compare, trained, tmp_path, names):
    status, out, err = compare('--decoders', 'conv4-plain', 'conv4-relu-batchnorm')
    assert status == 0 and not err
    assert 'MNIST, 40 + 20 digits, epochs: 1;' in out and (tmp_path / 'out' / 'table.md').read_text() in out
    assert names(tmp_path / 'out') == {'runs', 'table.md'}
    rows = rows_of(out)
    assert [row[:2] for row in rows] == [['conv4', 'no'], ['conv4-relu-batchnorm', 'yes']]
    assert rows[0][2] == '130.88 = 107.12 + 23.76'
    run = tmp_path / 'out' / 'runs' / 'conv4-plain-seed0'
    results = json.loads((run / 'results.json').read_text())
    assert results['latent_dim'] == 64 and results['likelihood'] == 'bernoulli'
    assert results['encoder'] == 'lstm-plain' and results['dataset'] == 'mnist'
    figures = [results[f'test_{name}'] for name in ('negative_elbo', 'reconstruction', 'kl')]
    figures.append(read_metrics(run)[-1]['loss'])
    assert rows[0][3:7] == [f'{value:.2f}' for value in figures]
    assert rows[0][7:] == ['1']

    # It goes on where it stopped: runs that are there are not trained again, an unfinished one is resumed.
    (run / 'results.json').unlink()
    before = len(trained)
    status, again, err = compare('--decoders', 'conv4-plain', 'conv4-relu-batchnorm')
    assert status == 0 and not err, err
    assert len(trained) == before + 1 and trained[-1][-1] == '--resume'
    assert rows_of(again) == rows


def test_of_several_seeds_the_worst(compare, made_up):
    status, out, _ = compare('--decoders', 'conv6', '--seeds', '0', '2', '1')
    assert status == 0
    (row,) = rows_of(out)
    assert row == ['conv6', 'yes', '112.77 = 85.14 + 27.63', *'102.00 80.00 22.00 99.00 3'.split()]


def test_all_ten(compare, made_up):
    status, out, _ = compare()
    assert status == 0 and len(made_up) == len(rows_of(out)) == 10
    assert compare('--report')[1] in out
    assert compare()[0] == 0 and len(made_up) == 10
    for arguments in made_up:
        flags = dict(zip(arguments[::2], arguments[1::2]))
        assert flags['--decoder'] in networks.DECODERS and flags['--encoder'] in networks.ENCODERS


def test_the_reports_losses():
    totals = [row[2] + row[3] for row in sweep_decoders.CONFIGURATIONS.values()]
    assert f'{min(totals):.2f} {max(totals):.2f}' == '112.77 130.88'


def test_another_setting(compare, made_up, one_line, tmp_path):
    assert compare('--decoders', 'conv6')[0] == 0
    for flags in (['--epochs', '2'], ['--n-train', '39'], ['--n-test', '19']):
        status, _, err = compare('--decoders', 'conv5', *flags)
        assert status == 2 and one_line(err) and 'name another folder with --out' in err
        assert re.search(r'expected (epochs|n_train|n_test) \d+ as in .*, got', err)
    assert len(made_up) == 1


def test_a_folder_of_other_things(compare, made_up, one_line, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('all of it')
    status, _, err = compare()
    assert status == 2 and one_line(err) and 'holds other things' in err and not made_up


def test_nothing_to_report(compare, one_line):
    status, _, err = compare('--report')
    assert (
        status == 2 and one_line(err) and 'expected finished runs in' in err and 'leave --report out' in err
    )


def test_a_run_without_metrics(compare, made_up, one_line, tmp_path):
    assert compare('--decoders', 'conv6')[0] == 0
    (tmp_path / 'out' / 'runs' / 'conv6-seed0' / 'metrics.jsonl').unlink()
    status, _, err = compare('--report')
    assert status == 2 and one_line(err) and 'metrics.jsonl, got none; delete that run' in err
