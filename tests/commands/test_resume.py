"""Stopping and going on: by Ctrl-C, by --resume, and after a kill at any moment."""

import json
import os
import random
import shutil
import time

import pytest

import train_ad
import train_vad
from training.checkpoints import load_checkpoint
from training.run_folders import SUCCESSOR, is_finished, lock_folder


@pytest.fixture
def interrupted(train, tmp_path, stop_at, ctrl_c):
    """The folder of a run that Ctrl-C stopped in its fifth step of six."""
    undo = stop_at(4, ctrl_c)
    status, _, err = train(train_vad)
    assert status == 130, err
    undo()
    return tmp_path / 'run'


def results_without_seconds(run):
    results = json.loads((run / 'results.json').read_text())
    return {name: value for name, value in results.items() if 'seconds' not in name}


# -------------------------------------------------------------------------------------------- stopping


def test_ctrl_c_saves_and_says_how_to_go_on(command, csv_dir, tmp_path, small, stop_at, ctrl_c):
    flags = ['--data-path', csv_dir, '--run-dir', tmp_path / 'run', *small]
    stop_at(4, ctrl_c)
    status, _, err = command(train_vad, *flags)
    assert status == 130 and 'the checkpoint is saved' in err
    assert err.strip().endswith('train_vad.py ' + ' '.join(map(str, flags)) + ' --resume')
    assert load_checkpoint(tmp_path / 'run' / 'checkpoint.pt')['step'] == 5


def test_an_unfinished_run_is_not_started_afresh(train, interrupted, contents, one_line):
    before = contents(interrupted)
    status, _, err = train(train_vad)
    assert status == 2 and one_line(err) and 'holds an unfinished run: go on with it by --resume' in err
    assert contents(interrupted) == before


# ---------------------------------------------------------------------------------------------- resuming


def test_an_interrupted_run_is_resumed_once(train, interrupted):
    status, _, _ = train(train_vad, '--resume')
    assert status == 0 and is_finished(interrupted)
    status, out, _ = train(train_vad, '--resume')
    assert status == 0 and 'nothing to resume' in out


@pytest.mark.parametrize(
    'change, message',
    [
        (['--epochs', '3'], 'epochs 2 (now 3)'),
        (['--seed', '1'], 'seed 0 (now 1)'),
        (['--n-train', '60'], 'n_train 64 (now 60)'),
        (['--dist', 'laplace'], 'dist gaussian (now laplace)'),
    ],
)
def test_another_configuration_is_not_resumed(train, interrupted, contents, one_line, change, message):
    before = contents(interrupted)
    status, _, err = train(train_vad, '--resume', *change)
    assert status == 2 and one_line(err) and 'from another configuration' in err and message in err
    assert contents(interrupted) == before


def test_a_broken_checkpoint_is_not_resumed(train, interrupted, one_line):
    path = interrupted / 'checkpoint.pt'
    path.write_bytes(path.read_bytes()[:1000])
    status, _, err = train(train_vad, '--resume')
    assert status == 2 and one_line(err) and 'expected a checkpoint in' in err


def test_a_link_to_a_checkpoint_that_is_gone_is_not_resumed(train, interrupted, contents, one_line):
    path = interrupted / 'checkpoint.pt'
    path.unlink()
    path.symlink_to(interrupted / 'gone' / 'checkpoint.pt')
    before = contents(interrupted)
    status, _, err = train(train_vad, '--resume')
    assert status == 2 and one_line(err) and f'expected a checkpoint in {path}, got No such file' in err
    assert contents(interrupted) == before


def test_latents_of_another_number_of_images_are_not_resumed(train, interrupted, change_checkpoint, one_line):
    path = interrupted / 'checkpoint.pt'
    shares = load_checkpoint(path)['shares']
    change_checkpoint(interrupted, shares={name: x[:, :-1].clone() for name, x in shares.items()})
    before = path.read_bytes()
    status, _, err = train(train_vad, '--resume')
    assert status == 2 and one_line(err) and 'expected float32 [5, 64, 12] as shares.latents in' in err
    assert path.read_bytes() == before


def test_resuming_nothing_starts_from_the_beginning(train, tmp_path):
    status, _, err = train(train_ad, '--resume')
    assert status == 0 and err.startswith('no checkpoint in') and is_finished(tmp_path / 'run')


