"""Tensors of which each process has a part, written to a folder and read again."""

import shutil

import pytest
import torch
import torch.distributed as dist

from training import shards


@pytest.fixture(autouse=True)
def alone():
    """A group of one process."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_shards_come_back(tmp_path):
    parts = {'latents': torch.randn(5, 7, 3), 'count': torch.arange(35).view(5, 7)}
    shards.write(tmp_path / 'shares-1', parts, 7)
    back = shards.read(tmp_path / 'shares-1', {name: torch.zeros_like(x) for name, x in parts.items()}, 7)
    assert all(torch.equal(back[name], x) for name, x in parts.items())


@pytest.mark.parametrize('n, missing', [(6, False), (7, True)])
def test_shards_of_another_size_or_none(tmp_path, n, missing):
    shards.write(tmp_path / 'shares-1', {'latents': torch.randn(5, 7, 3)}, 7)
    if missing:
        shutil.rmtree(tmp_path / 'shares-1')
    with pytest.raises(shards.Failed) as error:
        shards.read(tmp_path / 'shares-1', {'latents': torch.zeros(5, n, 3)}, n)
    assert str(error.value) and '\n' not in str(error.value)


def test_shards_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(shards.Failed) as error:
        shards.write(tmp_path / 'file' / 'shares-1', {'latents': torch.randn(5, 7, 3)}, 7)
    assert str(error.value) and '\n' not in str(error.value)
