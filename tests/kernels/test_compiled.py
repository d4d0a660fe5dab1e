"""The machine code of the kernels, on any machine: what they must be made of to be fast."""

import itertools
import json
import runpy
import sys

import pytest

import kernels

if sys.platform != 'linux':
    pytest.skip('triton is published for Linux only', allow_module_level=True)

FULL = 'gaussian-full'
# Parameters of a dimension, of the families that have the same number for each.
P = {dist: len(family.parameters) for dist, family in kernels.FAMILIES.items() if dist != FULL}

# Triton's own path from a call to a compiled kernel, for a GPU that is not there: all but the launch itself.
# It prints how many versions of each kernel were compiled.
LAUNCHER = """
import torch, triton
from triton.backends.compiler import GPUTarget
class Driver:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_current_target = lambda self: GPUTarget('cuda', 90, 32)
    get_active_torch_device = lambda self: torch.device('cpu')
triton.runtime.driver.set_active(Driver())
from kernels import adam, fused
for kernel in (fused.sample_kl_kernel, fused.sample_kl_gradient_kernel, adam.row_adam_kernel):
    def run(*args, kernel=kernel, grid, warmup, **kwargs):
        return type(kernel).run(kernel, *args, grid=grid, warmup=True, **kwargs)
    kernel.run = run
compiled = lambda kernel: sum(len(cache[0]) for cache in kernel.device_caches.values())
params, i = torch.randn(100, 2, 8), torch.arange(7)
def both(params=params, seed=0, step=0, step_tensor=None, rows=None, ids=None, draw=0, draws=None):
    arguments = params, 'gaussian', seed, step, step_tensor, rows, ids, draw, draws
    z, kl = fused.sample_kl(*arguments)
    fused.sample_kl_gradient(z, kl, False, *arguments)
both()
for seed in (1, 16, 2 ** 63 - 1, -2 ** 63, -1): both(seed=seed)
for word in (1, 16, 2 ** 31, 2 ** 32 - 1): both(step=word), both(draw=word)
both(params[:1]), both(params[:16])
print(compiled(fused.sample_kl_kernel), compiled(fused.sample_kl_gradient_kernel))
both(rows=i), both(rows=i[1:])
print(compiled(fused.sample_kl_kernel), compiled(fused.sample_kl_gradient_kernel))
both(rows=i, ids=i, draws=i, step_tensor=i[0]), both(rows=i[:0])
latents, count = torch.randn(100, 8), torch.arange(100)
def step(rows, lr, n=100):
    state = latents[:n], latents[:n], latents[:n], count[:n]
    adam.launch(*state, rows, latents[:len(rows)], lr, 0.9, 0.999, 1e-8)
for lr in (0, 1, 1.0, 0.1): step(i, lr)
step(i[:1], 0.1), step(i[1:], 0.1), step(torch.arange(16), 0.1), step(i[:1], 0.1, 1), step(i[:0], 0.1)
print(compiled(adam.row_adam_kernel))
step(i, torch.tensor(0.1)), step(i, torch.ones(2)[1])
print(compiled(adam.row_adam_kernel))
"""


@pytest.fixture(scope='module')
def found(tmp_path_factory, run_code):
    """What one program without Triton's interpreter found: 'reports', 'others' and 'versions'."""
    path = tmp_path_factory.mktemp('compiled') / 'reports.json'
    output = run_code(f"""
import runpy, sys
sys.argv[1:] = ['--json', {str(path)!r}]
runpy.run_module('kernels.compiled', run_name='__main__')
print('others')
from kernels.compiled import FAMILIES, report, report_adam
for dist in FAMILIES:
    for dtype, scatter in (('fp64', False), ('bf16', False), ('fp16', False), ('fp32', True)):
        found = report(dist, True, 128, 'sm_90', dtype, scatter)
        print(dist, dtype, scatter, found['spills'] + found['local_bytes'])
for k, dtype in ((120, 'fp64'), (61, 'fp32'), (1000, 'fp32')):
    found = report_adam(k, 'sm_90', dtype)
    print('adam', k, dtype, found['spills'] + found['local_bytes'])
print('versions')
{LAUNCHER}""")
    printed, output = output.split('others\n')
    assert 'registers' in printed
    others, versions = output.split('versions\n')
    return dict(reports=json.loads(path.read_text()), others=others, versions=versions)


