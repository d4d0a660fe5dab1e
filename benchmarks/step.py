"""Our step and training against a plain program for the 7x7 report's system; a table, a JSON file, a plot.

Usage:
    python -m benchmarks.step --short         two minutes on a CPU: steps, and our time to a loss of 0.127
    python -m benchmarks.step                 also a million images, and the plain program's time
    python -m benchmarks.step --variants      only what was tried to make a step on the CPU faster
    python -m benchmarks.step --processes 2   only images a second of two processes against one

The plain program (plain.py) has a process of its own. Steps are timed by turns, in one run, on the same
device, in batches of 64, each after another of its kind; the figure is their median.
"""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributed.elastic.utils.distributed import get_free_port

from benchmarks.measure import (
    by_turns,
    endless,
    exit_on_sigterm,
    peak_memory,
    receive,
    serve_steps,
    start_process,
    synchronise,
    take_steps,
)
from benchmarks.plain import LATENT_DIM, PASSES, TARGET, Curve, Plain, send_plain_curve
from evaluation import BATCH_SIZE, course_loss, save_figure
from training import (
    ImageDataset,
    Images,
    TrainedRun,
    Trainer,
    UserError,
    VADConfig,
    build_model,
    data_path_flag,
    device_flag,
    distributed,
    fit,
    fit_warm_start,
    flag,
    infer_latents,
    initialize_latents,
    load_images,
    parse_flags,
    pick_device,
    refine_latents,
    run_command,
    whole_number,
    write_json,
)
from training.batches import epoch_length
from training.command import keep_freed_memory, seed

Step = Callable[[], None]

# ------------------------------------------------------------------------------------------- our steps


def make_trainer(train_set: ImageDataset, device: torch.device, **changes) -> Trainer:
    """A Trainer of a Gaussian VAD with the defaults, but for changes of its configuration."""
    known = dict(shape=train_set.shape, n_train=len(train_set))
    config = VADConfig(latent_dim=LATENT_DIM, **known, **changes)
    model = build_model(config, device).train()
    images = Images(train_set, device, distributed.share(len(train_set)))
    return Trainer(model, images, config, initialize_latents(model, images, config.obs_std))


def our_step(trainer: Trainer) -> Step:
    """A function that does the next step, of epoch after epoch."""
    batch_size = trainer.config.batch_size
    # The last batch of an epoch may be smaller, and is left out.
    batches = endless(lambda: trainer.images.epoch(0, 0, batch_size)[:-1])

    def step():
        trainer.step_number %= trainer.total_steps
        trainer.step(*next(batches))

    return step


def usual_step(train_set: ImageDataset, device: torch.device, decoder: str) -> Step:
    return our_step(make_trainer(train_set, device, decoder=decoder))


