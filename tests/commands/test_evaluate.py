"""Grading finished runs: what it says and leaves, and what cannot be graded."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch

import evaluate
from training.checkpoints import load_checkpoint
from training.run_folders import lock_folder


def test_an_aligned_table_and_json(command, run_dir, tmp_path):
    twin = tmp_path / 'a-much-longer-name'
    shutil.copytree(run_dir, twin)
    status, out, _ = command(evaluate, run_dir, twin, '--json', tmp_path / 'grades.json')
    lines = out[: out.index('\n\n')].splitlines()  # before the table of samples
    assert status == 0 and len(lines) == 3
    columns = [line.index('laplace') for line in lines[1:]]
    assert columns[0] == columns[1] == lines[0].index('dist')
    grades = json.loads((tmp_path / 'grades.json').read_text())
    assert [g['run'] for g in grades] == [str(run_dir), str(twin)]
    assert grades[0]['test_loss'] == grades[1]['test_loss']


def test_a_table_of_samples(command, run_dir, tmp_path):
    twin = shutil.copytree(run_dir, tmp_path / 'twin')
    results = json.loads((run_dir / 'results.json').read_text())
    samples = results.pop('samples')
    (run_dir / 'results.json').write_text(json.dumps(results))  # as an older program wrote it
    status, out, err = command(evaluate, run_dir, twin)
    header, *rows = out[out.index('\n\n') + 2 :].splitlines()
    names = ['frechet', 'precision', 'recall', 'density', 'coverage', 'authenticity']
    assert (
        status == 0 and not err and header.split() == ['run', 'samples', *names, 'classes', 'smallest_class']
    )
    wanted = [(str(run), name) for run in (run_dir, twin) for name in samples]
    assert [tuple(re.split('  +', row)[:2]) for row in rows] == wanted
    table = json.loads((run_dir / 'results.json').read_text())['samples']
    assert list(table) == list(samples) and list(table['prior']) == header.split()[2:]
    assert f'{table["noisy copies"]["authenticity"]:.4f}' in rows[list(samples).index('noisy copies')]
    assert '<h2>Samples</h2>' in (run_dir / 'report.html').read_text()


def test_samples_for_the_ruler(command, run_dir):
    status, _, _ = command(evaluate, run_dir, '--samples', '7')
    assert status == 0
    for name in ('prior', 'two-stage', 'mixture'):
        samples = np.load(run_dir / f'samples_{name}.npy')
        assert samples.shape == (7, 28, 28) and samples.dtype == np.uint8 and samples.max() > 0


# ------------------------------------------------------------------------------------------- which data


def test_grading_on_another_data_set_leaves_the_run_as_it_is(command, run_dir, tmp_path, contents):
    before = contents(run_dir)
    other = ['--dataset', 'digits', '--n-test', '30']
    status, out, _ = command(evaluate, run_dir, *other, '--json', tmp_path / 'grades.json')
    (grades,) = json.loads((tmp_path / 'grades.json').read_text())
    assert status == 0 and 'digits' in out and contents(run_dir) == before
    assert grades['samples'] is None and 'authenticity' not in out  # samples are not like other images
    assert grades['dataset'] == 'digits' and grades['n_test'] == 30 and grades['knn_accuracy'] is None


def test_grading_on_fewer_test_images_leaves_the_run_as_it_is(command, run_dir, contents):
    before = contents(run_dir)
    status, _, _ = command(evaluate, run_dir, '--n-test', '30')
    assert status == 0 and contents(run_dir) == before


def test_grading_with_other_training_images_leaves_the_run_as_it_is(
    command, run_dir, csv_dir, tmp_path, contents
):
    other = shutil.copytree(csv_dir, tmp_path / 'other')  # the Fréchet distance's classifier learns from them
    lines = (other / 'fashion-mnist_train.csv').read_text().splitlines()
    (other / 'fashion-mnist_train.csv').write_text('\n'.join([lines[0], *lines[:0:-1]]) + '\n')
    before = contents(run_dir)
    status, _, err = command(evaluate, run_dir, '--data-path', other, '--json', tmp_path / 'grades.json')
    (grades,) = json.loads((tmp_path / 'grades.json').read_text())
    assert status == 0 and not err and contents(run_dir) == before
    assert grades['frechet'] is grades['classes'] is None


def test_a_run_is_graded_on_what_it_was_trained_from(command, run_dir, csv_dir, tmp_path, monkeypatch):
    monkeypatch.setenv('DATA_PATH', str(tmp_path / 'elsewhere'))  # of other runs
    status, _, err = command(evaluate, run_dir)
    assert status == 0 and not err
    csv_dir.rename(tmp_path / 'elsewhere')
    status, _, err = command(evaluate, run_dir)
    assert status == 0 and not err


def test_images_of_another_shape_cannot_be_graded(command, run_dir, tmp_path, one_line):
    np.save(tmp_path / 'images.npy', np.zeros((100, 12, 8), np.uint8))
    status, _, err = command(evaluate, run_dir, '--dataset', 'npy', '--data-path', tmp_path / 'images.npy')
    assert status == 2 and one_line(err) and 'expected images of shape (28, 28), got (12, 8)' in err


def test_grading_without_the_data(command, run_dir, tmp_path, one_line):
    status, _, err = command(evaluate, run_dir, '--data-path', tmp_path / 'none')
    assert status == 2 and one_line(err) and 'name the folder with --data-path' in err


# ------------------------------------------------------------------------------------------- which runs


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda run: shutil.rmtree(run), 'does not exist; first run: python train_vad.py'),
        (lambda run: [path.unlink() for path in run.iterdir()], 'got none; first run'),
        (lambda run: (run / 'checkpoint.pt').write_bytes(b'x'), 'expected a checkpoint in'),
    ],
)
def test_what_cannot_be_graded(command, run_dir, one_line, damage, message):
    damage(run_dir)
    status, _, err = command(evaluate, run_dir)
    assert status == 2 and one_line(err) and message in err


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'stage': 'training'}, 'expected a trained model in'),
        ({'model': {}}, 'expected an entry model.pixel_bias in'),
        ({'model': 'weights'}, 'expected dict as model in'),
        ({'warm_start': None}, 'expected float32 [785, 12] as warm_start in'),
        ({'latents': torch.zeros(63, 12)}, 'expected float32 [64, 12] as latents in'),
        ({'latents': torch.full((64, 12), torch.nan)}, 'got 768 numbers in it that are not finite'),
        ({'labels': torch.full((64,), 10)}, 'expected int64 [64] with values from 0 to 9 as labels in'),
        ({'more': 1}, 'expected no entry more in'),
    ],
)
def test_checkpoints_that_cannot_be_graded(command, run_dir, change_checkpoint, one_line, changes, message):
    change_checkpoint(run_dir, **changes)
    status, _, err = command(evaluate, run_dir)
    assert status == 2 and one_line(err) and message in err


@pytest.mark.parametrize('name', ['latents', 'warm_start', 'labels', 'model', 'config', 'stage'])
def test_a_checkpoint_without_one_of_its_entries(command, run_dir, one_line, name):
    path = run_dir / 'checkpoint.pt'
    state = load_checkpoint(path)
    torch.save({key: value for key, value in state.items() if key != name}, path)
    status, _, err = command(evaluate, run_dir)
    assert status == 2 and one_line(err) and name in err and str(path) in err


@pytest.mark.parametrize(
    'error', [MemoryError('memory'), OSError(5, 'Input/output error'), RuntimeError('x')]
)
def test_what_can_be_graded_is_graded_beside_what_cannot(
    command, run_dir, tmp_path, monkeypatch, one_line, error
):
    bad, grade = shutil.copytree(run_dir, tmp_path / 'bad'), evaluate.grade_run

    def grade_or_fail(folder, *arguments):
        if folder == bad:
            raise error
        return grade(folder, *arguments)

    monkeypatch.setattr(evaluate, 'grade_run', grade_or_fail)
    status, out, err = command(evaluate, tmp_path / 'none', bad, run_dir, '--json', tmp_path / 'grades.json')
    assert status == 2 and err.count('\n') == 2 and err.count('error: ') == 2 and str(run_dir) in out
    (grades,) = json.loads((tmp_path / 'grades.json').read_text())
    assert grades['run'] == str(run_dir)


def test_a_run_in_which_another_process_works_is_not_graded(command, run_dir, one_line):
    with lock_folder(run_dir):
        status, _, err = command(evaluate, run_dir)
    assert status == 2 and one_line(err) and 'expected a folder that no other process works in' in err


def test_a_run_that_may_only_be_read_is_graded_and_left_as_it_is(command, run_dir, contents, monkeypatch):
    before = contents(run_dir)
    monkeypatch.setattr(os, 'access', lambda *_: False)
    status, out, err = command(evaluate, run_dir)
    assert status == 0 and err.startswith(f'warning: {run_dir} is not writable') and str(run_dir) in out
    assert contents(run_dir) == before


# --------------------------------------------------------------------------- records beside a checkpoint


def other_results(run):
    results = json.loads((run / 'results.json').read_text())
    (run / 'results.json').write_text(json.dumps({**results, 'seed': 7, 'checkpoint_sha256': '0'}))


@pytest.mark.parametrize(
    'damage, message',
    [
        (other_results, 'is of another checkpoint than the one beside it'),
        (lambda run: (run / 'results.json').unlink(), 'expected a JSON object in .*, got no such file'),
        (lambda run: (run / 'results.json').write_text('{'), 'cannot be read as JSON'),
        (lambda run: (run / 'results.json').write_text('{"kl": "x"}'), 'expected numbers for train_loss, kl'),
    ],
)
def test_results_that_are_not_those_of_the_checkpoint_are_made_again(command, run_dir, damage, message):
    before = json.loads((run_dir / 'results.json').read_text())
    damage(run_dir)
    status, _, err = command(evaluate, run_dir)
    assert status == 0 and err.startswith('warning: ') and err.count('\n') == 1 and re.search(message, err)
    after = json.loads((run_dir / 'results.json').read_text())
    again = before.keys() - {'train_seconds', 'test_seconds', 'total_seconds', 'device', 'data', 'torch'}
    assert {name: after[name] for name in again} == {name: before[name] for name in again}
    status, _, err = command(evaluate, run_dir)
    assert status == 0 and not err


@pytest.mark.parametrize('content', [None, '[]', '{"data_path": 3}'])
def test_a_run_without_its_config_file_is_graded_on_what_data_path_names(
    command, run_dir, csv_dir, monkeypatch, content
):
    (run_dir / 'config.json').unlink()
    if content:
        (run_dir / 'config.json').write_text(content)
    monkeypatch.setenv('DATA_PATH', str(csv_dir))
    status, _, err = command(evaluate, run_dir)
    assert status == 0 and not err


def test_finished_runs_are_found_and_their_successors_settled(command, run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / 'runs'
    runs.mkdir()
    for name in ('a/.successor', 'b.new', 'b.replaced', 'sweep/d02'):
        shutil.copytree(run_dir, runs / name)  # a was being replaced when the program died
    status, out, _ = command(evaluate)
    found = [line.split()[0] for line in out[: out.index('\n\n')].splitlines()[1:]]
    assert status == 0 and found == ['runs/a', 'runs/b.new', 'runs/b.replaced', 'runs/sweep/d02']
    assert not (runs / 'a' / '.successor').exists()


def test_nothing_to_grade(command, tmp_path, monkeypatch, one_line):
    monkeypatch.chdir(tmp_path)
    status, _, err = command(evaluate)
    assert status == 2 and one_line(err) and 'first run: python train_vad.py' in err
