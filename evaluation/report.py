"""What a run leaves at its end: results.json, report.html, and the table on the terminal."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from evaluation.page import write_index, write_report
from training import CHECKSUM, Run, TrainedRun, UserError, checksum, read_json
from training.startup import STARTED

RUNS = Path('runs')  # where the scripts put runs by default

# Of the table of runs, name -> alignment.
COLUMNS = dict.fromkeys(['run', 'system', 'dist', 'dataset'], '<') | dict.fromkeys(
    ['n_test', 'latent_dim', 'seed', 'train_loss', 'test_loss', 'test_loss_mean', 'kl', 'test_negative_elbo']
    + ['knn_accuracy', 'frechet', 'frechet_floor', 'classes', 'test_seconds'],
    '>',
)
# Of the table of samples, likewise.
SAMPLE_COLUMNS = dict.fromkeys(['run', 'samples'], '<') | dict.fromkeys(
    ['frechet', 'precision', 'recall', 'density', 'coverage', 'authenticity', 'classes', 'smallest_class'],
    '>',
)
ONE_DECIMAL = (
    'kl',
    'test_negative_elbo',
    'refined_negative_elbo',
    'log_likelihood',
    'log_likelihood_error',
    'ess',
    'frechet',
    'frechet_floor',
    'test_seconds',
    'train_seconds',
)


def describe_run(trained: TrainedRun) -> dict:
    """The entries of results.json that say what a run is."""
    config = trained.config.to_dict()
    described = {name: value for name, value in config.items() if 'checksum' not in name}
    return {**described, 'parameters': sum(weights.numel() for weights in trained.model.parameters())}


def read_results(folder: Path, trained: TrainedRun) -> dict:
    """What results.json in folder says of the trained run there.

    Only the checksum, with a warning, if the file is missing, broken or of another checkpoint.
    """
    path, found = folder / 'results.json', checksum(folder / 'checkpoint.pt')
    try:
        results, problem = read_json(path), None
        numbers = [results.get(name) for name in ('train_loss', 'kl', 'train_seconds')]
        if results.get(CHECKSUM, found) != found:  # an older program did not write it
            problem = f'{path} is of another checkpoint than the one beside it'
        elif not all(x is None or type(x) in (int, float) for x in numbers):
            problem = f'expected numbers for train_loss, kl and train_seconds in {path}, got {numbers}'
    except UserError as error:
        problem = str(error)
    if problem:
        print(f'warning: {problem}; graded again, without train_seconds', file=sys.stderr)
    return {CHECKSUM: found} if problem else {**results, CHECKSUM: found}


def finish_run(run: Run, trained: TrainedRun, results: dict):
    """Write report.html and results.json, put the run in its place, and print its row of the table."""
    results = {
        **describe_run(trained),
        **results,
        'train_seconds': round(run.train_seconds, 1),
        'total_seconds': round(time.perf_counter() - STARTED, 1),  # of this program
        'device': run.device.type,
        'data': run.source,
        'torch': torch.__version__,
    }
    write_report(run.folder, results, trained.config.to_dict())
    run.finish(results)
    update_index(run.run_dir)
    print_results([results], [str(run.run_dir)])
    print(f'pictures and figures: {run.run_dir / "report.html"}')


def update_index(*folders: Path):
    """Write runs/index.html again, if one of the folders of runs lies under runs/, and that is writable."""
    inside = any(RUNS.resolve() in folder.resolve().parents for folder in folders)
    if inside and os.access(RUNS, os.W_OK):
        write_index(RUNS)


# ---------------------------------------------------------------------------------- tables on the terminal


def print_table(rows: list[list[str]], columns: dict[str, str]):
    """Aligned lines: rows below the names in columns, name -> '<' (left) or '>' (right)."""
    lines = [list(columns), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [f'{text:{align}{width}}' for text, align, width in zip(line, columns.values(), widths)]
        print('  '.join(cells).rstrip())


def cell(value: Any, name: str) -> str:
    """The text of a result in a table's column of that name."""
    if value is None:
        return '-'
    if isinstance(value, float):
        return f'{value:.1f}' if name in ONE_DECIMAL else f'{value:.4f}'
    return str(value)


def print_results(results: list[dict], names: list[str]):
    """An aligned table, a row for each run; '-' where a run has no such result. Below it the table of
    samples, of the runs that have one."""
    columns = dict(COLUMNS)
    if any('coverage_90' in found for found in results):  # of incomplete images
        columns |= dict.fromkeys(('missing', 'test_rmse_missing', 'coverage_90'), '>')
    if any('refined_negative_elbo' in found for found in results):
        columns |= {'refined_negative_elbo': '>'}
    if any('log_likelihood' in found for found in results):
        columns |= dict.fromkeys(('log_likelihood', 'log_likelihood_error', 'ess'), '>')
    rows = [dict.fromkeys(columns) | {'run': name} | found for name, found in zip(names, results)]
    print_table([[cell(row[name], name) for name in columns] for row in rows], columns)
    rows = [
        {'run': name, 'samples': kind, **row}
        for name, found in zip(names, results)
        for kind, row in (found['samples'] or {}).items()
    ]
    if rows:
        print()
        print_table([[cell(row[name], name) for name in SAMPLE_COLUMNS] for row in rows], SAMPLE_COLUMNS)