def plain_step(train_set: ImageDataset, device: torch.device) -> Step:
    keep_freed_memory()
    plain = Plain(train_set, device)
    batches = endless(lambda: itertools.islice(plain.loader, len(train_set) // BATCH_SIZE))
    return lambda: plain.step(*next(batches))


def without_sampling(trainer: Trainer) -> Trainer:
    """The trainer, with constants for samples and KL: what a step would cost without them."""
    z = torch.zeros(BATCH_SIZE, LATENT_DIM, device=trainer.images.device)
    trainer.model.sample = lambda params, **_: (z + 0 * params[:, 0], params.new_zeros(len(params)))
    return trainer


def variants(train_set: ImageDataset, device: torch.device, decoder: str) -> dict[str, Step]:
    """Steps by name: as it is, and with one thing changed each."""

    def changed(change, **config):
        trainer = make_trainer(train_set, device, decoder=decoder, **config)
        change(trainer)
        return our_step(trainer)

    def separate_adam(trainer):
        trainer.adam = torch.optim.Adam(trainer.model.parameters(), betas=(0.9, 0.99), foreach=True)

    threads, usual = torch.get_num_threads(), usual_step(train_set, device, decoder)
    # This process does not call keep_freed_memory.
    process = start_process(serve_steps, usual_step, train_set, str(device), decoder)

    def one_thread():
        torch.set_num_threads(1)
        usual()
        torch.set_num_threads(threads)

    return {
        f'{decoder}': usual,
        f'{decoder}, one thread': one_thread,
        f'{decoder}, freed memory not kept': lambda: take_steps([process], 1),
        f'{decoder}, channels not last': changed(lambda t: t.model.to(memory_format=torch.contiguous_format)),
        f'{decoder}, Adam not fused': changed(separate_adam),
        f'{decoder}, bfloat16': changed(lambda _: None, bfloat16=True),
        f'{decoder}, torch.compile': changed(lambda t: t.model.decoder.compile()),
    }


def shared_step(train_set: ImageDataset, device: torch.device, batch_size: int) -> Step:
    """A function that does the next step, of batches that all processes share."""
    keep_freed_memory()
    distributed.start(str(device))
    return our_step(make_trainer(train_set, device, batch_size=batch_size))


def one_and_many(n: int, train_set: ImageDataset, device: torch.device, batch_size: int, seconds: float):
    """Images a second, by turns, of one process with a thread to itself, of n that share each batch, and of n
    that train a model each, which is as much as the machine lets n gain."""
    alone, together = [], []
    for group, size in ((alone, 1), (together, n)):
        port = str(get_free_port())
        for rank in range(n):  # what torchrun tells its processes
            environment = dict(RANK=str(rank % size), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
            environment |= dict(MASTER_ADDR='localhost', MASTER_PORT=port)
            args = shared_step, train_set, device.type, batch_size
            group.append(start_process(serve_steps, *args, **environment))
        take_steps(group, 1)
    images = {'one': 5 * batch_size, 'together': 5 * batch_size, 'apart': 5 * n * batch_size}
    groups = {'one': alone[:1], 'together': together, 'apart': alone}
    steps = {name: lambda group=group: take_steps(group, 5) for name, group in groups.items()}
    times = by_turns(steps, device, seconds)
    for pipe in alone + together:
        pipe.close()
    return {name: 1e3 * images[name] / ms for name, ms in times.items()}


# ------------------------------------------------------------------------------------ time to a test loss


def our_curve(train_set: ImageDataset, test_set: ImageDataset, device: torch.device, seed: int) -> Curve:
    """Whole trainings, each with PASSES passes over the test images, of more and more epochs until one comes
    to TARGET."""
    curve = []
    for epochs in range(1, 28):
        synchronise(device)
        started = time.perf_counter()
        trainer = make_trainer(train_set, device, seed=seed, epochs=epochs)
        model, images, config = trainer.model, trainer.images, trainer.config
        with tempfile.TemporaryDirectory() as folder:
            fit(trainer, Path(folder))
        latents = refine_latents(model, trainer.latents, images, config)
        warm_start = fit_warm_start(model, images, latents, config.obs_std)
        test_latents, _ = infer_latents(TrainedRun(config, model, warm_start=warm_start), test_set, PASSES)
        synchronise(device)
        curve.append((time.perf_counter() - started, course_loss(model, test_set, test_latents)))
        print(f'ours, {epochs} epochs, {curve[-1][0]:6.1f} s: test loss {curve[-1][1]:.4f}', flush=True)
        if curve[-1][1] <= TARGET:
            break
    return curve


def many_images(n: int, folder: str | Path) -> Path:
    """A .npy file of n images of noise."""
    path, free = Path(folder) / 'images.npy', shutil.disk_usage(folder).free
    if free < n * 28 * 28:  # writing to a mapped file on a full disk would kill this process
        raise UserError(
            f'expected {n * 28 * 28 / 1e6:.0f} MB of disk for temporary files, got {free / 1e6:.0f} MB in '
            f'{folder}; set TMPDIR to a folder with room, or use --short'
        )
    images = np.lib.format.open_memmap(path, 'w+', np.uint8, (n, 28, 28))
    generator = np.random.default_rng(0)
    for part in np.split(images, range(100_000, n, 100_000)):
        part[:] = generator.integers(0, 256, part.shape, np.uint8)
    images.flush()
    return path


def draw(curves: dict[str, Curve], file_name: Path):
    fig, ax = plt.subplots(figsize=(7, 4))
    for name, curve in curves.items():
        ax.plot(*zip(*curve), marker='.', label=name)
    ax.axhline(TARGET, color='grey', lw=1)
    ax.set(xscale='log', xlabel='seconds of training and of fitting test images', ylabel='test loss')
    ax.legend(frameon=False)
    ax.grid(alpha=0.3)
    save_figure(fig, file_name)


# ------------------------------------------------------------------------------------------- the command


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure steps and time to a test loss, ours against a plain program for the 7x7 report's system."""

    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    device: str | None = device_flag()
    short: bool = flag(False, "without a million images and the plain program's time to the loss")
    variants: bool = flag(False, 'only variants of our step')
    processes: int = flag(0, 'only images a second of one process against K', whole_number, metavar='K')
    seed: int = flag(0, 'of the trainings (default: 0)', seed)
    dir: Path = flag(
        Path('runs/benchmark'),
        'where the figures and the plot go, benchmark.json and benchmark.png',
        Path,
        metavar='DIR',
    )


def main():
    options = parse_flags(Options)
    exit_on_sigterm()
    device, seconds = pick_device(options.device), 10 if options.short else 30
    train_set, test_set = load_images(options.data_path)
    if len(train_set) < BATCH_SIZE:
        raise UserError(f'expected 64 training images or more, a batch, got {len(train_set)}; use other data')
    if device.type == 'cuda' and options.processes > torch.cuda.device_count():
        raise UserError(
            f'expected --processes to be at most {torch.cuda.device_count()}, the GPUs of this machine, got '
            f'{options.processes}; use fewer, or --device cpu'
        )
    if options.dir.is_file():
        raise UserError(f'expected --dir to be a folder, got the file {options.dir}')
    options.dir.mkdir(parents=True, exist_ok=True)
    result = {
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu',
        'torch': torch.__version__,
        'threads': torch.get_num_threads(),
        'data': train_set.source,
        'seed': options.seed,
    }
    machine = f'{result["device"]}, {result["threads"]} threads, torch {torch.__version__}'
    print(f'{machine}; milliseconds a step of 64 images')
    if options.variants:
        for decoder in ('groupnorm', 'dcgan7x7'):
            result[decoder] = compare(variants(train_set, device, decoder), decoder, device, seconds)
    elif options.processes:
        result |= compare_processes(options.processes, train_set, device, seconds)
    else:
        result |= compare_with_plain(options, train_set, test_set, device, seconds)
    write_json(options.dir / 'benchmark.json', result)
    print(f'figures: {options.dir / "benchmark.json"}')
    if 'curves' in result:
        draw(result['curves'], options.dir / 'benchmark.png')


def compare(steps: dict[str, Step], baseline: str, device: torch.device, seconds: float) -> dict[str, float]:
    """by_turns, printed with the ratio to the step called baseline."""
    times = by_turns(steps, device, seconds)
    for name, ms in times.items():
        print(f'{name:45} {ms:9.2f} {times[baseline] / ms:7.2f} x')
    return times


def compare_processes(k: int, train_set: ImageDataset, device: torch.device, seconds: float) -> dict:
    os.environ['OMP_NUM_THREADS'] = '1'  # of the processes to be started; torchrun's choice too
    print(f'images a second: one process; {k} that share each batch; {k} that train a model each')
    result = {}
    for batch_size in (64, 128, 256, 512, 1024):
        # The last batch of an epoch, a smaller one, is left out.
        if batch_size >= epoch_length(len(train_set), train_set.shape):
            break
        rates = one_and_many(k, train_set, device, batch_size, seconds)
        result[f'{batch_size} images a step'] = rates
        columns = ''.join(f'{rate:9.0f} ({rate / rates["one"]:.2f} x)' for rate in rates.values())
        print(f'{batch_size:5} images a step{columns}', flush=True)
    return result


def compare_with_plain(
    options: Options, train_set: ImageDataset, test_set: ImageDataset, device: torch.device, seconds: float
) -> dict:
    plain, result = start_process(serve_steps, plain_step, train_set, str(device)), {}
    steps = {
        'plain program': lambda: take_steps([plain], 1),
        "ours, the 7x7 report's decoder": usual_step(train_set, device, 'dcgan7x7'),
        "ours, the 7x7 report's decoder, bfloat16": our_step(
            make_trainer(train_set, device, decoder='dcgan7x7', bfloat16=True)
        ),
        'ours, default decoder': usual_step(train_set, device, 'groupnorm'),
    }
    result['steps'] = compare(steps, 'plain program', device, seconds)
    plain.close()
    steps = {
        'default': usual_step(train_set, device, 'groupnorm'),
        'default, constants for samples': our_step(without_sampling(make_trainer(train_set, device))),
    }
    result['sampling'] = compare(steps, 'default', device, seconds)
    if not options.short:
        with tempfile.TemporaryDirectory() as folder:
            n = 1_000_000
            many, _ = load_images(many_images(n + 1, folder), None, n, 1)
            few = many.part(slice(1000))
            steps = {
                '1,000 images': usual_step(few, device, 'groupnorm'),
                f'{n:,} images': usual_step(many, device, 'groupnorm'),
            }
            result['images'] = compare(steps, '1,000 images', device, seconds)
        result['peak_memory_gb'] = peak_memory(device)
        print(f'peak memory: {result["peak_memory_gb"]:.1f} GB')
    curves = {'ours': our_curve(train_set, test_set, device, options.seed)}
    if not options.short:
        process = start_process(send_plain_curve, train_set, test_set, device, options.seed)
        curves['plain program'] = receive(process)
    ends = {name: curve[-1][0] for name, curve in curves.items() if curve[-1][1] <= TARGET}
    for name, curve in curves.items():
        arrival = f'after {ends[name]:.1f} s' if name in ends else f'not within {curve[-1][0]:.1f} s'
        print(f'{name}: test loss {TARGET} {arrival}')
    if len(curves) == 2 and 'ours' in ends:
        ratio = curves['plain program'][-1][0] / ends['ours']
        print(f'{ratio:.1f} x' + ('' if len(ends) == 2 else ' or more'))
    return result | {'curves': curves}


if __name__ == '__main__':
    run_command(main)
