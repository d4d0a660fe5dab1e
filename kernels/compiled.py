"""What the compiler makes of the kernels: registers, spills, width of memory accesses, instructions.

    python -m kernels.compiled [--json FILE]

Compiles both kernels of every family for D = 60 and given rows, and that of Adam for rows of 120, in
float32, for sm_80 and sm_90 (NVIDIA A100; H100 and H200) and gfx942 (AMD MI300), and reads the machine code.
No GPU is needed.
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import adam, full, fused
from kernels.command import run_command, writing
from kernels.elementary import INTERPRETED
from kernels.families import FAMILIES

TARGETS = {
    'sm_80': GPUTarget('cuda', 80, 32),
    'sm_90': GPUTarget('cuda', 90, 32),
    'gfx942': GPUTarget('hip', 'gfx942', 64),
}
BYTES = {'dword': 4, 'dwordx2': 8, 'dwordx3': 12, 'dwordx4': 16}  # in the names of AMD's instructions


def report(
    dist: str, backward: bool, d: int, target: str, dtype: str = 'fp32', scatter: bool = False
) -> dict:
    """The findings in one kernel of a family, as a dict for JSON.

    The kernel is that for contiguous params [N, P, D], D = d, of Triton's type dtype, with rows given and
    without ids and draws.
    """
    family, compute = FAMILIES[dist], 'fp64' if dtype == 'fp64' else 'fp32'
    module = full if family.packed else fused
    signature = dict(params_ptr='*' + dtype, rows_ptr='*i64', **dict.fromkeys(fused.SCALARS, 'i32'))
    with torch.device('meta'):  # only shape and strides
        params = torch.empty(1, *family.shape(d), dtype=torch.float64 if dtype == 'fp64' else torch.float32)
        constants = full.layout(params) if family.packed else fused.layout(params)[1]
    constants |= dict(
        ids_ptr=None, draws_ptr=None, D=d, COMPUTE=triton.language.dtype(compute), NOISE=family.noise_triton
    )
    formulas = FAMILIES['gaussian'] if family.packed else family
    if backward:
        kernel = module.sample_kl_gradient_kernel
        signature |= dict(dz_ptr='*' + dtype, dkl_ptr='*' + compute)
        signature |= dict(gradient_ptr='*' + (compute if scatter else dtype))
        constants |= dict(DZ_STRIDE_B=d, DZ_STRIDE_D=1, DKL_STRIDE=1)
        constants |= dict(GRADIENT=formulas.gradient_triton, SCATTER=scatter)
    else:
        kernel = module.sample_kl_kernel
        signature |= dict(z_ptr='*' + dtype, kl_ptr='*' + compute)
        constants |= dict(SAMPLE_KL=formulas.sample_kl_triton)
    elements = constants['COUNT' if family.packed else 'ROWS'] * constants['BLOCK']
    found = compile_and_read(kernel, target, signature, constants, elements, module.WARPS)
    return dict(dist=dist, kernel='backward' if backward else 'forward', D=d, **found)


def report_adam(k: int, target: str, dtype: str = 'fp32') -> dict:
    """The same for Adam, for latents [N, K], K = k, with a number as lr."""
    signature = dict.fromkeys(('latents_ptr', 'm_ptr', 'v_ptr', 'gradient_ptr'), '*' + dtype)
    signature |= dict(count_ptr='*i64', rows_ptr='*i64', lr='fp64', N='i32', B='i32')
    constants = dict(
        lr_ptr=None,
        K=k,
        BETA1=0.9,
        BETA2=0.999,
        LOG_BETA1=adam.log(0.9),
        LOG_BETA2=adam.log(0.999),
        EPS=1e-8,
        COMPUTE=triton.language.dtype(dtype),
    )
    rows, block, warps = adam.tile(k)
    constants |= dict(ROWS=rows, BLOCK=block)
    found = compile_and_read(adam.row_adam_kernel, target, signature, constants, rows * block, warps)
    return dict(dist='row', kernel='adam', D=k, **found)


def compile_and_read(kernel, target, signature, constants, elements, warps):
    """Compile a kernel and read its machine code.

    signature: the types of the arguments that are not constants. elements: of a tile.
    """
    signature |= dict.fromkeys(constants, 'constexpr')
    signature = {name: signature[name] for name in kernel.arg_names}
    # PyTorch aligns its allocations to at least 16 bytes, and Triton's launcher passes that to the compiler.
    aligned = {
        (i,): [['tt.divisibility', 16]] for i, kind in enumerate(signature.values()) if kind.startswith('*')
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=TARGETS[target],
        options=dict(num_warps=warps, enable_fp_fusion=True),
    )
    found = (read_amd if target.startswith('gfx') else read_nvidia)(compiled)
    elements /= warps * TARGETS[target].warp_size  # in a lane
    return dict(
        target=target,
        elements_a_lane=elements,
        instructions_an_element=round(found['instructions'] / elements, 1),
        **found,
    )


def read_nvidia(kernel):
    """Registers, bytes of memory, spills and machine instructions; each load and store in bytes a lane."""
    tools = Path(triton.__file__).parent / 'backends/nvidia/bin'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.asm['cubin'])
        file.flush()
        usage, listing = (
            subprocess.run(
                [tools / tool, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, option in (('cuobjdump', '-res-usage'), ('nvdisasm', '-c'))
        )
    usage = {name: int(value) for name, value in re.findall(r'(REG|STACK|LOCAL|SHARED):(\d+)', usage)}
    code = re.findall(r'^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d\s+)?([A-Z][\w.]*)', listing, re.M)
    accesses = re.findall(r'\b(ld|st)\.global\S*?(?:\.v(\d))?\.[bf](\d+)', kernel.asm['ptx'])
    return dict(
        registers=usage['REG'],
        local_bytes=usage['STACK'] + usage['LOCAL'],
        shared_bytes=usage['SHARED'],
        spills=sum(name.startswith(('LDL', 'STL')) for name in code),
        instructions=sum(name != 'NOP' for name in code),
        machine_loads=sum(name.startswith('LDG') for name in code),
        machine_stores=sum(name.startswith('STG') for name in code),
        loads=sorted(int(v or 1) * int(bits) // 8 for kind, v, bits in accesses if kind == 'ld'),
        stores=sorted(int(v or 1) * int(bits) // 8 for kind, v, bits in accesses if kind == 'st'),
    )


def read_amd(kernel):
    """The same for AMD."""
    text = kernel.asm['amdgcn']

    def metadata(name):
        return int(re.search(rf'\.{name}:\s+(\d+)', text).group(1))

    def widths(kind):
        return sorted(BYTES[x] for x in re.findall(rf'(?:global|buffer)_{kind}_(dwordx?\d?)\b', text))

    return dict(
        registers=metadata('vgpr_count'),
        local_bytes=metadata('private_segment_fixed_size'),
        shared_bytes=metadata('group_segment_fixed_size'),
        spills=metadata('vgpr_spill_count') + metadata('sgpr_spill_count'),
        instructions=len(re.findall(r'^\t[vsgb]\w*_\w+', text, re.M)),
        loads=widths('load'),
        stores=widths('store'),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the same there')
    args = parser.parse_args()
    if INTERPRETED:
        sys.exit('expected a compiler, got TRITON_INTERPRET=1; unset it')
    if args.json:
        open(args.json, 'a').close()  # an error that would otherwise come after the compilations
    found = [report(*kernel) for kernel in itertools.product(FAMILIES, (False, True), [60], TARGETS)]
    found += [report_adam(k, target) for k in (120, 1890) for target in TARGETS]
    if args.json:
        with writing(args.json):
            args.json.write_text(json.dumps(found, indent=1), encoding='utf-8')
    print(f'triton {triton.__version__}; loads and stores: count x bytes a lane')
    for r in found:
        loads, stores = (
            ', '.join(f'{r[kind].count(n)} x {n}' for n in sorted(set(r[kind]))[::-1])
            for kind in ('loads', 'stores')
        )
        print(
            f'{r["dist"]:14}{r["kernel"]:9} D {r["D"]:4} {r["target"]:7} {r["registers"]:4} registers, '
            f'{r["spills"]} spills, {r["local_bytes"]} bytes local, {r["instructions_an_element"]:6} '
            f'instructions an element, loads {loads}; stores {stores}'
        )


if __name__ == '__main__':
    run_command(main)
