"""What one reads of a run: report.html, results.json, and the table on the terminal."""

import base64
import html
import sys
from pathlib import Path
from typing import Any

import torch

from training import CHECKSUM, Run, TrainedRun, UserError, checksum, read_json, write_atomically

CAPTIONS = {
    'reconstructions.png': 'Reconstructions below their originals, from training and from test images.',
    'imputed.png': (
        'Test images with missing pixels (blue), their conditional mean, two draws of the missing pixels, '
        'the standard deviation, and the truth if it is known.'
    ),
    'samples.png': (
        'Random samples: decoded draws from the prior, from the prior of a second VAE, of the codes of the '
        'training images, and from a Gaussian mixture fitted to these. Below the last row of each, the '
        'nearest training images in pixels.'
    ),
    'interpolation.png': 'From one test image to another, along a straight line between their posteriors.',
    'magnitudes.png': (
        'The all-zeros and the all-ones vector, and test latents scaled to 0.5, 1 and 1.5 of their length.'
    ),
    'tsne_train.png': 'Training latents (codes of the posterior means), mapped to the plane by t-SNE.',
    'tsne_test.png': 'Test latents, mapped likewise.',
    'codes.png': 'Codes of the test images in the plane, on their two principal components and by t-SNE.',
    'grid.png': 'Decoded codes in the plane, at equally probable steps of the prior.',
    'loss.png': (
        'Negative ELBO and its two terms, means over each epoch. Validation, where there is an encoder: '
        'images that it does not train on, with --patience those held out, else the test images, which '
        'decide nothing.'
    ),
    'amortisation.png': (
        "Negative ELBO of test images whose latents were fitted further, from the encoder's and from the "
        'prior.'
    ),
    'samples.gif': 'The same draws from the prior, epoch after epoch.',
    'interpolation.gif': 'The interpolation as an animation.',
}
GAN_CAPTIONS = {  # where they differ
    'samples.png': 'Random samples: images of draws from N(0, 1). Below the last row, the nearest training '
    'images in pixels.',
    'interpolation.png': 'From one draw to another, along the arc between them.',
    'loss.png': 'The losses of both networks, and how real the discriminator finds real and generated '
    'images.',
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }}
table {{ border-collapse: collapse; }}
td {{ padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid #ddd; }}
figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }} figcaption {{ color: #555; }}
.columns {{ display: flex; flex-wrap: wrap; gap: 3rem; }}
</style></head><body>
<h1>{title}</h1>
<div class="columns"><div><h2>Results</h2><table>{results}</table></div>
<div><h2>Configuration</h2><table>{config}</table></div></div>
{samples}
{figures}
</body></html>
"""
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
        'device': run.device.type,
        'data': run.source,
        'torch': torch.__version__,
    }
    write_report(run.folder, results, trained.config.to_dict())
    run.finish(results)
    print_results([results], [str(run.run_dir)])
    print(f'pictures and figures: {run.run_dir / "report.html"}')


def write_report(folder: Path, results: dict, config: dict):
    """Write report.html: figures, configuration and pictures of the folder, in one self-contained file."""

    def table(values):
        cells = [(html.escape(name), html.escape(format_value(value))) for name, value in values.items()]
        return ''.join(f'<tr><td>{name}</td><td>{value}</td></tr>' for name, value in cells)

    figures = ''
    for name, caption in (CAPTIONS | GAN_CAPTIONS if config['system'] == 'gan' else CAPTIONS).items():
        if (folder / name).exists():
            data = base64.b64encode((folder / name).read_bytes()).decode()
            source, caption = f'data:image/{name[-3:]};base64,{data}', html.escape(caption)
            figures += (
                f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>\n'
            )
    title = ' '.join(filter(None, (config['system'].upper(), config['dist'], 'on', config['dataset'])))
    grades = {name: value for name, value in results.items() if name not in config and name != 'samples'}
    page = PAGE.format(
        title=html.escape(title),
        figures=figures,
        config=table(config),
        results=table(grades),
        samples=table_of_samples(results['samples']),
    )
    write_atomically(
        folder / 'report.html',
        lambda path: path.write_text(page, encoding='utf-8', errors='backslashreplace'),
    )


def table_of_samples(samples: dict[str, dict] | None) -> str:
    """The table of samples for the report; '' if there is none."""
    if not samples:
        return ''
    names = [name for name in SAMPLE_COLUMNS if name != 'run']
    rows = [
        names,
        *([cell({'samples': kind, **row}[name], name) for name in names] for kind, row in samples.items()),
    ]
    lines = [''.join(f'<td>{html.escape(text)}</td>' for text in row) for row in rows]
    return '<h2>Samples</h2><table>' + ''.join(f'<tr>{line}</tr>' for line in lines) + '</table>'


def format_value(value: Any) -> str:
    return '-' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)


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
