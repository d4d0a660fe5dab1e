"""What experiments/imputation.py shows of its results: tables, RMSE against the share of missing pixels, and
pictures.

A result is a row, a dict; its setting is (kind, rate) of what is missing.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from evaluation import save_figure
from experiments.baselines import BASELINES
from experiments.scripts import read_entries
from training import UserError, write_atomically, write_json

METHODS = {
    'truth': 'true images',
    'zeros': 'zeros',
    'mean': 'mean image',
    'nearest': 'nearest observed pixel',
    'knn': '5 nearest images (KNNImputer)',
    'iterative': 'Bayesian ridge (IterativeImputer)',
    'ppca': 'PPCA',
    'soft-impute': 'soft-impute',
    'vae': 'VAE',
    'miwae': 'MIWAE',
    'ad': 'AD',
    'vad': 'VAD (Gaussian)',
}
ENCODER_ONLY = ', encoder only'
# RMSE on the missing pixels of MNIST, by Ma and Ghosh ("EMFlow: data imputation in latent space via EM and
# deep flow models", 2021), table 2. The same protocol, with other random numbers.
PUBLISHED_RATES = 0.1, 0.3, 0.5, 0.7, 0.8, 0.9
PUBLISHED = {
    'GAIN (published)': (0.1029, 0.1399, 0.1723, 0.2167, 0.2200, 0.2710),
    'MisGAN (published)': (0.1083, 0.1184, 0.1311, 0.1512, 0.1906, 0.2621),
    'MCFlow (published)': (0.0835, 0.0894, 0.1027, 0.1251, 0.1463, 0.2020),
    'EMFlow (published)': (0.0726, 0.0832, 0.0986, 0.1260, 0.1504, 0.1951),
}
# The order of the tables.
LABELS = [*METHODS.values(), *PUBLISHED]
for method in ('vae', 'miwae'):
    LABELS.insert(LABELS.index(METHODS[method]), METHODS[method] + ENCODER_ONLY)
# Entry of a row -> title, decimals, and a function that is larger the worse a value is.
MEASURES = {
    'rmse_missing': ('RMSE on missing pixels (0-1)', 4, lambda x: x),
    'accuracy': ('accuracy of 5 nearest neighbours', 3, lambda x: -x),
    'coverage_90': ('share inside 90% intervals', 3, lambda x: abs(x - 0.9)),
    'crps': ('CRPS on missing pixels', 4, lambda x: x),
    'seconds': ('seconds', 1, lambda x: x),
}
SEEDS = 3  # what is from fewer seeds says so
COLOURS = {METHODS['vad']: '#c1121f', METHODS['ad']: '#e07a1f', METHODS['miwae']: '#2a7f4f'}
COLOURS |= {METHODS['vae']: '#1f6fb2', METHODS['vae'] + ENCODER_ONLY: '#6fa8d6'}
COLOURS |= {METHODS['miwae'] + ENCODER_ONLY: '#7fbf9a'}  # the others are grey
LIGHT_BLUE = 0.62, 0.80, 0.95  # a missing pixel


# -------------------------------------------------------------------------------------------- results


def cell_name(data: str, kind: str, rate: float, method: str, seed: int) -> str:
    """Of the files of a result."""
    return f'{data}-{kind}-{rate}-{method}-seed{seed}'


def read_rows(out: Path) -> list[dict]:
    """The results in the folder. UserError: one cannot be read."""
    names = 'data', 'kind', 'rate', 'method', 'seed', 'n_train', 'n_test', 'test_checksum'
    return [read_entries(path, names) for path in sorted((out / 'cells').glob('*.json'))]


def rows_to_show(rows: list[dict]) -> list[dict]:
    """The results with 'label', and rows for the encoders of VAEs and for the published figures."""
    shown = [{**row, 'label': METHODS[row['method']]} for row in rows]
    for row in rows:
        usual = {name: row[f'{name}_encoder'] for name in MEASURES if f'{name}_encoder' in row}
        if usual:
            place = {name: row[name] for name in ('data', 'kind', 'rate')}
            shown.append({**place, 'label': METHODS[row['method']] + ENCODER_ONLY, **usual})
    settings = settings_of([row for row in rows if row['data'] == 'mnist'])
    for label, values in PUBLISHED.items():
        for rate, value in zip(PUBLISHED_RATES, values):
            if ('pixels', rate) in settings:
                row = {'data': 'mnist', 'kind': 'pixels', 'rate': rate, 'label': label}
                shown += SEEDS * [{**row, 'rmse_missing': value}]  # their own numbers of seeds are not known
    return shown


def settings_of(rows: list[dict]) -> list[tuple[str, float]]:
    """Pixels first."""
    return sorted({(row['kind'], row['rate']) for row in rows}, key=lambda s: (s[0] != 'pixels', s[1]))


def collect(rows: list[dict], measure: str) -> dict[str, dict[tuple[str, float], list[float]]]:
    """The values of a measure by label and setting, those of the seeds with the worst one first."""
    _, decimals, badness = MEASURES[measure]
    values = {}
    for row in sorted(rows, key=lambda row: LABELS.index(row['label'])):
        if row.get(measure) is not None:
            found = values.setdefault(row['label'], {}).setdefault((row['kind'], row['rate']), [])
            found.append(round(row[measure], decimals))  # what reads the same is the same
            found.sort(key=badness, reverse=True)
    return values


def by_data(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each data set."""
    return {data: [row for row in rows if row['data'] == data] for data in sorted({r['data'] for r in rows})}


