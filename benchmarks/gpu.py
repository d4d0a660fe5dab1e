"""All that a GPU is to show, in twenty minutes on a bare machine. On a CPU the same parts run small.

Usage:
    python -m benchmarks.gpu                       all parts
    python -m benchmarks.gpu --parts steps table   some of them; the figures of the others stay

Each part is a process of its own with a time limit, and leaves PART.json, which has each row as soon as it
is measured, and PART.log. Where one fails, the others go on. gpu.md, a page of tables, and table.png show
what is there.
"""

import contextlib
import datetime
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from benchmarks.measure import by_turns, exit_on_sigterm, peak_memory
from benchmarks.step import make_trainer, many_images, our_step, usual_step
from benchmarks.whole_run import time_run
from evaluation import save_figure
from experiments.scripts import markdown_table
from training import (
    UserError,
    data_path_flag,
    device_flag,
    flag,
    load_images,
    parse_flags,
    pick_device,
    read_json,
    run_command,
    write_json,
)
from training.checkpoints import read_metrics

# How a step is launched -> changes of the configuration, and whether torch.compile compiles the decoder.
LAUNCHES = {
    'one by one': (dict(eager=True), False),
    'CUDA graph': ({}, False),
    'one by one, torch.compile': (dict(eager=True), True),
    'CUDA graph, torch.compile': ({}, True),
    'CUDA graph, --bfloat16': (dict(bfloat16=True), False),
}
MINUTES = {'tests': 5, 'kernels': 4, 'steps': 3, 'runs': 3, 'table': 3, 'full': 2}  # at most, of the parts


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a GPU is to show: tests and speed of the kernels, training steps, whole runs, large
    tables of latents, 60,000 images."""

    parts: list[str] = flag(
        tuple(MINUTES),
        f'one or several of {", ".join(MINUTES)} (default: all)',
        choices=list(MINUTES),
        nargs='+',
        metavar='PART',
    )
    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    device: str | None = device_flag()
    dir: Path = flag(Path('runs/gpu'), 'where the figures go', Path, metavar='DIR')


def attempt(measure: Callable[[], dict]) -> dict:
    """What measure returns, or its error as text: the other rows of a table do not wait for it."""
    try:
        return measure()
    except Exception as error:
        return {'error': f'{type(error).__name__}: {error}'.splitlines()[0]}


# ------------------------------------------------------------ the parts: generators of rows of their tables


def run_tests(options: Options, device: torch.device) -> Iterator[dict]:
    """The kernels' tests on this device, those of CUDA graphs and of whole runs. The log has what failed."""
    paths = ['tests/kernels', 'tests/training/test_cuda_graph.py', 'tests/commands/test_on_gpu.py']
    if device.type == 'cpu':
        paths = ['tests/kernels/test_noise.py', *paths[1:]]
    command = [sys.executable, '-m', 'pytest', '-n', 'auto', '-q', '-rfE', *paths]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    print(output)
    found = {word: int(number) for number, word in re.findall(r'(\d+) (passed|failed|skipped|error)', output)}
    if not found:
        raise UserError('expected a summary of the tests, got none')
    yield {name: found.get(name, 0) for name in ('passed', 'failed', 'error', 'skipped')}


def measure_kernels(options: Options, device: torch.device) -> Iterator[dict]:
    """python -m kernels.benchmark, whose own folder has its plot."""
    command = [sys.executable, '-m', 'kernels.benchmark', '--dir', str(options.dir / 'kernels')]
    path = options.dir / 'kernels' / 'benchmark.json'
    path.unlink(missing_ok=True)
    try:
        subprocess.run(command, check=True)
    finally:
        if path.exists():
            yield from read_json(path)['rows']


