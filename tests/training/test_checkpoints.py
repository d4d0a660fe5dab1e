import pickle

import numpy as np
import pytest
import torch

from training.checkpoints import load_checkpoint, read_metrics, save_checkpoint
from training.errors import UserError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(path, {'config': {}, 'a': torch.ones(2)})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {'config': {}, 'a': lambda: None})  # cannot be pickled
    assert load_checkpoint(path)['a'].tolist() == [1, 1]


@pytest.mark.parametrize('content', [b'', b'nonsense', None])
def test_a_broken_checkpoint(tmp_path, content):
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(path, {'config': {}, 'a': torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(UserError, match='expected a checkpoint in .*delete its folder'):
        load_checkpoint(path)


@pytest.mark.parametrize('state', [[1], {'a': 1}, {'config': 1}])
def test_another_file_of_torch_is_no_checkpoint(tmp_path, state):
    torch.save(state, tmp_path / 'checkpoint.pt')
    with pytest.raises(UserError, match='got a file that cannot be read as one .other contents'):
        load_checkpoint(tmp_path / 'checkpoint.pt')


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError('PytorchStreamWriter failed writing file data/0: file write failed\nmore')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(
        UserError, match='cannot write .*file write failed; make room and go on with --resume'
    ):
        save_checkpoint(tmp_path / 'checkpoint.pt', {})


def test_a_checkpoint_cannot_run_code(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    torch.save({'a': np.random.default_rng()}, path)  # any object that is not plain data
    with pytest.raises(UserError, match='UnpicklingError'):
        load_checkpoint(path)


def test_a_cut_off_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"epoch": 1}\n{"epo')
    assert read_metrics(tmp_path) == [{'epoch': 1}]
