"""Run folders with one thing broken: a command does what it does of the whole one, or says in one line what
is wrong and changes nothing."""

import copy
import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate
import train_vad
from training.batches import Images
from training.checkpoints import load_checkpoint, save_checkpoint
from training.config import AEConfig, VADConfig
from training.data import ImageDataset
from training.errors import UserError
from training.loop import fit
from training.runs import build_model, load_resumable, load_run
from training.trainer import Trainer

COMMANDS = settings(max_examples=settings().max_examples // 10)
FILES = ['checkpoint.pt', 'config.json', 'results.json', 'metrics.jsonl']  # what is read of a run

NUMBERS = [-1, 0, 1, 3, 2**31, 2**63, 10**30, -0.5, 1e300, math.nan, math.inf]
PLAIN = st.sampled_from([None, True, False, '', 'x', 'mlp', '\ud800', *NUMBERS]) | st.integers() | st.text()
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
TENSORS = st.sampled_from([torch.tensor(0), torch.tensor(math.nan), torch.zeros(0), torch.ones(3, 4, 5)])
OTHERS = st.sampled_from([(), (1, 2), b'x', {0: None}, {1}, 1j, torch.float32, torch.Size([2])])
TENSOR_CHANGES = {
    'type': lambda x: x.double() if x.dtype == torch.float32 else x.float(),
    'shape': lambda x: x[None],
    'size': lambda x: x.flatten()[1:],
    'nan': lambda x: x * math.nan,
    'huge': lambda x: torch.full_like(x, 3e38 if x.is_floating_point() else 100),
    'negative': lambda x: -x - 1,
    'shared memory': lambda x: x.flatten()[:1].expand(x.numel()).view(x.shape),
    'meta': lambda x: x.to('meta'),
    'sparse': lambda x: x.to_sparse() if x.dim() else x,
    'parameter': lambda x: torch.nn.Parameter(x) if x.is_floating_point() else x,
}


def places(value, place=()):
    """Where the entries of nested dicts and lists are, from the outside in: tuples of keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*place, key)
        yield from places(value[key], (*place, key))


def change_entry(data, state, others):
    """A copy of nested dicts and lists in which one entry is gone, has another name or another value."""
    state = copy.deepcopy(state)
    *outer, key = data.draw(st.sampled_from(list(places(state))), 'entry')
    parent = state
    for each in outer:
        parent = parent[each]
    kinds = ['other value', 'gone', *(['other name'] if isinstance(parent, dict) else [])]
    kinds = list(TENSOR_CHANGES) if torch.is_tensor(parent[key]) and data.draw(st.booleans()) else kinds
    kind = data.draw(st.sampled_from(kinds), 'change')
    if kind in TENSOR_CHANGES:
        parent[key] = TENSOR_CHANGES[kind](parent[key])
    elif kind == 'other value':
        parent[key] = data.draw(others, 'value')
    else:
        value = parent.pop(key)
        if kind == 'other name':
            parent[data.draw(PLAIN, 'name')] = value
    return state


def assert_equal(found, expected):
    """Of nested dicts and tensors."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    else:
        assert torch.equal(found, expected) if torch.is_tensor(expected) else found == expected


def change_json(data, path):
    """Change one entry of a file of JSON, or of one of its lines."""
    lines = path.read_text().splitlines() if path.suffix == '.jsonl' else [path.read_text()]
    i = data.draw(st.integers(0, len(lines) - 1), 'line')
    lines[i] = json.dumps(change_entry(data, json.loads(lines[i]), JSON))
    path.write_text('\n'.join(lines))


# ------------------------------------------------------------------------------------- a finished run


@pytest.fixture
def copy_run(empty_folder):
    """copy_run(run): a copy of what is read of a run, for one example."""

    def copy(run):
        folder = empty_folder()
        for name in FILES:
            if (run / name).exists():
                shutil.copy(run / name, folder)
        return folder

    return copy


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
def test_a_checkpoint_with_another_entry(finished_run, empty_folder, data):
    path = empty_folder() / 'checkpoint.pt'
    state = change_entry(data, load_checkpoint(finished_run / 'checkpoint.pt'), JSON | TENSORS | OTHERS)
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
    finished_run, copy_run, break_file, grade, contents, data
):
    folder = copy_run(finished_run)
    path = folder / data.draw(st.sampled_from(FILES), 'file')
    if path.suffix != '.pt' and data.draw(st.booleans(), 'as JSON'):
        change_json(data, path)
    else:
        break_file(data, path)
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
def test_a_checkpoint_with_another_entry_is_graded_or_not(finished_run, copy_run, grade, contents, data):
    folder = copy_run(finished_run)
    state = change_entry(data, load_checkpoint(folder / 'checkpoint.pt'), JSON | TENSORS | OTHERS)
    save_checkpoint(folder / 'checkpoint.pt', state)
    before = contents(folder)
    grades = grade(folder)
    before['results.json'] = before['results.json'] if grades is None else contents(folder)['results.json']
    assert contents(folder) == before


