"""Run what stands behind the tables of README and docs, and render the tables from it.

Usage:
    python -m experiments.reproduce                       all tables
    python -m experiments.reproduce systems families --write
    python -m experiments.reproduce --quick               one seed, few images: does everything run?

Each run is a folder of its own, and finished ones are not trained again: the same command goes on where it
stopped. --write puts the figures into docs/tables/TABLE.json and the tables into the pages.
"""

import dataclasses
import datetime
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments import imputation_report, likelihood, sweep_decoders
from experiments.scripts import check_out, run_script, train_run
from experiments.tables import FOLDER, TABLES, Row, Table, figures_of, render
from training import (
    UserError,
    data_path_flag,
    flag,
    lock_folder,
    parse_flags,
    run_command,
    write_atomically,
    write_json,
)
from training.command import print_error
from training.data import default_data_path
from training.startup import FOLDER as PROJECT

# Comparisons, which keep their results themselves, in OUT/NAME: the command, and the module that reads and
# renders them, with read_rows(out) and render_tables(rows).
COMPARISONS = {
    'imputation': (['-m', 'experiments.imputation'], imputation_report),
    'imputation-full': (
        ['-m', 'experiments.imputation', '--data', 'fashion-mnist', '--n-test', '2000']
        + ['--rates', '0.5', '0.9', '--methods', 'mean', 'nearest', 'ppca', 'soft-impute', 'vae', 'vad'],
        imputation_report,
    ),
    'imputation-mnist': (
        ['-m', 'experiments.imputation', '--data', 'mnist', '--n-test', '2000']
        + ['--rates', '0.3', '0.5', '0.7', '0.9']
        + ['--methods', 'mean', 'nearest', 'ppca', 'soft-impute', 'vae', 'miwae', 'vad'],
        imputation_report,
    ),
    'likelihood': (['-m', 'experiments.likelihood', '--n-test', '100', '--seeds', '0', '1', '2'], likelihood),
    'likelihood-mnist': (
        ['-m', 'experiments.likelihood', '--data', 'mnist-dynamic', '--n-test', '400'],
        likelihood,
    ),
    'decoders': (['-m', 'experiments.sweep_decoders'], sweep_decoders),
}
ON_COURSE_DATA = 'imputation', 'likelihood'  # the others are on the whole data sets
QUICK = ['--epochs', 2, '--n-train', 200, '--n-test', 100]  # of each training
QUICK_COMPARISONS = {
    'imputation': ['--rates', 0.5, '--methods', 'mean', 'knn', '--n-test', 50],
    'imputation-full': ['--rates', 0.5, '--methods', 'mean', '--n-test', 50],
    'imputation-mnist': ['--rates', 0.5, '--methods', 'mean', '--n-test', 50],
    'likelihood': ['--systems', 'ppca', '--n-test', 50],
    'likelihood-mnist': ['--systems', 'ppca', '--n-test', 50],
    'decoders': ['--decoders', 'conv4', '--epochs', 1, '--n-train', 200, '--n-test', 100],
}
PAGES = PROJECT / 'README.md', *sorted((PROJECT / 'docs').glob('*.md'))
RECORDS = PROJECT / 'docs/tables'


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run what stands behind the tables of README and docs, and render the tables from it."""

    tables: list[str] = flag(
        (),
        f'which; none: all of {", ".join((*TABLES, *COMPARISONS))}',
        choices=[*TABLES, *COMPARISONS],
        positional=True,
        nargs='*',
        metavar='TABLE',
    )
    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    course_path: str | None = flag(
        None,
        "folder of the course's CSV files, for the tables of 1,000 images (default: as --data-path)",
        metavar='DIR',
    )
    photos: str | None = flag(
        None, 'uint8 [N, 64, 64, 3], for the tables of photographs (default: Imagenette)', metavar='FILE.npy'
    )
    quick: bool = flag(False, 'one seed and few images: shows that everything runs, not how good it is')
    write: bool = flag(False, 'write the figures to docs/tables, and the tables into README and docs')
    out: Path = flag(Path('runs/reproduce'), 'folder of the runs', Path, metavar='DIR')


def data_flags(options: Options, data: str) -> list:
    """Where a table's images are."""
    data_path = options.data_path or default_data_path()
    if data == 'photos':
        if options.photos:
            return ['--data-path', options.photos]
        return ['--data-path', data_path, '--dataset', 'imagenette']
    return ['--data-path', options.course_path or data_path if data == 'course' else data_path]


