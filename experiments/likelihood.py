"""Compare how probable the project's systems find new images, and how close their posteriors come.

Usage:
    python -m experiments.likelihood
    python -m experiments.likelihood --systems ppca vad --n-test 1000
    python -m experiments.likelihood --data mnist-dynamic --data-path DIR
    python -m experiments.likelihood --report

Each result (a system on a data set, a kind of posterior and a seed) is a file of its own, written when it is
there: the same command again goes on where it stopped. docs/likelihood.md explains the columns.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from evaluation import estimate_likelihood
from experiments.ais import annealed_likelihood
from experiments.scripts import check_out, check_setting, markdown_table, read_entries, train_run
from training import (
    GRADE,
    ImageDataset,
    Images,
    UserError,
    command,
    data_path_flag,
    flag,
    infer_latents,
    load_images,
    load_run,
    lock_folder,
    mean_negative_elbo,
    noise_key,
    parse_flags,
    refine_posteriors,
    run_command,
    write_atomically,
    write_json,
)
from training.data import default_data_path
from training.objective import constant_term

# Name of the data set, number of training images (None: 1,000), flags of the systems: few epochs for many
# images.
MNIST = ['--likelihood', 'bernoulli', '--epochs']
DATA = {
    'fashion-mnist-1000': ('fashion-mnist', None, []),
    'mnist-static': ('mnist', 'all', [*MNIST, 10, '--binarise', 'static']),
    'mnist-dynamic': ('mnist', 'all', [*MNIST, 60, '--binarise', 'dynamic']),
}
DRAWS = 20  # samples of each image that a negative ELBO is the mean of
LATENT_DIM = 60
# Name -> title, the script's arguments (None: there is no script), and the kinds of posteriors that it has.
SYSTEMS = {
    'ppca': ('PPCA', None, ['exact']),
    'ae': ('AE', ['train_ae.py', '--encoder', 'conv', '--decoder', 'groupnorm'], ['own', 'full']),
    'ad': ('AD', ['train_ad.py'], ['own', 'full']),
    'vad': ('VAD, Gaussian', ['train_vad.py'], ['inferred', 'own', 'full']),
    'vad-laplace': ('VAD, Laplace', ['train_vad.py', '--dist', 'laplace'], ['inferred', 'own']),
    'vad-exponential': ('VAD, exponential', ['train_vad.py', '--dist', 'exponential'], ['inferred', 'own']),
    'vad-uniform': ('VAD, uniform', ['train_vad.py', '--dist', 'uniform'], ['inferred', 'own']),
    'vad-full': ('VAD, Gaussian, full', ['train_vad.py', '--dist', 'gaussian-full'], ['inferred', 'full']),
    'vae': ('VAE, Gaussian', ['train_vae.py'], ['inferred', 'own', 'full']),
    'vad-learned': (
        'VAD, Gaussian, learned prior',
        ['train_vad.py', '--prior', 'learned'],
        ['inferred', 'own', 'full'],
    ),
    'vae-learned': (
        'VAE, Gaussian, learned prior',
        ['train_vae.py', '--prior', 'learned'],
        ['inferred', 'own', 'full'],
    ),
    'lstm-vae': ('LSTM-VAE, Gaussian', ['train_vae.py', '--encoder', 'lstm'], ['inferred', 'own', 'full']),
}
DEFAULTS = {'fashion-mnist': list(SYSTEMS)[:-1], 'mnist': ['vad', 'vae', 'lstm-vae']}
POSTERIORS = {
    'exact': 'exact',
    'inferred': 'as inferred',
    'own': 'fitted further',
    'full': 'fitted, full covariance',
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Estimate log p of test images by the project's systems, with posteriors as they are inferred, fitted
    further, and with a full covariance; and by probabilistic PCA, where it is known."""

    data: list[str] = flag(
        ('fashion-mnist-1000',),
        'data sets: the first 1,000 images of Fashion-MNIST, and MNIST in black and white, by coins that are '
        'tossed once, or for training in each step (default: fashion-mnist-1000)',
        choices=list(DATA),
        nargs='+',
    )
    systems: list[str] | None = flag(
        None,
        f'one or several of {", ".join(SYSTEMS)} (default: {", ".join(DEFAULTS["mnist"])} on MNIST, else all '
        'but lstm-vae)',
        choices=list(SYSTEMS),
        nargs='+',
        metavar='SYSTEM',
    )
    seeds: list[int] = flag((0,), 'of the systems (default: 0)', command.seed, nargs='+')
    draws: int = flag(2000, 'importance samples of an image', command.whole_number, metavar='K')
    anneal: int = flag(
        0,
        'check posteriors with a full covariance by annealed importance sampling of the first N test images',
        command.whole_number,
        metavar='N',
    )
    obs_std: str | None = flag(None, 'as of the scripts (default: theirs)', str, metavar='STD')
    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    n_test: int | str = flag(
        200,
        'how many test images, at equal distances in the test set (default: 200)',
        command.count,
        metavar='N',
    )
    out: Path = flag(Path('runs/likelihood'), 'folder of the results', Path, metavar='DIR')
    report: bool = flag(False, 'compute nothing, print the table of the results that are there')


