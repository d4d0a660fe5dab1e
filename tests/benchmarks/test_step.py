"""The benchmark's parts, on few images; no times are asserted."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import measure, plain, step
from training import distributed
from training.errors import UserError

CPU = torch.device('cpu')


def test_steps_go_on_from_epoch_to_epoch(digits, monkeypatch):
    for module in (plain, step):
        monkeypatch.setattr(module, 'BATCH_SIZE', 16)
    ours, constants = (step.make_trainer(digits[0], CPU, batch_size=16) for _ in range(2))
    steps = {
        'ours': step.our_step(ours),
        'plain': step.plain_step(digits[0], CPU),
        'constants': step.our_step(step.without_sampling(constants)),
    }
    times = measure.by_turns(steps, CPU, seconds=0)
    assert set(times) == set(steps) and all(t > 0 for t in times.values())
    assert ours.step_number == 24  # two a turn


def test_many_images_are_written_and_mapped(tmp_path):
    images = np.load(step.many_images(1001, tmp_path), mmap_mode='r')
    assert images.shape == (1001, 28, 28) and images.std() > 60


def test_one_process_and_several_take_steps_by_turns(digits, monkeypatch):
    server = torch.multiprocessing.get_context('forkserver')  # it imports PyTorch once for all four
    server.set_forkserver_preload(['benchmarks.step', 'sklearn.decomposition'])
    monkeypatch.setattr(measure, 'SPAWN', server)
    rates = step.one_and_many(2, digits[0], CPU, 16, seconds=0)
    assert list(rates) == ['one', 'together', 'apart'] and all(rate > 0 for rate in rates.values())


def test_each_process_has_its_share(digits, monkeypatch):
    monkeypatch.setattr(distributed, 'share', lambda n: slice(16, 32))
    assert step.make_trainer(digits[0], CPU).images.n == 16


def test_too_few_images_are_said(digits, monkeypatch):
    monkeypatch.setattr(step, 'load_images', lambda path: (digits[0].part(slice(63)), digits[1]))
    monkeypatch.setattr('sys.argv', ['step.py', '--device', 'cpu'])
    with pytest.raises(UserError, match='expected 64 training images or more, a batch, got 63'):
        step.main()


def test_a_disk_too_small_for_many_images_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match='expected 1 MB of disk for temporary files, got 0 MB'):
        step.many_images(1001, tmp_path)


def test_a_file_in_place_of_the_folder_is_said(digits, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(step, 'load_images', lambda path: digits)
    monkeypatch.setattr('sys.argv', ['step.py', '--device', 'cpu', '--dir', str(tmp_path / 'file')])
    with pytest.raises(UserError, match='expected --dir to be a folder, got the file'):
        step.main()
