"""Shared by the fuzz tests, whose inputs hypothesis makes: how many there are, and what breaks a file."""

import copy
import json
import math
import shutil

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# A command takes longer than a function does: the tests of commands try a tenth of these examples.
quick = settings(
    max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile('quick', quick)
settings.register_profile('long', quick, max_examples=2000, derandomize=False, print_blob=True)
settings.load_profile('quick')  # --hypothesis-profile is applied after this


@pytest.fixture(autouse=True)
def no_warnings(recwarn):
    """A command prints its one line, and no warning of a library beside it."""
    yield
    assert not [str(warning) for warning in recwarn if 'hypothesis' not in warning.filename]


@pytest.fixture
def empty_folder(tmp_path):
    """empty_folder(): a folder with nothing in it, for one example."""

    def make():
        shutil.rmtree(tmp_path / 'example', ignore_errors=True)
        (tmp_path / 'example').mkdir()
        return tmp_path / 'example'

    return make


@pytest.fixture(scope='session')
def splice():
    """splice(data, content): bytes with one stretch, perhaps empty, replaced by other bytes, perhaps none."""
    new_bytes = st.binary(max_size=8) | st.text('0123456789,."\n\r -+e{}[]:', max_size=8).map(str.encode)

    def draw(data, content):
        start = data.draw(st.integers(0, min(len(content), 150)) | st.integers(0, len(content)), 'start')
        length = data.draw(st.integers(0, 8) | st.integers(0, len(content)), 'length')
        return content[:start] + data.draw(new_bytes, 'new bytes') + content[start + length :]

    return draw


@pytest.fixture(scope='session')
def break_file(splice):
    """break_file(data, path): splice its bytes, remove it, or put a folder or a broken link in its place."""

    def draw(data, path):
        kind = data.draw(
            st.sampled_from(3 * ['bytes'] + ['gone', 'folder', 'link']), f'how {path.name} breaks'
        )
        content = path.read_bytes()
        path.unlink()
        if kind == 'bytes':
            path.write_bytes(splice(data, content))
        elif kind == 'folder':
            path.mkdir()
        elif kind == 'link':
            path.symlink_to(path.parent / 'nowhere' / path.name)

    return draw


# ---------------------------------------------------------------------------- entries of nested dicts


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


def change_entry(data, state, values):
    """A copy of nested dicts and lists in which one entry is gone, has another name, or one of `values`."""
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
        parent[key] = data.draw(values, 'value')
    else:
        value = parent.pop(key)
        if kind == 'other name':
            parent[data.draw(PLAIN, 'name')] = value
    return state


@pytest.fixture(scope='session')
def change_state():
    """change_state(data, state): the state of a checkpoint with one entry changed."""
    return lambda data, state: change_entry(data, state, JSON | TENSORS | OTHERS)


@pytest.fixture(scope='session')
def break_run_file(break_file):
    """break_run_file(data, path): break_file, or change one entry of a file of JSON or of a line of it."""

    def draw(data, path):
        if path.suffix == '.pt' or data.draw(st.booleans(), 'as bytes'):
            break_file(data, path)
            return
        lines = path.read_text().splitlines() if path.suffix == '.jsonl' else [path.read_text()]
        i = data.draw(st.integers(0, len(lines) - 1), 'line')
        lines[i] = json.dumps(change_entry(data, json.loads(lines[i]), JSON))
        path.write_text('\n'.join(lines))

    return draw


# ------------------------------------------------------------------------------------------- commands


@pytest.fixture
def copy_run(empty_folder):
    """copy_run(run): a copy of what is read of a run, for one example."""

    def make(run):
        folder = empty_folder()
        for name in ('checkpoint.pt', 'config.json', 'results.json', 'metrics.jsonl'):
            if (run / name).exists():
                shutil.copy(run / name, folder)
        return folder

    return make


@pytest.fixture(scope='session')
def refused_in_one_line():
    """refused_in_one_line(status, err): status 2 and one error, perhaps after warnings, each of one line."""

    def check(status, err):
        *before, last = err.split('\n')[:-1] or ['']
        return status == 2 and last.startswith('error: ') and all(x.startswith('warning: ') for x in before)

    return check