def measure_steps(options: Options, device: torch.device) -> Iterator[dict]:
    """A training step as it is launched in different ways."""
    train_set, _ = load_images(options.data_path)
    cases = [('groupnorm', 64), ('groupnorm', 256), ('groupnorm', 1024), ('dcgan7x7', 64)]
    for decoder, batch_size in cases if device.type == 'cuda' else [('groupnorm', 16)]:
        case, steps = dict(decoder=decoder, batch_size=batch_size), {}

        def start(launch):
            changes, compiled = LAUNCHES[launch]
            trainer = make_trainer(train_set, device, **case, **changes)
            if compiled:
                trainer.model.decoder.compile()
            step = our_step(trainer)
            for _ in range(5):  # three warm up, the fourth is captured
                step()
            return {'step': step}

        # A CPU has no graphs: their rows would repeat the others.
        launches = [name for name in LAUNCHES if device.type == 'cuda' or 'graph' not in name]
        if case != dict(decoder='groupnorm', batch_size=64):  # compiling takes half a minute
            launches = [name for name in launches if 'compile' not in name]
        for launch in launches:
            started = attempt(lambda: start(launch))
            if 'step' in started:
                steps[launch] = started['step']
            else:
                yield case | {'launch': launch} | started
        times = by_turns(steps, device, 4 if device.type == 'cuda' else 0)
        first = next(iter(times.values()))
        yield from (case | {'launch': launch, 'ms': ms, 'gain': first / ms} for launch, ms in times.items())


def measure_runs(options: Options, device: torch.device) -> Iterator[dict]:
    """Whole processes on 1,000 images. Seconds of epochs are a part of those of training, with which latents
    are started and refined."""
    if device.type == 'cuda':
        hundred = ['--epochs', '100']
        return whole_runs(options, device, [[], hundred, [*hundred, '--batch-size', '256'], ['--eager']])
    return whole_runs(options, device, [['--epochs', '1']])


def measure_full(options: Options, device: torch.device) -> Iterator[dict]:
    """Whole processes on 60,000 images, graded on 10,000."""
    if device.type == 'cuda':
        return whole_runs(options, device, [['--n-train', 'all', '--n-test', 'all']])
    return whole_runs(options, device, [['--epochs', '1', '--n-train', '200', '--n-test', '50']])


def whole_runs(options: Options, device: torch.device, runs: list[list[str]]) -> Iterator[dict]:
    common = ['--device', device.type, *(['--data-path', options.data_path] if options.data_path else [])]
    for flags in runs:

        def run():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / 'run'
                results, seconds = time_run('train_vad.py', [*flags, *common], path)
                epochs = sum(line['seconds'] for line in read_metrics(path))
            names = 'train_seconds', 'test_seconds', 'test_loss', 'test_negative_elbo'
            return {'seconds': seconds, 'epochs_seconds': epochs} | {name: results[name] for name in names}

        yield {'command': ' '.join(['train_vad.py', *flags])} | attempt(run)


def measure_table(options: Options, device: torch.device) -> Iterator[dict]:
    """A step of 64 images, of more and more images, each with its latents: it should not grow with them."""
    sizes = [10**exponent for exponent in range(3, 8 if device.type == 'cuda' else 5)]
    for n in sizes:

        def measure():
            with tempfile.TemporaryDirectory() as folder:
                images, _ = load_images(many_images(n + 1, folder), None, n, 1)
                step = usual_step(images, device, 'groupnorm')
                ms = by_turns({'step': step}, device, 5 if device.type == 'cuda' else 0)['step']
            return {'ms': ms, 'peak_memory_gb': peak_memory(device)}

        yield {'images': n} | attempt(measure)


PARTS = {
    'tests': run_tests,
    'kernels': measure_kernels,
    'steps': measure_steps,
    'runs': measure_runs,
    'table': measure_table,
    'full': measure_full,
}

# ------------------------------------------------------------------------------------------ the command


def describe_machine(device: torch.device) -> dict:
    versions = {'torch': torch.__version__}
    if device.type == 'cuda':
        import triton

        versions |= {'triton': triton.__version__, 'CUDA': torch.version.cuda}
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'
    return {'date': datetime.date.today().isoformat(), 'device': name} | versions


