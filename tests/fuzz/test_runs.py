"""Finished runs with one thing broken: each is loaded and graded as the whole one is, or refused in one line,
and its files stay as they are."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate
from training.checkpoints import load_checkpoint, save_checkpoint
from training.errors import UserError
from training.runs import load_run

COMMANDS = settings(max_examples=settings().max_examples // 10)


def assert_equal(found, expected):
    """Of nested dicts and tensors."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    else:
        assert torch.equal(found, expected) if torch.is_tensor(expected) else found == expected


def trained_or_none(folder):
    """The run that load_run finds there; None: it says in one line that there is none, and names the file."""
    try:
        return load_run(folder, 'cpu')
    except UserError as error:
        assert '\n' not in str(error) and str(folder) in str(error)


@given(data=st.data())
def test_a_broken_checkpoint_is_not_loaded(finished_run, copy_run, break_file, data):
    folder = copy_run(finished_run)
    break_file(data, folder / 'checkpoint.pt')
    trained = trained_or_none(folder)
    if trained:
        expected = load_run(finished_run, 'cpu')
        assert trained.config == expected.config and torch.equal(trained.latents, expected.latents)
        assert_equal(trained.model.state_dict(), expected.model.state_dict())


@given(data=st.data())
def test_a_checkpoint_with_another_entry(finished_run, empty_folder, change_state, data):
    path = empty_folder() / 'checkpoint.pt'
    state = change_state(data, load_checkpoint(finished_run / 'checkpoint.pt'))
    save_checkpoint(path, state)
    trained = trained_or_none(path.parent)
    if trained:
        assert_equal(trained.model.state_dict(), state['model'])
        for name in ('latents', 'labels', 'warm_start'):
            assert_equal(getattr(trained, name), state[name])


@pytest.fixture
def grade(command, quicken, monkeypatch, tmp_path, refused_in_one_line):
    """grade(run): the grades that evaluate.py writes there; None: it says in one line that it cannot."""
    quicken(monkeypatch)
    monkeypatch.chdir(tmp_path)

    def run(folder):
        status, _, err = command(evaluate, folder, '--device', 'cpu', '--json', tmp_path / 'grades.json')
        if status:
            assert refused_in_one_line(status, err), err
            return None
        assert all(line.startswith('warning: ') for line in err.splitlines()), err
        return json.loads((tmp_path / 'grades.json').read_text())[0]

    return run


@COMMANDS
@given(data=st.data())
def test_a_broken_run_is_graded_as_the_whole_one_or_not_at_all(
    finished_run, copy_run, break_run_file, grade, contents, data
):
    folder = copy_run(finished_run)
    break_run_file(data, folder / data.draw(st.sampled_from(sorted(contents(folder))), 'file'))
    before = contents(folder)
    grades = grade(folder)
    after = contents(folder)
    if grades:
        expected = json.loads((finished_run / 'results.json').read_text())
        assert all(grades[name] == expected[name] for name in ('test_loss', 'knn_accuracy', 'frechet'))
        before['results.json'] = after['results.json']
    assert after == before


@COMMANDS
@given(data=st.data())
def test_a_checkpoint_with_another_entry_is_graded_or_not(
    finished_run, copy_run, change_state, grade, contents, data
):
    folder = copy_run(finished_run)
    state = change_state(data, load_checkpoint(folder / 'checkpoint.pt'))
    save_checkpoint(folder / 'checkpoint.pt', state)
    before = contents(folder)
    grades = grade(folder)
    before['results.json'] = before['results.json'] if grades is None else contents(folder)['results.json']
    assert contents(folder) == before
