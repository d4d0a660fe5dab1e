"""How fast the kernels are, compared with the device's bandwidth and with what a user would write.

    python -m kernels.benchmark [--dir DIR]

First it copies a large tensor: the bandwidth of this copy is the limit. Then, for every family and from the
course's 64 x 60 to 2^26 elements, it times sampling with KL, forward and forward + backward:

    distributions   composed from torch.distributions, as a user would
    compiled        the same through torch.compile: on a GPU, from 1,024 samples on, not the full covariance
    sample_kl       ours: the Triton kernels on a GPU, the PyTorch reference on a CPU

A CPU stops at 2^20 elements. Last, it times Adam's step for 64 rows of latents. On a GPU the times are those
of its work; what the host takes to launch it from Python is a column of its own.

The bytes are those that must move: parameters and gradients read once, results and gradients written once, no
noise. The table is printed; DIR gets benchmark.json and benchmark.png.
"""

import argparse
import datetime
import itertools
import json
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.distributions import Exponential, Laplace, MultivariateNormal, Normal, Uniform, kl_divergence
from torch.utils.benchmark import Timer

import kernels
from kernels.command import run_command, writing
from kernels.elementary import triton
from kernels.families.gaussian_full import scale_tril, unpack

SIZES = [(64, 60), (2**10, 64), (2**14, 64), (2**17, 64), (2**20, 64)]  # B, D
FULL_SIZES = [(64, 60), (2**10, 60), (2**14, 60), (2**16, 60)]  # of a full covariance: up to 2^27 parameters
UNVALIDATED = dict(validate_args=False)  # reading the values would make the host wait for a GPU


def uniform(params):
    w = 1 / torch.cosh(params[:, 1])
    centre = (1 - w) * torch.tanh(params[:, 0])
    return Uniform(centre - w, centre + w, **UNVALIDATED), Uniform(-1.0, 1.0)


def full(params):
    mu, s, t = unpack(params)
    identity, scale = torch.eye(mu.shape[1], device=mu.device), scale_tril(s, t)
    return tuple(
        MultivariateNormal(mean, scale_tril=tril, **UNVALIDATED)
        for mean, tril in ((mu, scale), (mu.new_zeros(mu.shape[1]), identity))
    )


POSTERIORS = {  # params -> posterior and prior
    'gaussian': lambda p: (Normal(p[:, 0], p[:, 1].exp(), **UNVALIDATED), Normal(0.0, 1.0)),
    'laplace': lambda p: (Laplace(p[:, 0], p[:, 1].exp(), **UNVALIDATED), Laplace(0.0, 1.0)),
    'exponential': lambda p: (Exponential(p[:, 0].exp(), **UNVALIDATED), Exponential(1.0)),
    'uniform': uniform,
    'gaussian-full': full,
}


def composed(params, dist):
    q, prior = POSTERIORS[dist](params)
    kl = kl_divergence(q, prior)
    return q.rsample(), kl.sum(-1) if kl.dim() > 1 else kl


def seconds(function, device):
    """Median time of a call."""
    if device == 'cuda':
        return gpu_seconds(function)
    timer = Timer('function()', globals={'function': function}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.5).median


def gpu_seconds(function, repeats=25):
    """Median time of a call's work on the GPU, whose caches are emptied before it."""
    cache = torch.empty(2**28, dtype=torch.int8, device='cuda')
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    function()  # compiles
    for start, end in events:
        cache.zero_()
        torch.cuda._sleep(5_000_000)  # cycles, about 3 ms, in which the host launches all that follows
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def host_seconds(function):
    """What a call takes on the host, which does not wait for the GPU."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        function()
    ended = time.perf_counter()
    torch.cuda.synchronize()
    return (ended - started) / 20


def copy_bandwidth(device):
    """Bytes a second, read and written, of a copy much larger than the caches."""
    source = torch.ones(2**28 if device == 'cuda' else 2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def bytes_moved(params, d, backward):
    # params, z and kl; then params and their gradient, dz and dkl
    z_and_kl = len(params) * (d + 1)
    return 4 * (params.numel() + z_and_kl) + backward * 4 * (2 * params.numel() + z_and_kl)


def sizes(dist, device):
    if kernels.family(dist).packed:
        return FULL_SIZES if device == 'cuda' else FULL_SIZES[:2]
    return SIZES if device == 'cuda' else SIZES[:3]


def measure(device, ceiling):
    """A dict of results for each family, size, direction and method. ceiling: the copy's bytes a second."""
    cases, known = [(dist, size) for dist in kernels.FAMILIES for size in sizes(dist, device)], None
    for dist, (b, d) in cases:
        methods = {'distributions': composed}
        by_compiler = device == 'cuda' and b >= 1024 and not kernels.family(dist).packed
        if by_compiler and dist != known:
            # For a family once: with the second size, the compiler makes what serves all that follow.
            torch.compiler.reset()
            compiled, known = torch.compile(composed), dist
        if by_compiler:
            methods['compiled'] = compiled
        methods['sample_kl'] = lambda params, dist: kernels.sample_kl(params, dist, seed=0, step=0)
        params = (0.3 * torch.randn(b, *kernels.family(dist).shape(d), device=device)).requires_grad_()
        gradients = torch.randn(b, d, device=device), torch.randn(b, device=device)
        calls = {
            'forward': torch.no_grad()(lambda sample_kl: sample_kl(params, dist)),
            'forward + backward': lambda sample_kl: torch.autograd.grad(
                sample_kl(params, dist), params, gradients
            ),
        }
        for passes, call in calls.items():
            bound = {name: partial(call, sample_kl) for name, sample_kl in methods.items()}
            times = {name: seconds(function, device) for name, function in bound.items()}
            moved = bytes_moved(params, d, passes != 'forward')
            for name, duration in times.items():
                yield dict(
                    dist=dist,
                    batch=b,
                    dim=d,
                    passes=passes,
                    method=name,
                    microseconds=duration * 1e6,
                    gb_per_second=moved / duration / 1e9,
                    share_of_copy=moved / duration / ceiling,
                    sample_kl_is_faster_by=duration / times['sample_kl'],
                    **({'host_microseconds': 1e6 * host_seconds(bound[name])} if device == 'cuda' else {}),
                )


