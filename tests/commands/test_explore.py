"""explore.py from the command line; tests/exploration has the page."""

import importlib.util
import socket

import pytest

import explore


@pytest.fixture
def port():
    """One that is taken."""
    with socket.socket() as listener:
        listener.bind((explore.ADDRESS, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_that_is_taken_is_said(command, one_line, run_dir, port, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
    status, out, err = command(explore, run_dir, '--port', port)
    assert status == 2 and one_line(err) and not out
    assert f'expected a free port, got {port}, which is taken; name another with --port' in err


def test_a_missing_library_is_said(command, one_line, run_dir, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    status, _, err = command(explore, run_dir)
    assert status == 2 and one_line(err) and 'pip install -r requirements-explore.txt' in err


def test_what_is_no_run_is_said(command, one_line, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
    status, _, err = command(explore, tmp_path / 'nothing')
    assert status == 2 and one_line(err)
