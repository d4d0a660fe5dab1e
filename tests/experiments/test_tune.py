"""The search for an auto-encoder: it goes on where it stopped, and only training images decide."""

import json
import math
import shutil
import sys

import pytest
import torch

import networks
import train_ae
from training.systems import AEConfig


@pytest.fixture
def tune():
    pytest.importorskip('optuna', reason='a machine without Optuna has everything but --tune')
    from experiments import tune

    return tune


@pytest.fixture
def search(command, csv_dir, tmp_path, small):
    """search(n, folder, *arguments): `command` with a search of n trials in tmp_path / folder."""

    def run(n, folder, *arguments):
        places = ['--data-path', csv_dir, '--run-dir', tmp_path / folder]
        return command(train_ae, *places, *small, '--tune', n, *arguments)

    return run


@pytest.fixture
def impossible_third(tune, monkeypatch):
    """The third trial's architecture does not fit the images."""
    whole = tune.suggest

    def suggest(trial):
        chosen = whole(trial)
        if len(tune.finished(trial.study)) == 2:
            chosen['architecture']['convolutions'][0].update(kernel=6, padding=0)
            chosen['architecture']['convolutions'] *= 9
        return chosen

    monkeypatch.setattr(tune, 'suggest', suggest)


def best_of(folder):
    return json.loads((folder / 'best.json').read_text())


def test_tuning_goes_on_where_it_stopped(tune, search, impossible_third, tmp_path, stop_at, ctrl_c, names):
    status, out, err = search(3, 'whole')
    assert status == 0 and not err, err
    assert 'expected images that are large enough' in out

    undo = stop_at(1, ctrl_c)
    status, _, err = search(2, 'broken')
    assert status == 130 and '0 trials are saved' in err
    undo()
    for n in (2, 3):
        status, _, err = search(n, 'broken')
        assert status == 0 and not err, err
    folder = tmp_path / 'broken'
    first = next(trial for trial in trials(tune, folder) if trial.state.name == 'COMPLETE')
    assert tune.as_suggested(first.user_attrs['config']) == first.params
    assert names(folder) == {'study.db', 'best.json', 'best'}
    best, undisturbed = best_of(folder), best_of(tmp_path / 'whole')
    del best['trial'], undisturbed['trial']  # the interrupted one has a number too
    assert best == undisturbed

    results = json.loads((folder / 'best' / 'results.json').read_text())
    for name in tune.SEARCHED:
        assert results[name] == best[name]
    assert results['n_train'] == 64 and 'n_held_out' not in results  # all images


def test_a_study_goes_on_with_the_same_configuration_only(tune, search, one_line):
    assert search(1, 'study')[0] == 0
    for change, message in (
        (['--epochs', '1'], 'epochs 2 (now 1)'),
        (['--min-delta', '5'], 'min_delta 0.0 (now 5.0)'),
        (['--n-test', '30'], 'from another configuration: n_test 40 (now 30), test_checksum'),
    ):
        status, _, err = search(2, 'study', *change)
        assert status == 2 and one_line(err) and message in err


def test_a_best_run_killed_before_its_configuration_was_written_is_made_again(tune, search, tmp_path):
    assert search(1, 'study')[0] == 0
    best = tmp_path / 'study' / 'best'
    shutil.rmtree(best)
    best.mkdir()
    status, _, err = search(1, 'study')
    assert status == 0 and not err and (best / 'results.json').exists()


def test_a_broken_study_is_one_line(tune, search, tmp_path, one_line):
    (tmp_path / 'study').mkdir()
    (tmp_path / 'study' / 'study.db').write_bytes(b'no study of anything' * 100)
    status, _, err = search(1, 'study')
    assert status == 2 and one_line(err) and 'expected a study of Optuna in' in err


def test_a_trial_is_judged_by_training_images_alone_and_leaves_no_folder(tune, digits, tmp_path):
    data = dict(dataset='digits', shape=(28, 28))
    config = AEConfig(latent_dim=3, epochs=2, batch_size=32, **data)
    trial = tune.optuna.create_study().ask()
    loss, _ = tune.held_out_loss(trial, config, digits[0], tmp_path / 'trial', torch.device('cpu'))
    assert math.isfinite(loss) and not (tmp_path / 'trial').exists()


def trials(tune, folder):
    storage = f'sqlite:///{folder / "study.db"}'
    return tune.optuna.load_study(study_name='tune', storage=storage).trials


def test_the_first_trial_is_the_default_configuration(tune, search, tmp_path):
    assert search(1, 'study', '--lr', '0.003')[0] == 0
    (trial,) = trials(tune, tmp_path / 'study')
    chosen = trial.user_attrs['config']
    assert chosen == dict(
        architecture=networks.ARCHITECTURE, latent_dim=3, lr=0.003, weight_decay=0.0, batch_size=64
    )
    assert trial.params['channels3'] == 128 and trial.params['linear1'] == 256
    assert tune.suggest(tune.optuna.trial.FixedTrial(tune.as_suggested(chosen))) == chosen | dict(
        weight_decay=1e-7
    )


def test_a_hopeless_trial_ends_early(tune, search, tmp_path, monkeypatch):
    bad = dict(architecture=networks.ARCHITECTURE, latent_dim=1, lr=1e-9, weight_decay=0.1, batch_size=512)
    monkeypatch.setattr(tune, 'suggest', lambda trial: bad)
    status, out, _ = search(2, 'study', '--epochs', '5', '--batch-size', '8')
    assert status == 0 and 'stopped after epoch' in out
    assert [trial.state.name for trial in trials(tune, tmp_path / 'study')] == ['COMPLETE', 'PRUNED']


def test_an_architecture_that_takes_too_long_is_not_tried(tune):
    wide = [{'channels': 64, 'kernel': 6, 'stride': 1, 'padding': 3}] * 3
    with pytest.raises(tune.NoSuchModel, match='expected at most 4 times the multiplications'):
        tune.check_cost({'convolutions': wide, 'linear': [8]}, (28, 28))


def test_tuning_without_optuna(search, monkeypatch, one_line):
    monkeypatch.setitem(sys.modules, 'optuna', None)  # as if not installed
    monkeypatch.delitem(sys.modules, 'experiments.tune', raising=False)
    status, _, err = search(2, 'study')
    assert status == 2 and one_line(err) and 'pip install optuna' in err


def test_tuning_with_a_broken_optuna(search, tmp_path, monkeypatch, one_line):
    (tmp_path / 'optuna.py').write_text('raise AttributeError("one\\ntwo")')
    monkeypatch.syspath_prepend(tmp_path)
    for name in ('optuna', 'experiments.tune'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    status, _, err = search(1, 'search')
    assert status == 2 and one_line(err) and 'pip install --force-reinstall optuna' in err