# ----------------------------------------------------------------------------------- an unfinished run


SMALL = dict(latent_dim=4, epochs=3, batch_size=128, decoder='mlp')
UNFINISHED = {
    'VAD': VADConfig(dist='laplace', **SMALL),
    'AE': AEConfig(encoder='mlp', patience=2, prune=0.5, **SMALL),
}


@pytest.fixture(scope='module', params=UNFINISHED)
def unfinished(request, digits):
    """unfinished(): a configuration, the state of its checkpoint after two epochs of three, a new Trainer."""
    train_set, test_set = (ImageDataset(x.X[:, ::4, ::4], x.y, 'digits') for x in digits)  # smaller, quicker
    config = UNFINISHED[request.param].with_data(train_set, test_set)

    def make_trainer():
        model, images = build_model(config), Images(train_set, 'cpu')
        latents = None if model.encoder else torch.zeros(len(images), 8)
        return Trainer(model, images, config, latents, Images(test_set, 'cpu') if model.encoder else None)

    trainer = make_trainer()
    for epoch in range(2):
        for index, size in trainer.images.epoch(config.seed, epoch, config.batch_size):
            trainer.step(index, size)
        trainer.end_epoch(epoch + 1, trainer.check_finite())
    state = {'stage': 'training', 'config': config.to_dict(), **trainer.state_dict()}
    return lambda: (config, state, make_trainer())  # a function: hypothesis would print the state


@given(data=st.data())
def test_what_training_goes_on_from_can_be_trained_to_the_end(unfinished, empty_folder, data):
    config, state, trainer = unfinished()
    folder = empty_folder()
    path = folder / 'checkpoint.pt'
    save_checkpoint(path, change_entry(data, state, JSON | TENSORS | OTHERS))
    before = path.read_bytes()
    try:
        fit(trainer, folder, load_resumable(config, folder))
    except UserError as error:
        assert '\n' not in str(error) and path.read_bytes() == before
    else:
        assert trainer.done()


@pytest.fixture
def resume(command, csv_dir, monkeypatch):
    """resume(folder, *flags) -> status, standard output, standard error of a small run without pictures."""
    for name in ('draw_pictures', 'draw_losses', 'finish_run'):
        monkeypatch.setattr(train_vad, name, lambda *_: None)
    monkeypatch.setattr(train_vad, 'infer_latents', lambda *_: (None, 0))
    monkeypatch.setattr(train_vad, 'evaluate', lambda *_: {})
    flags = ['--data-path', csv_dir, '--epochs', 2, '--latent-dim', 4, '--decoder', 'mlp', '--device', 'cpu']
    return lambda folder, *others: command(train_vad, '--run-dir', folder, *flags, *others)


@COMMANDS
@given(data=st.data())
def test_a_broken_run_is_resumed_as_the_whole_one_or_not_at_all(
    resume, tmp_path, copy_run, break_file, stop_at, ctrl_c, contents, refused_in_one_line, data
):
    if not (tmp_path / 'whole').exists():  # in the first example
        undo = stop_at(4, ctrl_c)
        assert resume(tmp_path / 'unfinished')[0] == 130
        undo()
        shutil.copytree(tmp_path / 'unfinished', tmp_path / 'whole')
        assert resume(tmp_path / 'whole', '--resume')[0] == 0
    folder = copy_run(tmp_path / 'unfinished')
    path = folder / data.draw(st.sampled_from(sorted(contents(folder))), 'file')
    if path.suffix != '.pt' and data.draw(st.booleans(), 'as JSON'):
        change_json(data, path)
    else:
        break_file(data, path)
    before = contents(folder)
    status, _, err = resume(folder, '--resume')
    after = contents(folder)
    if status:
        assert refused_in_one_line(status, err), err
        after['config.json'] = before.get('config.json')
        assert {name: after[name] for name in after if after[name]} == before
    else:
        assert after['checkpoint.pt'] == (tmp_path / 'whole' / 'checkpoint.pt').read_bytes()