# --------------------------------------------------------------------------------------------- tables


def title(rows: list[dict]) -> str:
    """The name of a data set with its numbers of images."""
    name = 'MNIST' if rows[0]['data'] == 'mnist' else 'Fashion-MNIST'
    return f'{name}, {rows[0]["n_train"]:,} + {rows[0]["n_test"]:,} images'


def setting_label(setting: tuple[str, float]) -> str:
    kind, rate = setting
    return f'{100 * rate:g}%' if kind == 'pixels' else f'a block ({100 * rate:g}%)'


def table(rows: list[dict], measure: str) -> str:
    """A Markdown table of a measure, labels by settings; '' if no row has it."""
    heading, decimals, badness = MEASURES[measure]
    values, settings = collect(rows, measure), settings_of(rows)
    if not values:
        return ''
    competing = [of for label, of in values.items() if label != METHODS['truth'] and measure != 'seconds']
    best = {
        setting: min((of[setting][0] for of in competing if setting in of), key=badness, default=None)
        for setting in settings
    }
    lines = [f'| {heading} | {" | ".join(map(setting_label, settings))} |']
    lines.append('| --- |' + ' --- |' * len(settings))
    for label, of_label in values.items():
        cells = []
        for setting in settings:
            found = of_label.get(setting)
            cell = f'{found[0]:.{decimals}f}' if found else ''
            if found and found[0] == best[setting] and label != METHODS['truth']:
                cell = f'**{cell}**'
            cells.append(cell + (f' ({len(found)})' if found and len(found) < SEEDS else ''))
        lines.append(f'| {label} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def render_tables(rows: list[dict]) -> dict[str, str]:
    """A Markdown table for each data set and measure that there are results of, for the pages: without the
    seconds, which depend on what else the machine did (tables.md has them)."""
    tables = {
        f'imputation-{data}-{measure}': table(rows_of_data, measure)
        for data, rows_of_data in by_data(rows_to_show(rows)).items()
        for measure in MEASURES
        if measure != 'seconds'
    }
    return {name: text for name, text in tables.items() if text}


# ---------------------------------------------------------------------------------------------- plots


def spread_out(places: list[float], gap: float) -> np.ndarray:
    """Ascending places, moved apart until neighbours are almost `gap` from each other."""
    places = np.array(places)
    for _ in range(200):
        overlap = np.maximum(gap - np.diff(places), 0) / 2
        places[:-1] -= overlap / 2
        places[1:] += overlap / 2
    return places


def draw_rmse(rows: list[dict], file_name: Path):
    """RMSE against the share of missing pixels, a panel for each data set, a line for each method."""
    panels = by_data([row for row in rows if row['kind'] == 'pixels'])
    size = 7.5 * len(panels), 5.5
    fig, axes = plt.subplots(1, len(panels), figsize=size, layout='constrained', squeeze=False)
    for ax, rows_of_data in zip(axes[0], panels.values()):
        values = collect(rows_of_data, 'rmse_missing')
        values.pop(METHODS['zeros'], None)  # far above the others
        ends = []
        for label, of_label in values.items():
            x, y = zip(*((rate, found[0]) for (_, rate), found in sorted(of_label.items())))
            style = dict(color=COLOURS.get(label, '0.5'), linestyle=':' if label in PUBLISHED else '-')
            ax.plot(x, y, marker='o', markersize=4, linewidth=2 if label in COLOURS else 1.2, **style)
            ends.append((y[-1], x[-1], label))
        ends.sort()
        right = max(x for _, x, _ in ends) + 0.05
        places = spread_out([y for y, _, _ in ends], gap=0.042 * np.ptp(ax.get_ylim()))
        for (y, x, label), place in zip(ends, places):
            colour = COLOURS.get(label, '0.35')
            line = dict(arrowstyle='-', color=colour, linewidth=0.5, shrinkA=0, shrinkB=3, relpos=(0, 0.5))
            text = dict(color=colour, va='center', fontsize=9, annotation_clip=False)
            ax.annotate(label, (x, y), (right, place), arrowprops=line, **text)
        rates = sorted({row['rate'] for row in rows_of_data})
        ax.set(title=title(rows_of_data), xticks=rates, xticklabels=[f'{100 * rate:g}%' for rate in rates])
        ax.set(xlabel='share of missing pixels', ylabel='RMSE on missing pixels')
        ax.grid(alpha=0.25)
        ax.spines[['top', 'right']].set_visible(False)
    save_figure(fig, file_name)


def draw_pictures(rows: list[dict], out: Path, file_name: Path):
    """The same test images of a data set at each setting: the truth, what is observed, completed by the VAD,
    and completed by the simple imputer that has the lowest RMSE there."""
    seed = min(row['seed'] for row in rows)
    panels = {}  # by setting: labels, and images [8, H, W, 3] of each
    for setting in settings_of(rows):
        here = [row for row in rows if (row['kind'], row['rate'], row['seed']) == (*setting, seed)]
        rmse = {row['method']: row['rmse_missing'] for row in here if 'rmse_missing' in row}
        best = min((method for method in rmse if method in BASELINES), key=rmse.get, default=None)
        for method in ('vad', best):
            if method in rmse:
                path = out / 'cells' / f'{cell_name(rows[0]["data"], *setting, method, seed)}.npy'
                true, observed, completed = np.load(path)[..., None].repeat(3, -1)
                observed = np.where(np.isnan(observed), LIGHT_BLUE, observed)
                panel = panels.setdefault(setting, {'truth': true, 'observed': observed})
                panel[METHODS[method]] = completed
    if not panels:
        return
    lines = -(-len(panels) // 2)
    fig, axes = plt.subplots(lines, 2, figsize=(12, 2.7 * lines), layout='constrained', squeeze=False)
    for ax in axes.flat:
        ax.axis('off')
    for ax, (setting, panel) in zip(axes.flat, panels.items()):
        framed = [np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=1) for x in panel.values()]
        ax.axis('on')
        ax.imshow(np.concatenate([np.concatenate(list(images), 1) for images in framed]))
        height = framed[0].shape[1]
        ax.set_yticks([height * (i + 0.5) for i in range(len(panel))], panel)
        ax.set(xticks=[], title=f'{setting_label(setting)} missing')
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    save_figure(fig, file_name)


def write_report(out: Path):
    """Write results.json, tables.md, rmse.png and a pictures_<data>.png for each data set. UserError: there
    are no results."""
    rows = read_rows(out)
    if not rows:
        raise UserError(
            f'expected results in {out}, got none; first: python -m experiments.imputation --out {out}'
        )
    write_json(out / 'results.json', rows)
    shown = rows_to_show(rows)
    text = 'The worst of the seeds, in brackets their number where it is less than three. Bold: the best.\n'
    for rows_of_data in by_data(shown).values():
        parts = filter(None, (table(rows_of_data, measure) for measure in MEASURES))
        text += f'\n## {title(rows_of_data)}\n\n' + '\n'.join(parts)
    write_atomically(out / 'tables.md', lambda path: path.write_text(text))
    if any(row['kind'] == 'pixels' and row.get('rmse_missing') for row in shown):
        draw_rmse(shown, out / 'rmse.png')
    for data, rows_of_data in by_data(rows).items():
        draw_pictures(rows_of_data, out, out / f'pictures_{data}.png')
    print(f'tables and plots: {out / "tables.md"}, {out / "rmse.png"}, {out / "pictures_*.png"}')
