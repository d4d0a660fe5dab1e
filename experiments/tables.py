"""The tables of README and docs: which runs stand behind each, and how it is rendered from their figures.

A page has a table below the line <!-- table: NAME -->. experiments/reproduce.py runs the commands, and keeps
the figures in docs/tables/NAME.json. To add a table, enter it in TABLES and write that line into a page.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evaluation.names import REPORTED_LOSSES
from experiments.scripts import markdown_table
from training import UserError


@dataclass(frozen=True)
class Column:
    """A column of figures, or of text if the rows have a text of its title."""

    title: str
    key: str = ''  # of a figure in the JSON files of a run: 'results.test_loss'; {name}: of a row's `fill`
    digits: int = 4
    worst: Callable = max  # of several seeds


@dataclass(frozen=True)
class Row:
    """A row: what it shows besides figures, and the commands that give these.

    Of a command, FOLDER stands for the run's folder. The first one trains, and gets --run-dir and --seed.
    """

    texts: dict[str, str]  # by title of the column
    commands: list[list[str]]
    fill: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[Row]
    seeds: tuple[int, ...] = (0, 1, 2)
    data: str = 'course'  # 'course': its 1,000 + 1,000 images; 'full': the whole data sets; or 'photos'


FOLDER = 'FOLDER'


def look_up(found: dict, key: str) -> Any:
    """found['a']['b'][0] for the key 'a.b.0'."""
    for part in key.split('.'):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def figures_of(table: Table, row: Row, found: dict) -> dict:
    """The figures of a row by title of the column. found: the JSON files of the run by name. UserError: they
    lack one."""
    columns = [column for column in table.columns if column.key and column.title not in row.texts]
    keys = {column.title: column.key.format(**row.fill) for column in columns}
    try:
        return {title: look_up(found, key) for title, key in keys.items()}
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f'expected {", ".join(keys.values())} in the run of {" ".join(row.commands[0])}, got none for '
            f'{error}; delete that run and start again'
        ) from None


def render(table: Table, record: dict) -> str:
    """Lines of Markdown. record: what docs/tables has, {'rows': [{seed: figures}, ...]}.

    UserError: it is of another version of the table.
    """
    if len(record['rows']) != len(table.rows):
        raise UserError(
            f'expected figures of {len(table.rows)} rows, got {len(record["rows"])}; run the table again'
        )
    lines = [
        [row.texts.get(column.title) or cell(column, by_seed) for column in table.columns]
        for row, by_seed in zip(table.rows, record['rows'])
    ]
    return markdown_table([column.title for column in table.columns], lines) + '\n'


def cell(column: Column, by_seed: dict) -> str:
    """A figure, the worst of the seeds, as text. Empty: the row has none."""
    figures = [figures[column.title] for figures in by_seed.values() if column.title in figures]
    figures = [figure for figure in figures if figure is not None]
    if not figures:
        return ''
    return f'{column.worst(figures):,.{column.digits}f}'


# ------------------------------------------------------------------------------------------- the tables

SEEDS = 0, 1, 2
FULL = ['--n-train', 'all', '--n-test', 'all']
MNIST = ['--dataset', 'mnist', '--likelihood', 'bernoulli', *FULL]
LEARNED = ['--prior', 'learned']
CODE_OF_8 = ['train_vae.py', '--latent-dim', '8']
CLASSIFY = ['-m', 'experiments.classify', FOLDER]


def row(command: list[str], *others: list[str], fill: dict | None = None, **texts: str) -> Row:
    """A row that shows its first command, besides other texts."""
    return Row({'command': f'`{" ".join(command)}`', **texts}, [command, *others], fill or {})


# System -> its command, and the lowest test loss in a report.
FAMILIES = {
    'AD, 128': (['train_ad.py'], ('ad', None)),
    'VAD, Gaussian, 60': (['train_vad.py'], ('vad', 'gaussian')),
    'VAD, Laplace, 60': (['train_vad.py', '--dist', 'laplace'], ('vad', 'laplace')),
    'VAD, exponential, 60': (['train_vad.py', '--dist', 'exponential'], ('vad', 'exponential')),
}
FAMILIES = {name: (command, f'{REPORTED_LOSSES[key]:.4f}') for name, (command, key) in FAMILIES.items()}
FAMILIES['VAD, uniform, 60'] = ['train_vad.py', '--dist', 'uniform'], 'given up'
ENCODERS = {'AE, 8': (['train_ae.py'], 'none'), 'VAE, 60': (['train_vae.py'], 'none')}
LEARNED_PRIORS = row(['train_vad.py', *LEARNED]), row(['train_vae.py', *LEARNED])
SYSTEM, COMMAND, REPORT = Column('system, latent dimensions'), Column('command'), Column("a report's")
TEST_LOSS, PCA = Column('test loss', 'results.test_loss'), Column('PCA', 'results.pca_loss')
NEIGHBOURS = Column('neighbours', 'results.knn_accuracy', 3, min)
NEGATIVE_ELBO = Column('negative ELBO', 'results.test_negative_elbo', 1)
TERMS = Column('reconstruction', 'results.test_reconstruction', 1), Column('KL', 'results.test_kl', 1)
SECONDS = Column('seconds of training', 'results.train_seconds', 0)
FRECHET, CLASSES = Column('Fréchet', 'results.frechet', 1), Column('classes', 'results.classes', 0, min)
GRADES = 'precision', 'recall', 'density', 'coverage', 'authenticity'
PASSES = 0, 2, 4, 8, 16, 32  # of fitting an encoder's latents further


def systems(rows: dict) -> list[Row]:
    return [
        row(command, **{SYSTEM.title: name, REPORT.title: report}) for name, (command, report) in rows.items()
    ]


def sizes(flags: list[str]) -> list[Row]:
    """Auto-encoders with codes of the AE report's sizes."""
    rows = (row(['train_ae.py', '--latent-dim', str(d), *flags], dimensions=str(d)) for d in range(2, 15, 2))
    return list(rows)


