import errno
import pickle

import numpy as np
import pytest
import torch

from training.checkpoints import load_checkpoint, read_metrics, save_checkpoint
from training.errors import UserError

HEAD = {'config': {}, 'stage': 'training'}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(path, {**HEAD, 'a': torch.ones(2)})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {**HEAD, 'a': lambda: None})  # cannot be pickled
    assert load_checkpoint(path)['a'].tolist() == [1, 1]


@pytest.mark.parametrize('content', [b'', b'nonsense', None])
def test_a_broken_checkpoint(tmp_path, content):
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(path, {**HEAD, 'a': torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(
        UserError,
        match='expected a checkpoint in .*, got a file that cannot be read as one .*; put back a copy',
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    'state, message',
    [
        ([1], 'expected dict as its contents'),
        ({'a': 1}, 'expected dict as config in .*, got None'),
        ({'config': 1}, 'expected dict as config in .*, got 1'),
        ({'config': {}, 'stage': 'done'}, "expected training or trained as stage in .*, got 'done'"),
    ],
)
def test_another_file_of_torch_is_no_checkpoint(tmp_path, state, message):
    torch.save(state, tmp_path / 'checkpoint.pt')
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / 'checkpoint.pt')


def test_a_byte_that_has_changed_is_noticed(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(path, {**HEAD, 'a': torch.arange(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000).numpy().tobytes()) + 4321] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match='expected a whole checkpoint in .* agree with its checksum; put back'
    ):
        load_checkpoint(path)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(state, file):  # what torch.save raises
        try:
            raise OSError(errno.ENOSPC, 'No space left on device')
        except OSError:
            raise RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598')  # noqa: B904

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(UserError, match='cannot write .*checkpoint.pt: the disk is full; make room') as error:
        save_checkpoint(tmp_path / 'checkpoint.pt', {})
    assert 'enforce' not in str(error.value)


def test_a_checkpoint_cannot_run_code(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    torch.save({'a': np.random.default_rng()}, path)  # any object that is not plain data
    with pytest.raises(UserError, match='UnpicklingError'):
        load_checkpoint(path)


def test_nothing_is_printed_of_tensors_that_no_checkpoint_has(tmp_path, recwarn):
    save_checkpoint(tmp_path / 'checkpoint.pt', {**HEAD, 'a': torch.eye(2).to_sparse()})
    load_checkpoint(tmp_path / 'checkpoint.pt')
    assert not recwarn


@pytest.mark.parametrize('broken', ['{"epo', '[1]', '{"epoch": "1"}', '{"epoch": 2}', '', '\0'])
def test_broken_lines_of_metrics_are_left_out(tmp_path, broken):
    good = '{"epoch": 1, "seconds": 0.5, "loss": 3.0}'
    (tmp_path / 'metrics.jsonl').write_text(f'{good}\n{broken}\n{good}\n{broken}')
    assert read_metrics(tmp_path) == 2 * [{'epoch': 1, 'seconds': 0.5, 'loss': 3.0}]


def test_without_a_file_there_are_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []
