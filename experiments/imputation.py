"""Compare how well missing pixels are filled in by the project's systems and by simple imputers.

Usage:
    python -m experiments.imputation --data fashion-mnist-1000
    python -m experiments.imputation --data mnist --methods vad soft-impute --rates 0.5 0.9 --seeds 0
    python -m experiments.imputation --report

Each result (a method on a data set, a share of missing pixels and a seed) is a file of its own, written when
it is there: the same command again goes on where it stopped. docs/incomplete-data.md has the protocol.
"""

import itertools
import time
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtri
from sklearn.neighbors import KNeighborsClassifier

from evaluation import NEIGHBOURS
from experiments.baselines import BASELINES
from experiments.imputation_report import METHODS, cell_name, read_rows, write_report
from experiments.scripts import check_out, read_entries, train_run
from imputation import impute
from training import (
    ImageDataset,
    UserError,
    command,
    data_path_flag,
    flag,
    load_images,
    load_run,
    lock_folder,
    parse_flags,
    run_command,
    write_array,
    write_json,
)
from training.data import default_data_path

# Name of the data set, number of training and of test images, and flags of the systems: the default number of
# epochs is meant for few images.
DATA = {
    'fashion-mnist-1000': ('fashion-mnist', 1000, 1000, []),
    'fashion-mnist': ('fashion-mnist', 'all', 'all', ['--epochs', 8]),
    'mnist': ('mnist', 'all', 'all', ['--epochs', 8]),
}
SYSTEMS = {
    'ad': ['train_ad.py'],
    'vad': ['train_vad.py'],
    'vae': ['train_vae.py'],
    'miwae': ['train_vae.py', '--importance-samples', '5'],
}
BLOCKS = 'blocks', 0.25  # what --rates blocks stands for: a 14 x 14 block of 28 x 28
CLASSIFIED = 10_000  # training images that the classifier is fitted to, at most
PICTURED = 8  # test images that are kept for the pictures


