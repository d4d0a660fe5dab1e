"""What the compiler makes of the kernels, GPU or not: registers, spills, width of the accesses, instructions, bytes.

    python -m kernels.compiled [--json FILE]

Compiles both kernels of every family, D = 60, with the rows gathered from a table, and that of Adam for such rows of
120, for sm_80 and sm_90 (NVIDIA A100, H100 and H200) and gfx942 (AMD MI300), float32, and reads the machine code. No GPU
is needed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import adam, fused
from kernels.families import FAMILIES

TARGETS = {
    'sm_80': GPUTarget('cuda', 80, 32),
    'sm_90': GPUTarget('cuda', 90, 32),
    'gfx942': GPUTarget('hip', 'gfx942', 64),
}
BYTES = {'dword': 4, 'dwordx2': 8, 'dwordx3': 12, 'dwordx4': 16}  # in the names of AMD's instructions


def compile_kernel(dist, backward, d, target, dtype, to_table):
    """The compiled kernel for a table [N, P, D], D = d, of Triton's type dtype, rows given, other inputs contiguous."""
    family, p = FAMILIES[dist], len(FAMILIES[dist].parameters)
    compute = 'fp64' if dtype == 'fp64' else 'fp32'
    rows, block = fused.tile(d, 8 if dtype == 'fp64' else 4)
    signature = dict(table='*' + dtype, rows='*i64', ids='constexpr', draws='constexpr')
    constants = dict(
        ids=None,
        draws=None,
        STRIDE_N=p * d,
        STRIDE_P=d,
        STRIDE_D=1,
        P=p,
        D=d,
        COMPUTE=triton.language.dtype(compute),
        NOISE=family.noise_triton,
        ROWS=rows,
        BLOCK=block,
    )
    if backward:
        kernel = fused.sample_kl_gradient_kernel
        signature |= dict(dz='*' + dtype, dkl='*' + compute, gradient='*' + (compute if to_table else dtype))
        constants |= dict(
            DZ_STRIDE_B=d, DZ_STRIDE_D=1, DKL_STRIDE=1, GRADIENT=family.gradient_triton, TO_TABLE=to_table
        )
    else:
        kernel = fused.sample_kl_kernel
        signature |= dict(z='*' + dtype, kl='*' + compute)
        constants |= dict(SAMPLE_KL=family.sample_kl_triton)
    signature |= dict.fromkeys(fused.NUMBERS, 'i32')
    return compile_for(target, kernel, signature, constants, fused.WARPS)


def compile_adam(k, target, dtype):
    """The compiled kernel of Adam for a table [N, K], K = k, of Triton's type dtype, lr a number."""
    rows, block = adam.tile(k)
    signature = dict.fromkeys(('table', 'm', 'v', 'gradient'), '*' + dtype)
    signature |= dict(count='*i64', rows='*i64', lr='fp64', N='i32', B='i32')
    constants = dict(
        lr_tensor=None,
        K=k,
        BETA1=0.9,
        BETA2=0.999,
        LOG_BETA1=adam.log(0.9),
        LOG_BETA2=adam.log(0.999),
        EPS=1e-8,
        COMPUTE=triton.language.dtype(dtype),
        ROWS=rows,
        BLOCK=block,
    )
    return compile_for(target, adam.row_adam_kernel, signature, constants, adam.WARPS)


def compile_for(target, kernel, signature, constants, warps):
    signature |= dict.fromkeys(constants, 'constexpr')
    signature = {name: signature[name] for name in kernel.arg_names}
    # PyTorch's allocations are aligned to 16 bytes and more, and the launcher tells the compiler.
    aligned = {
        (i,): [['tt.divisibility', 16]] for i, kind in enumerate(signature.values()) if kind.startswith('*')
    }
    return triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=target,
        options=dict(num_warps=warps, enable_fp_fusion=True),
    )