def ppca(train_set: ImageDataset, test_set: ImageDataset) -> dict:
    """Of probabilistic PCA (Tipping and Bishop, 1999), whose log p scikit-learn computes exactly."""
    x, x_test = (images.X.flatten(1).double().numpy() / 255 for images in (train_set, test_set))
    log_p = PCA(min(LATENT_DIM, len(x) - 1), svd_solver='covariance_eigh').fit(x).score_samples(x_test)
    return {'log_likelihood': float(log_p.mean()), 'log_likelihood_error': standard_error(log_p)}


def standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def grade(folder: Path, test_set: ImageDataset, kind: str, k: int, anneal: int) -> dict:
    """Of a run's posteriors of one kind. anneal: how many images are checked."""
    trained = load_run(folder)
    latents, _ = infer_latents(trained, test_set)
    model = trained.model
    if kind != 'inferred':
        model, latents = refine_posteriors(trained, test_set, latents, full=kind == 'full')
    images, seed = Images(test_set, latents.device), noise_key(trained.config.seed, GRADE)
    terms = [
        sum(mean_negative_elbo(model, latents, images, trained.config, seed=seed, step=draw))
        for draw in range(DRAWS)
    ]
    elbo = float(np.mean(terms)) + constant_term(trained.config, test_set.X[0].numel())
    found = estimate_likelihood(trained, model, latents, test_set, k)
    results = {'negative_elbo': elbo, **found.grades()}
    if trained.config.likelihood == 'gaussian':
        results['obs_std'] = trained.config.obs_std
    if anneal and kind == 'full':
        first = test_set.part(slice(anneal))
        annealed, accepted = annealed_likelihood(trained, model, latents[:anneal], first)
        results |= {
            'annealed_images': len(first),
            'annealed_log_likelihood': float(annealed.mean()),
            'annealed_accepted': accepted,
            'log_likelihood_of_these': float(found.log_p[: len(first), -1].mean()),
        }
    return results


