import platform

import pytest
import torch

from training.command import pick_device
from training.errors import UserError


@pytest.mark.parametrize('name', ['tpu', 'mps', 'cuda:99', 'cpu:x'])
def test_a_device_that_is_not_here(name):
    with pytest.raises(UserError, match='expected --device to be'):
        pick_device(name)


def test_a_device_by_its_name():
    assert pick_device('cpu') == torch.device('cpu')


NEW_PAGES = """
import resource, torch
from training.command import keep_freed_memory
keep_freed_memory()
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2 ** 24)   # 2 ** 14 pages
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="mallopt, which keeps freed memory, is glibc's")
def test_freed_memory_is_kept_for_the_next_tensor(run_code):
    # In a process of its own: once memory has run out, as some tests want it, malloc works in another way.
    pages = [int(line) for line in run_code(NEW_PAGES).split()]
    assert len(pages) == 30 and max(pages[20:]) < 100  # the first tensors find no room yet
