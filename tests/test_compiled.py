"""The machine code of the kernels, on any machine: what they must be made of to be fast."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

import kernels
from tests.test_kernels import run

pytest.importorskip('triton')
P = {dist: len(family.parameters) for dist, family in kernels.FAMILIES.items()}


@pytest.fixture(scope='module')
def reports(tmp_path_factory):
    path = tmp_path_factory.mktemp('compiled') / 'reports.json'
    assert 'registers' in run(f'import sys, runpy; sys.argv[1:] = ["--json", {str(path)!r}]; '
                              f'runpy.run_module("kernels.compiled", run_name="__main__")')
    return json.loads(path.read_text())


def test_every_kernel_is_compiled_for_every_target(reports):
    assert {(r['dist'], r['kernel'], r['target']) for r in reports} == {
        (dist, kernel, target) for dist in P for kernel in ('forward', 'backward') for target in ('sm_80', 'sm_90', 'gfx942')}


def test_nothing_spills(reports):
    for r in reports:
        assert (r['spills'], r['local_bytes']) == (0, 0), r


def test_accesses_are_16_bytes_wide_and_move_what_the_design_says(reports):
    for r in reports:
        p = P[r['dist']]
        read, written = (4 * p + 4, 4 * p) if r['kernel'] == 'backward' else (4 * p, 4)   # bytes an element
        wide_loads, wide_stores = (sum(n for n in r[kind] if n == 16) for kind in ('loads', 'stores'))
        assert (wide_loads, wide_stores) == (read * r['elements_a_lane'], written * r['elements_a_lane']), r
        # The rest belongs to rows, of which a lane has at most one for four elements: numbers of 8 bytes, kl or dkl of
        # 4, each perhaps in two layouts.
        assert sum(n != 16 for n in r['loads']) <= 12 and r['stores'].count(4) <= 1, r


def test_instructions_stay_below_what_the_bandwidth_leaves_time_for(reports):
    for r in reports:
        if r['target'] == 'sm_90':
            # Forward about 80 (at 12 bytes an element), backward more bytes and so more time.
            assert r['instructions_an_element'] <= (85 if r['kernel'] == 'forward' else 100), r


def test_other_types_and_the_sum_into_the_table_do_not_spill():
    output = run("""
from kernels.compiled import FAMILIES, report
for dist in FAMILIES:
    for dtype, to_table in (('fp64', False), ('bf16', False), ('fp16', False), ('fp32', True)):
        found = report(dist, True, 128, 'sm_90', dtype, to_table)
        print(dist, dtype, to_table, found['spills'] + found['local_bytes'])""")
    lines = output.splitlines()
    assert len(lines) == 12 and all(line.endswith(' 0') for line in lines), output


def test_the_interpreter_is_named_as_what_is_in_the_way():
    result = subprocess.run([sys.executable, '-m', 'kernels.compiled'], cwd=Path(__file__).parent.parent, capture_output=True,
                            text=True, env={**__import__('os').environ, 'TRITON_INTERPRET': '1'})
    assert result.returncode == 1 and result.stderr.strip() == 'expected a compiler, got TRITON_INTERPRET=1; unset it'
