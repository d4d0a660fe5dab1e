"""Shared by the fuzz tests, whose inputs hypothesis makes: how many there are, and what breaks a file."""

import shutil

import pytest
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


@pytest.fixture(scope='session')
def refused_in_one_line():
    """refused_in_one_line(status, err): status 2 and one error, perhaps after warnings, each of one line."""

    def check(status, err):
        *before, last = err.split('\n')[:-1] or ['']
        return status == 2 and last.startswith('error: ') and all(x.startswith('warning: ') for x in before)

    return check
