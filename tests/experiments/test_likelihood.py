"""The comparison of likelihoods. Stand-ins take the place of the scripts, and of grading."""

import json

import numpy as np
import pytest
import torch

from experiments import likelihood
from experiments import scripts as experiment_scripts


@pytest.fixture
def compare(command, csv_dir, tmp_path):
    """compare(*arguments): `command` with the comparison on csv_dir, results in tmp_path / 'out'."""
    return lambda *rest: command(
        likelihood, '--data-path', csv_dir, '--n-test', '20', '--out', tmp_path / 'out', *rest
    )


@pytest.fixture
def trained(monkeypatch):
    """Stand-ins; the list of the scripts that were run, with their flags."""
    scripts = []
    grades = dict(negative_elbo=-700.0, obs_std=0.08, log_likelihood=720.0, log_likelihood_error=20.0)
    grades |= dict(log_likelihood_half=719.0, ess=33.0, likelihood_draws=8)
    monkeypatch.setattr(experiment_scripts, 'run_script', lambda *arguments: scripts.append(arguments))
    monkeypatch.setattr(likelihood, 'grade', lambda folder, test_set, kind, k, anneal: grades)
    return scripts


def test_probabilistic_pca_is_exact(compare, digits, tmp_path):
    status, out, err = compare('--systems', 'ppca')
    assert status == 0 and not err and '| PPCA | exact |' in out
    (path,) = (tmp_path / 'out' / 'cells').glob('*.json')
    x, x_test = (images.X.flatten(1).double().numpy() / 255 for images in digits)
    centred = x - x.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
    order = values.argsort()[::-1]
    values, vectors = values[order].clip(0), vectors[:, order]
    noise = values[60:].mean()  # the maximum-likelihood value
    spectrum = np.concatenate([values[:60], np.full(784 - 60, noise)])
    scores = (x_test[:: len(x_test) // 20][:20] - x.mean(0)) @ vectors
    log_p = -0.5 * ((scores**2 / spectrum).sum(1) + np.log(2 * np.pi * spectrum).sum())
    assert json.loads(path.read_text())['log_likelihood'] == pytest.approx(log_p.mean(), rel=0.02)


def test_a_row_for_each_posterior(compare, trained, tmp_path):
    status, out, _ = compare('--systems', 'vad', 'ad', '--draws', '8', '--obs-std', 'auto')
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith('| ')]
    assert [line.split(' | ')[:2] for line in lines[2:]] == [
        ['| AD', 'fitted further'],
        ['| AD', 'fitted, full covariance'],
        ['| VAD, Gaussian', 'as inferred'],
        ['| VAD, Gaussian', 'fitted further'],
        ['| VAD, Gaussian', 'fitted, full covariance'],
    ]
    assert '| 20 | 1 | -700.0 | -720.0 | 20.0 | 20.0 | 33.0 | -719.0 | 0.08 |' in lines[-1]
    assert all(('--obs-std', 'auto') in zip(script, script[1:]) for script in trained)
    assert (tmp_path / 'out' / 'table.md').read_text() in out


def test_of_several_seeds_the_worst(compare, trained, monkeypatch):
    values = iter([720.0, 710.0])
    found = dict(negative_elbo=-700.0, log_likelihood_error=20.0, ess=33.0)
    monkeypatch.setattr(likelihood, 'grade', lambda *_: {**found, 'log_likelihood': next(values)})
    monkeypatch.setitem(likelihood.SYSTEMS, 'vad', ('VAD, Gaussian', ['train_vad.py'], ['full']))
    _, out, _ = compare('--systems', 'vad', '--seeds', '0', '1')
    assert '| VAD, Gaussian | fitted, full covariance | 20 | 2 | -700.0 | -710.0 |' in out


def test_a_table_for_each_data_set(compare, trained, monkeypatch, digits, tmp_path):
    monkeypatch.setattr(likelihood, 'load_images', lambda *_: digits)
    kinds = ['mnist-static', 'mnist-dynamic']
    status, out, _ = compare('--data', *kinds, '--n-test', '7')
    assert status == 0 and out.count('| system |') == 2
    assert all(f'**likelihood-{kind}**' in out for kind in kinds)
    assert 'LSTM-VAE' in out and 'PPCA' not in out
    for script, kind in zip(trained[:: len(trained) // 2], kinds):
        assert ('--binarise', kind.removeprefix('mnist-')) in zip(script, script[1:])


def test_test_images_are_those_of_a_run_at_equal_distances(compare, monkeypatch, digits):
    seen = []
    monkeypatch.setattr(likelihood, 'load_images', lambda *_: digits)
    monkeypatch.setattr(experiment_scripts, 'run_script', lambda *_: None)

    def grade(folder, test_set, *_):
        seen.append(test_set.X)
        return {'log_likelihood': -90.0, 'log_likelihood_error': 1.0}

    monkeypatch.setattr(likelihood, 'grade', grade)
    assert compare('--data', 'mnist-dynamic', '--systems', 'vad', '--n-test', '7')[0] == 0
    binary, step = digits[1].binarised(1).X, len(digits[1]) // 7
    assert all(len(x) == 7 and all(map(torch.equal, x, binary[::step])) for x in seen)


def test_it_goes_on_where_it_stopped(compare, trained):
    assert compare('--systems', 'vad')[0] == 0
    before = len(trained)
    status, out, _ = compare('--systems', 'vad', 'vae')
    assert status == 0 and {script[0] for script in trained[before:]} == {'train_vae.py'}
    assert compare('--report')[1] in out


def test_another_setting(compare, trained, one_line):
    assert compare('--systems', 'vad')[0] == 0
    for flags in (['--n-test', '19'], ['--draws', '9'], ['--anneal', '3'], ['--obs-std', 'auto']):
        status, _, err = compare('--systems', 'vad', *flags)
        assert status == 2 and one_line(err) and 'name another folder with --out' in err


def test_a_folder_of_other_things(compare, trained, one_line, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('all of it')
    status, _, err = compare('--systems', 'vad')
    assert status == 2 and one_line(err) and 'holds other things' in err


def test_nothing_to_report(compare, one_line):
    status, _, err = compare('--report')
    assert status == 2 and one_line(err) and 'expected results in' in err