def of_samples(kind: str, grade: str, title: str, digits: int, worst: Callable) -> Column:
    return Column(f'{title}: {kind}', f'results.samples.{kind}.{grade}', digits, worst)


TABLES = {
    'systems': Table([SYSTEM, COMMAND, REPORT, PCA, TEST_LOSS], systems(FAMILIES | ENCODERS)),
    'families': Table(
        [
            *(COMMAND, TEST_LOSS, Column('at the mean', 'results.test_loss_mean')),
            *(Column('train loss', 'results.train_loss'), Column('KL, nats', 'results.kl', 1)),
            *(NEGATIVE_ELBO, NEIGHBOURS),
        ],
        [
            row(command, **({NEGATIVE_ELBO.title: ' '} if name.startswith('AD') else {}))
            for name, (command, _) in FAMILIES.items()
        ]
        + [LEARNED_PRIORS[0]],
    ),
    'samples': Table(
        [
            COMMAND,
            *(of_samples(kind, 'frechet', 'Fréchet', 1, max) for kind in ('prior', 'two-stage', 'mixture')),
            Column('reconstructions', 'results.samples.reconstructions.frechet', 1),
            of_samples('mixture', 'coverage', 'coverage', 2, min),
            of_samples('mixture', 'authenticity', 'authenticity', 2, min),
            Column('of reconstructions', 'results.samples.reconstructions.authenticity', 2),
        ],
        [*systems(FAMILIES | ENCODERS), *LEARNED_PRIORS],
    ),
    'controls': Table(
        [
            *(Column('images'), Column('Fréchet', 'results.samples.{set}.frechet', 1)),
            *(Column(grade, f'results.samples.{{set}}.{grade}', 2, min) for grade in GRADES),
        ],
        [
            row(['train_vad.py'], fill={'set': kind}, images=title)
            for kind, title in {
                'prior': 'samples from the prior',
                'two-stage': 'samples from the prior of the second stage',
                'mixture': 'samples from the mixture',
                'reconstructions': 'reconstructions of the test images',
                'noisy copies': 'training images with noise (a standard deviation of 0.1)',
                'test images': 'the test images, one half against the other',
            }.items()
        ]
        + [row(['train_vad.py', *LEARNED], fill={'set': 'prior'}, images='samples from a learned prior')],
    ),
    'gans': Table(
        [
            *(COMMAND, FRECHET, Column('floor', 'results.frechet_floor', 1)),
            *(of_samples('prior', grade, grade, 2, min) for grade in ('precision', 'recall', 'coverage')),
            of_samples('prior', 'authenticity', 'authenticity', 2, min),
            CLASSES,
        ],
        [row(['train_gan.py']), row(['train_gan.py', '--model', 'linear'])],
    ),
    'sizes': Table([Column('dimensions'), TEST_LOSS, PCA, NEIGHBOURS], sizes([]), (0,)),
    'regularisers': Table(
        [COMMAND, TEST_LOSS],
        [
            row(['train_ae.py', *flags])
            for flags in ([], ['--patience', '5'], ['--prune', '0.5'], ['--dropout', '0.1'])
        ],
        (0,),
    ),
    'amortisation': Table(
        [
            Column('passes, from'),
            *(Column(str(passes), f'amortisation.{{after{passes}}}.negative_elbo', 1) for passes in PASSES),
        ],
        [
            row(
                ['train_vae.py'],
                fill={f'after{passes}': first + i for i, passes in enumerate(PASSES)},
                **{'passes, from': start},
            )
            for start, first in (("the encoder's latents", 0), ('the prior', len(PASSES)))
        ],
        (0,),
    ),
    'full': Table(
        [
            *(COMMAND, TEST_LOSS, PCA, NEGATIVE_ELBO, NEIGHBOURS, SECONDS, FRECHET),
            Column('of the mixture', 'results.samples.mixture.frechet', 1),
            Column('floor', 'results.frechet_floor', 1),
        ],
        [row(['train_vad.py', *FULL]), row(['train_vad.py', *LEARNED, *FULL])],
        (0,),
        'full',
    ),
    'full-sizes': Table([Column('dimensions'), TEST_LOSS, PCA, NEIGHBOURS], sizes(FULL), (0,), 'full'),
    'classifiers': Table(
        [COMMAND, Column('classifier'), REPORT, Column('test accuracy', 'classify.accuracy.{head}', 3, min)],
        [
            row([*command, *FULL], CLASSIFY, fill={'head': head}, classifier=head, **{REPORT.title: report})
            for command in (['train_ae.py'], CODE_OF_8, [*CODE_OF_8, *LEARNED])
            for head, report in (('three layers (64, 288)', 'about 0.80'), ('one layer', 'about 0.70'))
        ],
        (0,),
        'full',
    ),
    'planes': Table(
        [COMMAND, NEGATIVE_ELBO, *TERMS, NEIGHBOURS, FRECHET, CLASSES],
        [row(['train_vae.py', '--latent-dim', d, '--obs-std', 'auto', *FULL]) for d in ('2', '5')],
        (0,),
        'full',
    ),
    'digits': Table(
        [COMMAND, REPORT, NEGATIVE_ELBO, *TERMS, SECONDS],
        [
            row(['train_vae.py', '--encoder', 'lstm', *MNIST], **{REPORT.title: '112.77 = 85.14 + 27.63'}),
            row(['train_vae.py', *MNIST], **{REPORT.title: 'none'}),
            row(['train_vae.py', *MNIST, '--epochs', '60'], **{REPORT.title: 'none'}),
            row(['train_vae.py', *LEARNED, *MNIST], **{REPORT.title: 'none'}),
            row(['train_vae.py', *LEARNED, *MNIST, '--epochs', '60'], **{REPORT.title: 'none'}),
        ],
        (0,),
        'full',
    ),
    'full-gans': Table(
        [COMMAND, FRECHET, CLASSES],
        [row(['train_gan.py', *FULL]), row(['train_vae.py', *FULL])],
        (0,),
        'full',
    ),
    'gan-report': Table(
        [COMMAND, FRECHET, CLASSES],
        [
            row(['train_vae.py', '--encoder', 'mlp', '--decoder', 'mlp', *MNIST]),
            row(['train_gan.py', '--model', 'linear', '--dataset', 'mnist', *FULL]),
        ],
        (0,),
        'full',
    ),
    'photos': Table(
        [COMMAND, Column('train loss', 'results.train_loss'), TEST_LOSS, PCA],
        [row(['train_vae.py', '--decoder', 'conv64']), row(['train_vad.py', '--decoder', 'conv64'])],
        (0,),
        'photos',
    ),
}
