"""How fast the kernels are, against what the device can do and against what a user would write.

    python -m kernels.benchmark [--dir DIR]

In one run: a large copy on the device, whose bandwidth is the ceiling; then, for every family and from the course's
64 x 60 to 2^26 elements, sampling with KL, forward and forward + backward,
    distributions   composed from torch.distributions, as a user would
    compiled        the same through torch.compile
    sample_kl       ours: on a GPU the Triton kernels, on a CPU their PyTorch twin
On a CPU without the compiled form, and up to 2^20 elements. Last, Adam's step for 64 rows of a table.

Bytes are those that have to move: parameters and gradients read once, results and gradients written once, no noise.
Prints a table; DIR gets benchmark.json and benchmark.png.
"""

import argparse
import datetime
import json
import platform
from pathlib import Path

import matplotlib
import torch
from torch.distributions import Exponential, Laplace, Normal, kl_divergence
from torch.utils.benchmark import Timer

import kernels

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

SIZES = [(64, 60), (2**10, 64), (2**14, 64), (2**17, 64), (2**20, 64)]  # B, D
POSTERIORS = {  # without validation, whose look at the values makes a GPU wait
    'gaussian': (lambda p: Normal(p[:, 0], p[:, 1].exp(), validate_args=False), Normal(0.0, 1.0)),
    'laplace': (lambda p: Laplace(p[:, 0], p[:, 1].exp(), validate_args=False), Laplace(0.0, 1.0)),
    'exponential': (lambda p: Exponential(p[:, 0].exp(), validate_args=False), Exponential(1.0)),
}


def composed(params, dist):
    posterior, prior = POSTERIORS[dist]
    q = posterior(params)
    return q.rsample(), kl_divergence(q, prior).sum(-1)


def seconds(function, device):
    """Median time of a call, the caches of a GPU cold."""
    if device == 'cuda':
        from triton.testing import do_bench

        return do_bench(function, warmup=50, rep=200, return_mode='median') / 1e3
    return (
        Timer('function()', globals={'function': function}, num_threads=torch.get_num_threads())
        .blocked_autorange(min_run_time=0.5)
        .median
    )


def copy_bandwidth(device):
    """Bytes a second, read and written, of a copy much larger than the caches."""
    source = torch.ones(2**28 if device == 'cuda' else 2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def bytes_moved(b, p, d, backward):
    forward = 4 * (b * p * d + b * d + b)  # params; z; kl
    return forward + backward * 4 * (2 * b * p * d + b * d + b)  # params, gradient; dz; dkl


def measure(device):
    ceiling = copy_bandwidth(device)
    rows = []
    for dist in kernels.FAMILIES:
        p = len(kernels.family(dist).parameters)
        for b, d in SIZES if device == 'cuda' else SIZES[:3]:
            params = 0.3 * torch.randn(b, p, d, device=device)
            learnt = params.clone().requires_grad_()
            gradients = torch.randn(b, d, device=device), torch.randn(b, device=device)
            methods = {'distributions': composed}
            if device == 'cuda':
                torch.compiler.reset()  # or the compiler gives up after eight sizes
                methods['compiled'] = torch.compile(composed, dynamic=False)
            methods['sample_kl'] = lambda params, dist: kernels.sample_kl(params, dist, seed=0, step=0)
            for backward in (False, True):
                times = {}
                for name, sample_kl in methods.items():

                    def call():
                        if backward:
                            torch.autograd.grad(sample_kl(learnt, dist), learnt, gradients)
                        else:
                            with torch.no_grad():
                                sample_kl(params, dist)

                    times[name] = seconds(call, device)
                moved = bytes_moved(b, p, d, backward)
                for name, time in times.items():
                    rows.append(
                        dict(
                            dist=dist,
                            batch=b,
                            dim=d,
                            passes='forward + backward' if backward else 'forward',
                            method=name,
                            microseconds=time * 1e6,
                            gb_per_second=moved / time / 1e9,
                            share_of_copy=moved / time / ceiling,
                            sample_kl_is_faster_by=time / times['sample_kl'],
                        )
                    )
    return ceiling, rows


def measure_adam(device):
    """Microseconds of an optimiser's step for 64 rows of a table [n, 60]; the gradients are there already."""
    found = []
    for n in (1_000, 1_000_000):
        rows, gradient = torch.randperm(n, device=device)[:64], torch.randn(64, 60, device=device)
        ours, sparse, dense = torch.zeros(3, n, 60, device=device).unbind()
        m, v, count = (
            torch.zeros_like(ours),
            torch.zeros_like(ours),
            torch.zeros(n, dtype=torch.int64, device=device),
        )
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
    """Bandwidth against size, a panel for each family and direction, the copy as a line."""
    passes = ('forward', 'forward + backward')
    fig, axes = plt.subplots(
        2, len(kernels.FAMILIES), figsize=(11, 6), sharex=True, sharey=True, squeeze=False
    )
    for axes_row, direction in zip(axes, passes):
        for ax, dist in zip(axes_row, kernels.FAMILIES):
            for method in dict.fromkeys(row['method'] for row in result['rows']):
                found = [
                    row
                    for row in result['rows']
                    if (row['dist'], row['passes'], row['method']) == (dist, direction, method)
                ]
                ax.loglog(
                    [row['batch'] * row['dim'] for row in found],
                    [row['gb_per_second'] for row in found],
                    'o-',
                    label=method,
                )
            ax.axhline(result['copy_gb_per_second'], color='grey', linestyle='--', label='copy')
            ax.set_title(f'{dist}, {direction}', fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel('elements of z')
    for ax in axes[:, 0]:
        ax.set_ylabel('GB/s')
    axes[0, 0].legend(fontsize=8)
    fig.suptitle(result['device'], fontsize=10)
    fig.tight_layout()
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
    args.dir.mkdir(parents=True, exist_ok=True)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    name = (
        torch.cuda.get_device_name()
        if device == 'cuda'
        else f'{platform.machine()} CPU, {torch.get_num_threads()} threads'
    )
    ceiling, rows = measure(device)
    adam = measure_adam(device)
    versions = {'torch': torch.__version__}
    if device == 'cuda':
        import triton

        versions['triton'] = triton.__version__
    result = dict(
        date=datetime.date.today().isoformat(),
        device=name,
        **versions,
        copy_gb_per_second=ceiling / 1e9,
        rows=rows,
        adam=adam,
    )
    print(
        ', '.join(f'{key} {value}' for key, value in versions.items()),
        result['date'],
        name,
        f'copy {ceiling / 1e9:.1f} GB/s',
        sep=', ',
    )
    print(
        f'{"family":12} {"B x D":>13} {"passes":19} {"method":14} {"us":>10} {"GB/s":>8} {"of copy":>8} {"to sample_kl":>12}'
    )
    for row in rows:
        print(
            f'{row["dist"]:12} {row["batch"]:>8} x {row["dim"]:<3}{row["passes"]:>19} {row["method"]:14} {row["microseconds"]:10.1f} '
            f'{row["gb_per_second"]:8.2f} {row["share_of_copy"]:8.1%} {row["sample_kl_is_faster_by"]:11.2f}x'
        )
    for row in adam:
        print(
            f'Adam for 64 of {row["rows"]:,} rows of 60: row_adam_ {row["row_adam_"]:.1f} us, '
            + ', '.join(f'{name} {row[name] / row["row_adam_"]:.2f}x' for name in ('SparseAdam', 'Adam'))
        )
    (args.dir / 'benchmark.json').write_text(json.dumps(result, indent=1))
    draw(result, args.dir / 'benchmark.png')


if __name__ == '__main__':
    main()