def measure_adam(device):
    """Microseconds of an optimiser's step for 64 rows of latents [n, 60]; the gradients are given."""
    found = []
    for n in (1_000, 1_000_000):
        rows, gradient = torch.randperm(n, device=device)[:64], torch.randn(64, 60, device=device)
        ours, sparse, dense = torch.zeros(3, n, 60, device=device).unbind()
        m, v = torch.zeros_like(ours), torch.zeros_like(ours)
        count = torch.zeros(n, dtype=torch.int64, device=device)
        sparse.requires_grad_().grad = torch.sparse_coo_tensor(
            rows[None], gradient, sparse.shape, check_invariants=False
        )
        dense.requires_grad_().grad = torch.zeros_like(ours).index_copy_(0, rows, gradient)
        steps = {
            'row_adam_': lambda: kernels.row_adam_(ours, m, v, count, rows, gradient, lr=0.1),
            'SparseAdam': torch.optim.SparseAdam([sparse]).step,
            'Adam': torch.optim.Adam([dense], fused=True).step,
        }
        found.append(dict(rows=n, **{name: 1e6 * seconds(step, device) for name, step in steps.items()}))
    return found


def draw(result, path):
    """Plot bandwidth against size, a panel for each family and pass, with the copy as a line."""
    passes, methods = (dict.fromkeys(row[key] for row in result['rows']) for key in ('passes', 'method'))
    fig = Figure(figsize=(17, 6), layout='tight')
    axes = fig.subplots(2, len(kernels.FAMILIES), sharex=True, sharey=True, squeeze=False)
    for ax, (direction, dist) in zip(axes.flat, itertools.product(passes, kernels.FAMILIES)):
        for method in methods:
            panel = dist, direction, method
            found = [row for row in result['rows'] if (row['dist'], row['passes'], row['method']) == panel]
            sizes = [row['batch'] * row['dim'] for row in found]
            ax.loglog(sizes, [row['gb_per_second'] for row in found], 'o-', label=method)
        ax.axhline(result['copy_gb_per_second'], color='grey', linestyle='--', label='copy')
        ax.set_title(f'{dist}, {direction}', fontsize=9)
        ax.set(xlabel='elements of z', ylabel='GB/s')
        ax.label_outer()
    axes[0, 0].legend(fontsize=8)
    fig.suptitle(result['device'], fontsize=10)
    with writing(path):
        fig.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--dir',
        metavar='DIR',
        type=Path,
        default=Path('runs/kernels-benchmark'),
        help='where the results go (default: %(default)s)',
    )
    args = parser.parse_args()
    if not args.dir.exists():
        args.dir.mkdir(parents=True)
    path = args.dir / 'benchmark.json'
    open(path, 'a').close()  # an error that would otherwise come after the measurements
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    versions = {'torch': torch.__version__} | ({'triton': triton.__version__} if device == 'cuda' else {})
    ceiling = copy_bandwidth(device)
    name = f'{platform.machine()} CPU, {torch.get_num_threads()} threads'
    result = dict(
        date=datetime.date.today().isoformat(),
        device=torch.cuda.get_device_name() if device == 'cuda' else name,
        **versions,
        copy_gb_per_second=ceiling / 1e9,
        rows=[],
    )

    def save():
        with writing(path):
            path.write_text(json.dumps(result, indent=1), encoding='utf-8')

    print(
        *(f'{key} {value}' for key, value in versions.items()),
        result['date'],
        result['device'],
        f'copy {ceiling / 1e9:.1f} GB/s',
        sep=', ',
    )
    print(
        f'{"family":13} {"B x D":>13} {"passes":19} {"method":14} {"us":>10} {"GB/s":>8} {"of copy":>8} '
        f'{"to sample_kl":>12} {"host us" if device == "cuda" else ""}'
    )
    for row in measure(device, ceiling):
        result['rows'].append(row)
        save()  # what is measured stays if a later case fails
        print(
            f'{row["dist"]:13} {row["batch"]:>8} x {row["dim"]:<3}{row["passes"]:>19} {row["method"]:14} '
            f'{row["microseconds"]:10.1f} {row["gb_per_second"]:8.2f} {row["share_of_copy"]:8.1%} '
            f'{row["sample_kl_is_faster_by"]:11.2f}x '
            + (f'{row["host_microseconds"]:7.0f}' if device == 'cuda' else ''),
            flush=True,
        )
    result['adam'] = measure_adam(device)
    save()
    draw(result, args.dir / 'benchmark.png')
    for row in result['adam']:
        print(
            f'Adam for 64 of {row["rows"]:,} rows of 60: row_adam_ {row["row_adam_"]:.1f} us, '
            + ', '.join(f'{name} {row[name] / row["row_adam_"]:.2f}x' for name in ('SparseAdam', 'Adam'))
        )


if __name__ == '__main__':
    run_command(main)