def test_a_run_killed_after_training_only_grades_and_draws(train, run_dir, tmp_path):
    expected = results_without_seconds(run_dir)
    (run_dir / 'results.json').unlink()  # as if killed before the last file was written
    checkpoint = (run_dir / 'checkpoint.pt').read_bytes()
    status, _, err = train(train_vad, '--dist', 'laplace', '--resume')
    assert status == 0 and not err and (run_dir / 'checkpoint.pt').read_bytes() == checkpoint
    results = results_without_seconds(run_dir)
    assert all(results[name] == expected[name] for name in expected)


@pytest.mark.parametrize('name', ['metrics.jsonl', 'config.json'])
def test_what_a_checkpoint_does_not_need_may_be_missing(train, interrupted, name):
    (interrupted / name).unlink()
    status, _, err = train(train_vad, '--resume')
    assert status == 0 and not err
    assert is_finished(interrupted) and (interrupted / name).exists()


# ------------------------------------------------------------------------------------------------- owners


def test_a_folder_in_which_another_process_works_is_left_alone(train, run_dir, contents, one_line):
    with lock_folder(run_dir):
        before = contents(run_dir)
        status, _, err = train(train_vad, '--seed', '1')
        assert status == 2 and one_line(err) and f'which process {os.getpid()} on' in err
        assert contents(run_dir) == before


# -------------------------------------------------------------------------------------------- successors


def test_a_finished_run_stays_until_its_successor_is_finished(train, run_dir, contents, stop_at, ctrl_c):
    before = contents(run_dir)
    flags = ['--dist', 'laplace', '--seed', '1']
    undo = stop_at(4, ctrl_c)
    status, _, _ = train(train_vad, *flags)
    now = contents(run_dir)
    assert status == 130 and before.items() <= now.items()
    assert all(name.startswith(SUCCESSOR) for name in now.keys() - before.keys())
    undo()
    status, _, _ = train(train_vad, *flags, '--resume')
    assert status == 0 and json.loads((run_dir / 'results.json').read_text())['seed'] == 1
    assert [path.name for path in run_dir.parent.iterdir() if path.name.startswith('run')] == ['run']


def test_a_successor_killed_before_taking_its_place_takes_it(train, run_dir):
    shutil.copytree(run_dir, run_dir.with_name('new')).rename(run_dir / SUCCESSOR)
    (run_dir / SUCCESSOR / 'loss.png').write_text('new')
    status, out, _ = train(train_vad, '--dist', 'laplace', '--resume')
    assert status == 0 and 'is finished: nothing to resume' in out
    assert (run_dir / 'loss.png').read_text() == 'new' and not (run_dir / SUCCESSOR).exists()


@pytest.mark.parametrize('name', ['run.new', 'run.replaced'])
def test_a_finished_run_is_not_lost_by_its_name(train, run_dir, contents, name):
    other = shutil.copytree(run_dir, run_dir.with_name(name))
    before = contents(other)
    status, _, err = train(train_vad, '--seed', '1')
    assert status == 0, err
    assert contents(other) == before


def test_a_run_folder_can_be_a_link(train, run_dir):
    real = run_dir.rename(run_dir.with_name('real'))
    run_dir.symlink_to(real)
    status, _, err = train(train_vad, '--seed', '1')
    assert status == 0, err
    assert run_dir.is_symlink() and json.loads((real / 'results.json').read_text())['seed'] == 1


# ----------------------------------------------------------------------------------------------- killing


@pytest.mark.usefixtures('finished_run', 'saved_every_epoch')  # the forks have all modules, and save often
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(start_process, csv_dir, tmp_path):
    def start(run_dir, *arguments):
        places = ['--data-path', csv_dir, '--run-dir', run_dir, '--device', 'cpu']
        sizes = ['--epochs', '30', '--batch-size', '8', '--latent-dim', '6', '--decoder', 'mlp']
        return start_process(train_vad, *places, *sizes, *arguments)

    started = time.time()
    process = start(tmp_path / 'whole')
    process.join()
    assert process.exitcode == 0 and not process.err(), process.err()
    seconds = time.time() - started
    seed = random.randrange(10**6)  # other moments every time; the printed seed tells which
    print('seed of the moments', seed)
    moments = random.Random(seed)
    for _ in range(4):  # anywhere between the start of the process and its end
        process = start(tmp_path / 'killed', '--resume')
        process.join(timeout=moments.uniform(0, seconds))
        process.kill()
        process.join()
    process = start(tmp_path / 'killed', '--resume')
    process.join()
    assert process.exitcode == 0, process.err()
    killed, whole = ((tmp_path / name / 'checkpoint.pt').read_bytes() for name in ('killed', 'whole'))
    assert killed == whole
    assert results_without_seconds(tmp_path / 'killed') == results_without_seconds(tmp_path / 'whole')