def rate(text: str) -> tuple[str, float]:
    """Kind and share of what is missing."""
    try:
        return BLOCKS if text == 'blocks' else ('pixels', command.share(text))
    except ValueError:
        raise ArgumentTypeError(f'expected shares above 0 and below 1, or blocks, got {text!r}') from None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Hide pixels of training and test images, fill them in by several methods, and compare: RMSE on the
    missing pixels, accuracy of a classifier on the completed images, how often 90% intervals hold the truth,
    and CRPS."""

    data: list[str] = flag(
        ('fashion-mnist-1000',),
        'data sets: the first 1,000 + 1,000 images, or all, of Fashion-MNIST; all of MNIST (default: '
        'fashion-mnist-1000)',
        choices=list(DATA),
        nargs='+',
    )
    methods: list[str] = flag(
        tuple(METHODS),
        f'one or several of {", ".join(METHODS)} (default: all)',
        choices=list(METHODS),
        nargs='+',
        metavar='METHOD',
    )
    rates: list[tuple[str, float]] = flag(
        (*(('pixels', share) for share in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)), BLOCKS),
        'shares of missing pixels, and blocks, one of a quarter of each image (default: 0.1 0.3 0.5 0.7 0.8 '
        '0.9 blocks)',
        rate,
        nargs='+',
        metavar='RATE',
    )
    seeds: list[int] = flag(
        (0, 1, 2), 'of the missing pixels and of the methods (default: 0 1 2)', command.seed, nargs='+'
    )
    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    n_test: int | str | None = flag(
        None, 'how many test images (default: as --data says)', command.count, metavar='N'
    )
    out: Path = flag(Path('runs/imputation'), 'folder of the results', Path, metavar='DIR')
    report: bool = flag(False, 'compute nothing, make the tables and plots of the results that are there')


class Comparison:
    """The images of a data set, and a classifier that is fitted to complete training images."""

    def __init__(self, name: str, options: Options):
        self.dataset, n_train, n_test, self.flags = DATA[name]
        self.data_path = options.data_path or default_data_path()
        numbers = n_train, options.n_test or n_test
        self.train_set, self.test_set = load_images(self.data_path, self.dataset, *numbers)
        self.true = self.test_set.X.flatten(1).numpy() / 255  # [M, F]
        x = self.train_set.X[:CLASSIFIED].flatten(1).numpy() / 255
        self.classifier = KNeighborsClassifier(min(NEIGHBOURS, len(x)))
        self.classifier.fit(x, self.train_set.y[:CLASSIFIED])

    def compute(
        self, method: str, kind: str, rate: float, seed: int, run_dir: Path
    ) -> tuple[dict, np.ndarray]:
        """A method's results, and its first test images, [3, PICTURED, *shape] in 0-1: the truth, what is
        observed of it with NaN where a pixel is missing, and completed."""
        hidden = kind, rate, seed
        train_set, test_set = (
            images.hide_pixels(*hidden, part) for part, images in enumerate((self.train_set, self.test_set))
        )
        test = incomplete(test_set)
        if method == 'truth':
            completed, results = self.true, {}
        elif method in SYSTEMS:
            completed, results = self.run_system(method, *hidden, run_dir)
        else:
            started = time.monotonic()
            completed, std = BASELINES[method](incomplete(train_set), test, seed, test_set.shape)
            results = {'seconds': round(time.monotonic() - started, 1)}
            results |= grade(self.true, completed, std, np.isnan(test))
        results['accuracy'] = float(self.classifier.score(completed, test_set.y))
        pictures = np.stack([images[:PICTURED] for images in (self.true, test, completed)])
        return results, pictures.reshape(3, -1, *test_set.shape).astype(np.float32)

    def run_system(
        self, method: str, kind: str, rate: float, seed: int, run_dir: Path
    ) -> tuple[np.ndarray, dict]:
        """Completed test images [M, F] in 0-1 and results of one of SYSTEMS, which its script trains in
        run_dir."""
        script, *arguments = SYSTEMS[method]
        arguments += self.flags
        arguments += ['--missing', rate, '--missing-kind', kind, '--seed', seed]
        arguments += ['--data-path', self.data_path, '--dataset', self.dataset]
        arguments += ['--n-train', len(self.train_set), '--n-test', len(self.test_set)]
        train_run(run_dir, script, *arguments)
        trained = load_run(run_dir)
        test_set, started = self.test_set.hide_pixels(kind, rate, seed, 1), time.monotonic()
        completed = impute(trained, test_set)
        seconds = read_entries(run_dir / 'results.json', ('train_seconds',))['train_seconds']
        results = {'seconds': round(seconds + time.monotonic() - started, 1), **columns(completed.grades)}
        if trained.model.encoder:  # the usual way: its posteriors as they are
            usual = columns(impute(trained, test_set, fit=False).grades)
            results |= {f'{name}_encoder': value for name, value in usual.items()}
        return completed.mean.flatten(1).numpy() / 255, results


def columns(grades: dict) -> dict:
    """The grades of imputation.impute, by the names of experiments.imputation_report.MEASURES."""
    names = {'rmse_missing': 'test_rmse_missing', 'coverage_90': 'coverage_90', 'crps': 'test_crps'}
    return {name: grades[theirs] for name, theirs in names.items()}


def incomplete(images: ImageDataset) -> np.ndarray:
    """Images as the baselines get them: float32 [N, F] in 0-1, NaN where a pixel is missing."""
    # In parts: the random numbers of 60,000 images at once would take gigabytes.
    parts = [images.observed[index] for index in torch.arange(len(images)).split(5000)]
    return torch.where(torch.cat(parts), images.X / 255, torch.nan).flatten(1).numpy()


def grade(true: np.ndarray, mean: np.ndarray, std: np.ndarray | None, missing: np.ndarray) -> dict:
    """Grades of the pixels `missing`, bool [M, F]: RMSE; share inside the central 90% interval and mean CRPS
    of Gaussians [M, F] that are limited to 0-1."""
    true, mean = true[missing], mean[missing]  # [n]
    grades = {'rmse_missing': float(np.sqrt(np.square(mean - true).mean()))}
    if std is not None:

        def quantile(level):
            return np.clip(mean + std[missing] * ndtri(level), 0, 1)

        grades['coverage_90'] = float(np.mean((quantile(0.05) <= true) & (true <= quantile(0.95))))
        # The CRPS is twice the quantile loss, averaged over all levels.
        levels = (np.arange(20) + 0.5) / 20
        losses = [(true - quantile(level)) * (level - (true < quantile(level))) for level in levels]
        grades['crps'] = float(2 * np.mean(losses))
    return grades


def compare(options: Options):
    """Compute what is not in the folder yet, a line for each result."""
    number = len(options.data) * len(options.seeds) * len(options.rates) * len(options.methods)
    done = itertools.count(1)
    for data in options.data:
        comparison = Comparison(data, options)
        checksum = comparison.test_set.checksum()
        if any(row['data'] == data and row['test_checksum'] != checksum for row in read_rows(options.out)):
            raise UserError(
                f'expected the test images of {data} that the results in {options.out} are of, got others; '
                f'name another folder with --out, or the --data-path and --n-test of before'
            )
        for seed, (kind, rate), method in itertools.product(options.seeds, options.rates, options.methods):
            name = cell_name(data, kind, rate, method, seed)
            path, i = options.out / 'cells' / f'{name}.json', next(done)
            if path.exists():
                continue
            results, pictures = comparison.compute(method, kind, rate, seed, options.out / 'runs' / name)
            row = {'data': data, 'kind': kind, 'rate': rate, 'method': method, 'seed': seed, **results}
            row |= {'n_train': len(comparison.train_set), 'n_test': len(comparison.test_set)}
            write_array(path.with_suffix('.npy'), pictures)
            write_json(path, {**row, 'test_checksum': checksum})  # last: now the result is there
            figures = ', '.join(f'{key} {value:.4g}' for key, value in results.items() if value is not None)
            print(f'{i} of {number}: {name}: {figures}', flush=True)


def main():
    options = parse_flags(Options)
    check_out(options.out)
    if not options.report:
        (options.out / 'cells').mkdir(parents=True, exist_ok=True)
        with lock_folder(options.out):
            compare(options)
    write_report(options.out)  # also of what another process is computing


if __name__ == '__main__':
    run_command(main)