def compare(options: Options):
    """Compute what is not in the folder yet, a line for each result."""
    data_path = options.data_path or default_data_path()
    for data in options.data:
        dataset, n_train, flags = DATA[data]
        train_set, test_set = load_images(data_path, dataset, n_train, 'all')
        if '--binarise' in flags:
            test_set = test_set.binarised(1)
        flags = [*flags, '--data-path', data_path, '--dataset', dataset, '--n-train', len(train_set)]
        flags += ['--obs-std', options.obs_std] if options.obs_std else []
        n_test = len(test_set) if options.n_test == 'all' else min(options.n_test, len(test_set))
        # Not the first ones: MNIST's are easier than the others.
        test_set = test_set.part(slice(0, len(test_set) // n_test * n_test, len(test_set) // n_test))
        setting = {'test_checksum': test_set.checksum(), 'draws': options.draws, 'anneal': options.anneal}
        setting['std'] = options.obs_std
        for seed, system in itertools.product(options.seeds, options.systems or DEFAULTS[dataset]):
            _, script, kinds = SYSTEMS[system]
            run_dir = options.out / 'runs' / f'{data}-{system}-seed{seed}'
            for kind in kinds:
                path = options.out / 'cells' / f'{data}-{system}-{kind}-seed{seed}.json'
                if path.exists():
                    check_setting(path, setting)
                    continue
                if script is None:
                    results = ppca(train_set, test_set)
                else:
                    train_run(run_dir, *script, '--latent-dim', LATENT_DIM, '--seed', seed, *flags)
                    results = grade(run_dir, test_set, kind, options.draws, options.anneal)
                row = {'data': data, 'system': system, 'posterior': kind, 'seed': seed, 'n_test': n_test}
                write_json(path, {**row, **results, **setting})
                print(f'{path.stem}: log p {results["log_likelihood"]:.2f}', flush=True)


COLUMNS = ['system', 'posterior', 'images', 'seeds', 'negative ELBO', '-log p', 'standard error', 'gap']
COLUMNS += ['effective sample size', '-log p by half of the samples', 'obs_std']
COLUMNS += ['-log p of the first images: importance sampling / annealed']


def read_rows(out: Path) -> list[dict]:
    """The results in the folder. UserError: there are none, or one cannot be read."""
    names = 'data', 'system', 'posterior', 'seed', 'log_likelihood', 'n_test'
    rows = [read_entries(path, names) for path in sorted((out / 'cells').glob('*.json'))]
    if not rows:
        raise UserError(f'expected results in {out}, got none; leave --report out to compute them')
    return rows


def render_tables(rows: list[dict]) -> dict[str, str]:
    """A Markdown table for each data set, without empty columns; of several seeds the worst log p."""
    tables = {}
    for data in sorted({row['data'] for row in rows}):
        table_rows = []
        for system, (title, _, kinds) in SYSTEMS.items():
            for kind in kinds:
                wanted = data, system, kind
                found = [row for row in rows if (row['data'], row['system'], row['posterior']) == wanted]
                if found:
                    worst = min(found, key=lambda row: row['log_likelihood'])
                    table_rows.append(cells(title, kind, worst, len(found)))
        used = [i for i in range(len(COLUMNS)) if any(cell[i] for cell in table_rows)]
        table_rows = [[cell[i] for i in used] for cell in table_rows]
        tables[f'likelihood-{data}'] = markdown_table([COLUMNS[i] for i in used], table_rows) + '\n'
    return tables


def cells(title: str, kind: str, row: dict, seeds: int) -> list[str]:
    negative_log_p = -row['log_likelihood']
    elbo, half = row.get('negative_elbo'), row.get('log_likelihood_half')
    return [
        title,
        POSTERIORS[kind],
        str(row['n_test']),
        str(seeds),
        f'{elbo:.1f}' if elbo is not None else '',
        f'{negative_log_p:.1f}',
        f'{row["log_likelihood_error"]:.1f}' if row.get('log_likelihood_error') is not None else '',
        f'{elbo - negative_log_p:.1f}' if elbo is not None else '',
        f'{row["ess"]:.1f}' if 'ess' in row else '',
        f'{-half:.1f}' if half is not None else '',
        f'{row["obs_std"]:.4g}' if 'obs_std' in row else '',
        annealed(row),
    ]


def annealed(row: dict) -> str:
    """What --anneal found."""
    if 'annealed_images' not in row:
        return ''
    by_importance, by_annealing = -row['log_likelihood_of_these'], -row['annealed_log_likelihood']
    return f'{row["annealed_images"]}: {by_importance:.2f} / {by_annealing:.2f}'


def main():
    options = parse_flags(Options)
    check_out(options.out)
    if not options.report:
        (options.out / 'cells').mkdir(parents=True, exist_ok=True)
        with lock_folder(options.out):
            compare(options)
    tables = render_tables(read_rows(options.out))
    text = '\n'.join(f'**{name}**\n\n{table}' for name, table in tables.items())
    write_atomically(options.out / 'table.md', lambda path: path.write_text(text))
    print(text)


if __name__ == '__main__':
    run_command(main)
