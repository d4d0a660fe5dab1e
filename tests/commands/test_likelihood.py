"""evaluate.py --refine and --likelihood: what they say and leave, and what they refuse."""

import json

import pytest

import evaluate
import train_ad
import train_gan
import train_vad
from training import posteriors


@pytest.fixture
def gaussian_run(command, csv_dir, tmp_path, quicken, monkeypatch):
    quicken(monkeypatch)
    monkeypatch.setattr(posteriors, 'FULL_PASSES', 60)
    small = ['--data-path', csv_dir, '--latent-dim', '4', '--epochs', '4', '--run-dir', tmp_path / 'gaussian']
    assert command(train_vad, *small)[0] == 0
    return tmp_path / 'gaussian'


def test_the_likelihood_of_a_run(command, run_dir):
    status, out, err = command(evaluate, run_dir, '--likelihood', '8')
    results = json.loads((run_dir / 'results.json').read_text())
    assert status == 0 and not err and 'log_likelihood' in out and (run_dir / 'likelihood.png').exists()
    assert results['likelihood_draws'] == 8 and results['proposal'] == 'laplace' and 1 <= results['ess'] <= 8
    assert 'refined_negative_elbo' not in results


def test_a_full_covariance_lowers_the_negative_elbo(command, gaussian_run):
    status, out, err = command(evaluate, gaussian_run, '--refine', 'full', '--likelihood', '8')
    results = json.loads((gaussian_run / 'results.json').read_text())
    assert status == 0 and not err and 'refined_negative_elbo' in out
    assert results['refined_posterior'] == results['proposal'] == 'gaussian-full'
    assert results['refined_negative_elbo'] < results['test_negative_elbo']


def test_grades_of_an_earlier_call_do_not_stay_beside_others(command, gaussian_run, tmp_path):
    assert command(evaluate, gaussian_run, '--refine', 'full', '--likelihood', '8')[0] == 0
    assert command(evaluate, gaussian_run)[0] == 0  # on the same images they hold
    assert 'refined_negative_elbo' in json.loads((gaussian_run / 'results.json').read_text())
    status, out, _ = command(evaluate, gaussian_run, '--n-test', '5', '--json', tmp_path / 'grades.json')
    assert status == 0 and '"log_likelihood"' not in (tmp_path / 'grades.json').read_text()
    assert command(evaluate, gaussian_run, '--likelihood', '4')[0] == 0
    results = json.loads((gaussian_run / 'results.json').read_text())
    assert results['proposal'] == 'gaussian' and 'refined_posterior' not in results


def test_an_auto_decoder_gets_posteriors(command, csv_dir, tmp_path, quicken, monkeypatch):
    quicken(monkeypatch)
    small = ['--data-path', csv_dir, '--latent-dim', '4', '--epochs', '2', '--run-dir', tmp_path / 'ad']
    assert command(train_ad, *small)[0] == 0
    status, _, err = command(evaluate, tmp_path / 'ad', '--likelihood', '8')
    results = json.loads((tmp_path / 'ad' / 'results.json').read_text())
    assert status == 0 and not err and results['refined_posterior'] == results['proposal'] == 'gaussian'
    assert 'test_negative_elbo' not in results


def test_other_test_images_leave_the_run_as_it_is(command, run_dir, contents):
    before = contents(run_dir)
    status, out, _ = command(evaluate, run_dir, '--n-test', '5', '--likelihood', '2')
    assert status == 0 and 'log_likelihood' in out and contents(run_dir) == before


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--likelihood', '0'], 'argument --likelihood: expected a whole number from 1'),
        (['--refine', 'best'], "argument --refine: invalid choice: 'best'"),
        (['--refine', 'full'], 'expected Gaussian posteriors, or points, for --refine full, got laplace'),
    ],
)
def test_bad_flags(command, run_dir, contents, one_line, flags, message):
    before = contents(run_dir)
    status, _, err = command(evaluate, run_dir, *flags)
    assert status == 2 and message in err and contents(run_dir) == before
    assert one_line(err) or 'usage' in err


@pytest.mark.parametrize('flags', [['--likelihood', '8'], ['--refine', 'own']])
def test_a_gan_has_no_density(command, csv_dir, tmp_path, quicken, monkeypatch, one_line, flags):
    quicken(monkeypatch)
    small = ['--data-path', csv_dir, '--model', 'linear', '--epochs', '1', '--run-dir', tmp_path / 'gan']
    assert command(train_gan, *small)[0] == 0
    status, _, err = command(evaluate, tmp_path / 'gan', *flags)
    assert status == 2 and one_line(err) and 'got a GAN, which has no density' in err
