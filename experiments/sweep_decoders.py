"""Compare the LSTM report's ten decoders: its validation losses beside ours.

Usage:
    python -m experiments.sweep_decoders --data-path DIR
    python -m experiments.sweep_decoders --decoders conv4 conv6 --epochs 3 --data-path DIR
    python -m experiments.sweep_decoders --report

Each decoder and seed is a run of train_vae.py in a folder of its own: the same command again goes on where it
stopped. docs/results.md explains the columns.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from experiments.scripts import check_out, check_setting, markdown_table, read_entries, train_run
from training import (
    UserError,
    command,
    data_path_flag,
    flag,
    is_finished,
    load_images,
    lock_folder,
    parse_flags,
    read_metrics,
    run_command,
    whole_number,
    write_atomically,
)
from training.data import default_data_path

FLAGS = ['--dataset', 'mnist', '--likelihood', 'bernoulli', '--latent-dim', 64]  # as in the report
# Name -> decoder, encoder, and the report's validation reconstruction and KL in nats, from the table in its
# second answer ("performances of different combinations"). FC+ is the encoder lstm, FC- is lstm-plain.
CONFIGURATIONS = {
    'conv4': ('conv4', 'lstm', 89.884445, 27.891415),
    'conv4-plain': ('conv4', 'lstm-plain', 107.122009, 23.761320),
    'conv4-batchnorm': ('conv4-batchnorm', 'lstm', 96.111328, 27.455740),
    'conv4-leaky0.2-batchnorm': ('conv4-leaky0.2-batchnorm', 'lstm', 95.421844, 28.623117),
    'conv4-leaky0.2': ('conv4-leaky0.2', 'lstm', 92.834892, 28.829672),
    'conv4-relu-batchnorm': ('conv4-relu-batchnorm', 'lstm', 97.902130, 27.383146),
    'conv4-relu': ('conv4-relu', 'lstm', 92.944504, 26.424137),
    'conv5': ('conv5', 'lstm', 86.700783, 27.555090),
    'conv6': ('conv6', 'lstm', 85.135307, 27.634918),
    'conv8': ('conv8', 'lstm', 88.377838, 26.804855),
}
COLUMNS = ['decoder', 'sampling layers', "the report's validation loss", 'negative ELBO', 'reconstruction']
COLUMNS += ['KL', 'training loss', 'seeds']


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the LSTM report's VAE on MNIST with each of its ten decoders, and compare the negative ELBO of
    test digits with the report's table."""

    decoders: list[str] = flag(
        tuple(CONFIGURATIONS),
        f'one or several of {", ".join(CONFIGURATIONS)}; conv4-plain is conv4 without linear layers between '
        "the LSTM's last state and the latents (default: all)",
        choices=list(CONFIGURATIONS),
        nargs='+',
        metavar='DECODER',
    )
    epochs: int = flag(12, 'epochs of each run', whole_number, metavar='E')
    seeds: list[int] = flag((0,), 'of the runs (default: 0)', command.seed, nargs='+')
    n_train: int | str = flag('all', 'how many training digits', command.count, metavar='N')
    n_test: int | str = flag('all', 'how many test digits', command.count, metavar='N')
    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    out: Path = flag(Path('runs/decoders'), 'folder of the results', Path, metavar='DIR')
    report: bool = flag(False, 'train nothing, print the table of the runs that are there')


def compare(options: Options):
    """Train what is not in the folder yet, a line for each run."""
    data_path = options.data_path or default_data_path()
    train_set, test_set = load_images(data_path, 'mnist', options.n_train, options.n_test)
    setting = {'epochs': options.epochs, 'n_train': len(train_set), 'n_test': len(test_set)}
    flags = [*FLAGS, '--data-path', data_path]
    for name, value in setting.items():
        flags += [f'--{name.replace("_", "-")}', value]
    setting |= {'train_checksum': train_set.checksum(), 'test_checksum': test_set.checksum()}
    for path in (options.out / 'runs').glob('*/config.json'):
        check_setting(path, setting)
    for seed, name in itertools.product(options.seeds, options.decoders):
        decoder, encoder, *_ = CONFIGURATIONS[name]
        run_dir = options.out / 'runs' / f'{name}-seed{seed}'
        train_run(run_dir, 'train_vae.py', '--encoder', encoder, '--decoder', decoder, '--seed', seed, *flags)
        print(f'{run_dir.name}: negative ELBO {read_run(run_dir)["test_negative_elbo"]:.2f}', flush=True)


def read_run(run_dir: Path) -> dict:
    """Results of a finished run, and 'loss', its last epoch's training loss. UserError: some lack."""
    names = 'test_negative_elbo', 'test_reconstruction', 'test_kl', 'n_train', 'n_test', 'epochs'
    results, metrics = read_entries(run_dir / 'results.json', names), read_metrics(run_dir)
    if not metrics:
        raise UserError(
            f'expected a line for each epoch in {run_dir / "metrics.jsonl"}, got none; delete that run and '
            f'start again'
        )
    return {**{name: results[name] for name in names}, 'loss': metrics[-1]['loss']}


def read_rows(out: Path) -> list[dict]:
    """The results of the finished runs in the folder, with 'name' and 'seed'. UserError: there are none."""
    rows = [
        {'name': name, 'seed': int(folder.name.removeprefix(f'{name}-seed')), **read_run(folder)}
        for name in CONFIGURATIONS
        for folder in sorted((out / 'runs').glob(f'{name}-seed*'))
        if is_finished(folder)
    ]
    if not rows:
        raise UserError(f'expected finished runs in {out}, got none; leave --report out to train them')
    return rows


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The Markdown table; of several seeds the worst negative ELBO."""
    lines = []
    for name, (decoder, encoder, *theirs) in CONFIGURATIONS.items():
        found = [row for row in rows if row['name'] == name]
        if found:
            worst = max(found, key=lambda row: row['test_negative_elbo'])
            reconstruction, kl = theirs
            figures = [worst[f'test_{term}'] for term in ('negative_elbo', 'reconstruction', 'kl')]
            lines.append(
                [
                    decoder,
                    'yes' if encoder == 'lstm' else 'no',
                    f'{reconstruction + kl:.2f} = {reconstruction:.2f} + {kl:.2f}',
                    *(f'{value:.2f}' for value in (*figures, worst['loss'])),
                    str(len(found)),
                ]
            )
    return {'decoders': markdown_table(COLUMNS, lines) + '\n'}


def main():
    options = parse_flags(Options)
    check_out(options.out, 'runs')
    if not options.report:
        (options.out / 'runs').mkdir(parents=True, exist_ok=True)
        with lock_folder(options.out):
            compare(options)
    rows = read_rows(options.out)
    digits, epochs = f'{rows[0]["n_train"]:,} + {rows[0]["n_test"]:,} digits', rows[0]['epochs']
    title = f'MNIST, {digits}, epochs: {epochs}; losses in nats a digit'
    text = f'{title}\n\n{render_tables(rows)["decoders"]}'
    write_atomically(options.out / 'table.md', lambda path: path.write_text(text))
    print(text)


if __name__ == '__main__':
    run_command(main)