def test_every_kernel_is_compiled_for_every_target(found):
    assert {(r['dist'], r['kernel'], r['target']) for r in found['reports']} == {
        (*kernel, target)
        for kernel in [*itertools.product(kernels.FAMILIES, ('forward', 'backward')), ('row', 'adam')]
        for target in ('sm_80', 'sm_90', 'gfx942')
    }


def test_nothing_spills(found):
    for r in found['reports']:
        assert (r['spills'], r['local_bytes']) == (0, 0), r


def test_accesses_are_16_bytes_wide_and_move_what_the_design_says(found):
    for r in found['reports']:
        if r['dist'] == FULL or r['D'] == 1890:
            continue
        p = P.get(r['dist'], 0)
        # bytes an element
        read, written = {'forward': (4 * p, 4), 'backward': (4 * p + 4, 4 * p), 'adam': (16, 12)}[r['kernel']]
        wide_loads, wide_stores = (sum(n for n in r[kind] if n == 16) for kind in ('loads', 'stores'))
        assert (wide_loads, wide_stores) == (read * r['elements_a_lane'], written * r['elements_a_lane']), r
        # The rest belongs to rows, of which a lane has at most one for four elements: an index of 8 bytes,
        # kl or dkl of 4, each perhaps in two layouts.
        assert sum(n != 16 for n in r['loads']) <= 12 and r['stores'].count(4) <= 1, r


def test_a_full_covariance_is_read_and_written_once(found):
    for r in found['reports']:
        if r['dist'] == FULL and r['target'] != 'gfx942':
            # T in blocks of 4 x 16, a number a lane: 36 blocks up to row 60 have columns below the diagonal.
            # The rest: mu, s and dz, perhaps in two layouts.
            assert 36 <= r['machine_loads'] <= 36 + 3 * 2 * 8 + 4, r
            stores = r['machine_stores'] - 2  # of z, or of the gradient in mu
            assert stores <= 1 + (36 + 2 if r['kernel'] == 'backward' else 0), r


def test_adam_for_long_rows_moves_8_bytes_at_once(found):
    for r in found['reports']:
        if r['D'] == 1890:  # rows start at multiples of 8 bytes
            wide = [sum(n >= 8 for n in r[kind]) * 8 for kind in ('loads', 'stores')]
            assert wide[0] >= 16 * r['elements_a_lane'] and wide[1] == 12 * r['elements_a_lane'], r


def test_instructions_stay_below_what_the_bandwidth_leaves_time_for(found):
    for r in found['reports']:
        if r['target'] == 'sm_90' and r['dist'] == FULL:
            # Each of an H200's 132 multiprocessors issues 4 instructions a cycle, in which a copy moves 19
            # bytes (4.3 TB/s at 1.7 GHz), and an H100's 13 (3.0 TB/s at 1.75 GHz). A sample's K = 1890
            # numbers are two warps' work, without a loop. The forward pass takes more than an H200 allows.
            forward = r['kernel'] == 'forward'
            moved = 1890 * 4 * (1 if forward else 2)
            assert 2 * r['instructions'] <= 4 * moved / (13 if forward else 19), r
        elif r['target'] == 'sm_90':
            # Forward about 80, at 12 bytes an element. Backward and Adam move more bytes, which take more
            # time.
            assert r['instructions_an_element'] <= (85 if r['kernel'] == 'forward' else 100), r


def test_other_types_and_the_sum_into_params_do_not_spill(found):
    lines = found['others'].splitlines()
    assert len(lines) == 4 * len(kernels.FAMILIES) + 3 and all(line.endswith(' 0') for line in lines), lines


def test_the_launcher_takes_the_arguments_and_compiles_once_for_all_values(found):
    assert found['versions'].split() == ['1', '1', '2', '2', '1', '2']


def test_the_command_refuses_to_run_under_the_interpreter(monkeypatch):
    monkeypatch.setattr('kernels.elementary.INTERPRETED', True)
    monkeypatch.setattr(sys, 'argv', ['kernels.compiled'])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module('kernels.compiled', run_name='__main__')
    assert exit.value.code == 'expected a compiler, got TRITON_INTERPRET=1; unset it'