def read_figures(path: Path) -> dict | list:
    """What a JSON file of a run has. UserError: it cannot be read."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'expected JSON in {path}, got {error}; delete that run and start again') from None


def run_row(row: Row, seed: int, data: str, flags: list, out: Path) -> dict:
    """What the JSON files of a row's run say, by name without suffix; the run is made if it is not there.

    UserError: a command failed.
    """
    (script, *own), *others = row.commands
    name = '_'.join(word.strip('-').removesuffix('.py') for word in (script, *own, f'seed{seed}'))
    folder = out / 'runs' / name
    # A data set that is named is never replaced by another. (Photographs are a file, or named in flags.)
    named = data != 'photos' and '--dataset' not in own
    train_run(
        folder, script, *own, '--seed', seed, *flags, *(['--dataset', 'fashion-mnist'] if named else [])
    )
    for command in others:
        done = folder / f'{command[1].split(".")[-1]}.json'  # experiments.classify writes classify.json
        if not done.exists():
            run_script(*(folder if word == FOLDER else word for word in command))
    return {path.stem: read_figures(path) for path in folder.glob('*.json')}


def run_table(name: str, table: Table, options: Options) -> list[dict]:
    """The figures of a table's rows by seed."""
    flags = data_flags(options, table.data) + (QUICK if options.quick else [])
    rows = []
    for row in table.rows:
        by_seed = {}
        for seed in (0,) if options.quick else table.seeds:
            found = run_row(row, seed, table.data, flags, options.out)
            by_seed[str(seed)] = figures_of(table, row, found)  # JSON's names are texts
            print(f'{name}: {" ".join(row.commands[0])}, seed {seed}: {by_seed[str(seed)]}', flush=True)
        rows.append(by_seed)
    return rows


def put_into_pages(name: str, text: str):
    """Replace the table below the line <!-- table: NAME --> of the pages that have one."""
    for page in PAGES:
        # The marker's line, and the lines below it that begin with |.
        found = re.compile(f'(?<=<!-- table: {name} -->\n)(\\|.*\n)*')
        before = page.read_text(encoding='utf-8')
        after = found.sub(lambda _: text, before)
        if after != before:
            write_atomically(page, lambda path, after=after: path.write_text(after, encoding='utf-8'))


def run_comparison(name: str, options: Options) -> list[dict]:
    """The results of a comparison."""
    script, module = COMPARISONS[name]
    quick = QUICK_COMPARISONS[name] if options.quick else []
    data = 'course' if name in ON_COURSE_DATA else 'full'
    run_script(*script, *quick, '--out', options.out / name, *data_flags(options, data))
    return module.read_rows(options.out / name)


def render_record(name: str, record: dict) -> dict[str, str]:
    """The tables of a record, Markdown by the names that the pages give them."""
    if name in COMPARISONS:
        _, module = COMPARISONS[name]
        return module.render_tables(record['rows'])
    return {name: render(TABLES[name], record)}


def reproduce(name: str, options: Options):
    """Run, print and write one table, or those of a comparison. UserError: it cannot be had."""
    if name in COMPARISONS:
        rows = run_comparison(name, options)
    else:
        rows = run_table(name, TABLES[name], options)
    record = {'date': str(datetime.date.today()), 'torch': torch.__version__, 'rows': rows}
    write_json(options.out / f'{name}.json', record)
    for table, text in render_record(name, record).items():
        print(f'\n{table}\n\n{text}')
        if options.write:
            put_into_pages(table, text)
    if options.write:
        RECORDS.mkdir(exist_ok=True)
        write_json(RECORDS / f'{name}.json', record)


def main():
    options, failed = parse_flags(Options), False
    if options.quick and options.write:
        raise UserError('expected --write without --quick, whose figures are worth nothing; leave one out')
    out = options.out / 'quick' if options.quick else options.out
    check_out(options.out, 'quick' if (options.out / 'quick').is_dir() else 'runs')
    options = dataclasses.replace(options, out=out)
    (out / 'runs').mkdir(parents=True, exist_ok=True)
    with lock_folder(out):
        for name in options.tables or (*TABLES, *COMPARISONS):
            try:
                reproduce(name, options)
            except UserError as error:  # the others are made all the same
                print_error(f'table {name}: {error}')
                failed = True
    if failed:
        sys.exit(2)


if __name__ == '__main__':
    run_command(main)