def run_part(part: str, options: Options):
    """In this process. Its rows, and an error that ends it, go to PART.json."""
    device, started = pick_device(options.device), time.perf_counter()
    result = describe_machine(device) | {'rows': []}

    def save(**more):
        result.update(more, seconds=round(time.perf_counter() - started, 1))
        write_json(options.dir / f'{part}.json', result)

    save()
    try:
        for row in PARTS[part](options, device):
            result['rows'].append(row)
            save()
    except BaseException as error:
        save(error=f'{type(error).__name__}: {error}'.splitlines()[0])
        raise


def run_in_process(part: str, options: Options):
    """The same in a process of its own: a GPU is of no use to one in which a kernel has failed."""
    (options.dir / f'{part}.json').unlink(missing_ok=True)
    command = [sys.executable, '-m', 'benchmarks.gpu', '--parts', part, '--dir', str(options.dir)]
    for name, value in (('--data-path', options.data_path), ('--device', options.device)):
        command += [name, value] if value else []
    minutes, error = MINUTES[part], None
    with open(options.dir / f'{part}.log', 'w') as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            error = f'not done after {minutes} minutes'
        finally:  # after Ctrl-C too
            process.terminate()  # it ends what it has started
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()  # one that waits for the GPU, say
            process.wait()
    path = options.dir / f'{part}.json'
    if not path.exists():
        write_json(path, describe_machine(pick_device(options.device)) | {'rows': []})
        error = error or 'ended without a result'
    result = read_json(path)
    if error or (process.returncode and 'error' not in result):
        write_json(path, result | {'error': error or f'ended with status {process.returncode}'})


def write_page(folder: Path):
    """gpu.md, and table.png, of the parts that are there."""
    found = {part: read_json(folder / f'{part}.json') for part in PARTS if (folder / f'{part}.json').exists()}
    lines = ['# On a GPU\n', 'Written by `python -m benchmarks.gpu`, a part at a time.\n']
    for part, result in found.items():
        machine = ', '.join(
            str(result[name]) for name in ('device', 'torch', 'triton', 'CUDA', 'date') if name in result
        )
        lines += [f'## {part.capitalize()}\n', f'{PARTS[part].__doc__.strip()} ({machine})\n']
        if 'error' in result:
            lines += [f'**Failed:** {result["error"]}\n']
        if not result['rows']:
            continue
        columns = list(dict.fromkeys(name for row in result['rows'] for name in row))
        cells = [[as_text(row.get(name, '')) for name in columns] for row in result['rows']]
        lines += [markdown_table([name.replace('_', ' ') for name in columns], cells) + '\n']
    (folder / 'gpu.md').write_text('\n'.join(lines), encoding='utf-8')
    rows = [row for row in found.get('table', {}).get('rows', []) if 'ms' in row]
    if rows:
        fig, ax = plt.subplots(figsize=(6, 3.5))
        ax.plot([row['images'] for row in rows], [row['ms'] for row in rows], marker='o')
        ax.set(xscale='log', xlabel='images', ylabel='ms a step', ylim=(0, None))
        ax.grid(alpha=0.3)
        save_figure(fig, folder / 'table.png')


def as_text(value) -> str:
    return f'{value:,.4g}' if isinstance(value, float) else str(value)


def main():
    options = parse_flags(Options)
    exit_on_sigterm()
    options.dir.mkdir(parents=True, exist_ok=True)
    pick_device(options.device)
    if len(options.parts) == 1:
        run_part(options.parts[0], options)
        return write_page(options.dir)
    try:
        for part in options.parts:
            run_in_process(part, options)
            result = read_json(options.dir / f'{part}.json')
            end = f'failed: {result["error"]}' if 'error' in result else f'{result["seconds"]} s'
            print(f'{part:8} {end}', flush=True)
    finally:
        write_page(options.dir)
        print(f'{options.dir / "gpu.md"} has what was measured')


if __name__ == '__main__':
    run_command(main)