def read_nvidia(kernel):
    """Registers, bytes of local memory and spills, machine instructions, accesses in bytes a lane."""
    tools = Path(triton.__file__).parent / 'backends/nvidia/bin'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.asm['cubin'])
        file.flush()
        usage = subprocess.run(
            [tools / 'cuobjdump', '-res-usage', file.name], capture_output=True, text=True, check=True
        ).stdout
        listing = subprocess.run(
            [tools / 'nvdisasm', '-c', file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = {name: int(value) for name, value in re.findall(r'(REG|STACK|LOCAL|SHARED):(\d+)', usage)}
    code = re.findall(r'^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d\s+)?([A-Z][\w.]*)', listing, re.M)
    accesses = re.findall(r'\b(ld|st)\.global\S*?(?:\.v(\d))?\.[bf](\d+)', kernel.asm['ptx'])
    return dict(
        registers=usage['REG'],
        local_bytes=usage['STACK'] + usage['LOCAL'],
        shared_bytes=usage['SHARED'],
        spills=sum(name.startswith(('LDL', 'STL')) for name in code),
        instructions=sum(name != 'NOP' for name in code),
        loads=sorted(int(v or 1) * int(bits) // 8 for kind, v, bits in accesses if kind == 'ld'),
        stores=sorted(int(v or 1) * int(bits) // 8 for kind, v, bits in accesses if kind == 'st'),
    )


def read_amd(kernel):
    """The same for AMD."""
    text = kernel.asm['amdgcn']

    def metadata(name):
        return int(re.search(rf'\.{name}:\s+(\d+)', text).group(1))

    def widths(kind):
        found = re.findall(rf'(?:global|buffer)_{kind}_(dwordx?\d?)\b', text)
        return sorted(BYTES[name] for name in found)

    return dict(
        registers=metadata('vgpr_count'),
        local_bytes=metadata('private_segment_fixed_size'),
        shared_bytes=metadata('group_segment_fixed_size'),
        spills=metadata('vgpr_spill_count') + metadata('sgpr_spill_count'),
        instructions=len(re.findall(r'^\t[vsgb]\w*_\w+', text, re.M)),
        loads=widths('load'),
        stores=widths('store'),
    )


def read(kernel, target, tile, warps):
    """What was found in a kernel's code, as a dict for JSON; tile: its rows and columns."""
    found = (read_amd if target.startswith('gfx') else read_nvidia)(kernel)
    elements = tile[0] * tile[1] / (warps * TARGETS[target].warp_size)  # of a tile, a lane
    return dict(
        target=target,
        elements_a_lane=elements,
        instructions_an_element=round(found['instructions'] / elements, 1),
        **found,
    )


def report(dist, backward, d, target, dtype='fp32', to_table=False):
    """The findings in one kernel of a family; arguments as in compile_kernel."""
    kernel = compile_kernel(dist, backward, d, TARGETS[target], dtype, to_table)
    return dict(
        dist=dist,
        kernel='backward' if backward else 'forward',
        D=d,
        **read(kernel, target, fused.tile(d, 8 if dtype == 'fp64' else 4), fused.WARPS),
    )


def report_adam(k, target, dtype='fp32'):
    """The same for Adam; D is the length of a row."""
    return dict(
        dist='row',
        kernel='adam',
        D=k,
        **read(compile_adam(k, TARGETS[target], dtype), target, adam.tile(k), adam.WARPS),
    )


def reports():
    return [
        report(dist, backward, 60, target)
        for dist in FAMILIES
        for backward in (False, True)
        for target in TARGETS
    ] + [report_adam(120, target) for target in TARGETS]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the same there')
    args = parser.parse_args()
    if fused.INTERPRETED:
        sys.exit('expected a compiler, got TRITON_INTERPRET=1; unset it')
    found = reports()
    print(f'triton {triton.__version__}; loads and stores: count x bytes a lane')
    for r in found:
        loads, stores = (
            ', '.join(f'{r[kind].count(n)} x {n}' for n in sorted(set(r[kind]))[::-1])
            for kind in ('loads', 'stores')
        )
        print(
            f'{r["dist"]:12}{r["kernel"]:9} D {r["D"]:4} {r["target"]:7} {r["registers"]:4} registers, {r["spills"]} spills, '
            f'{r["local_bytes"]} bytes local, {r["instructions_an_element"]:6} instructions an element, '
            f'loads {loads}; stores {stores}'
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
