"""report.html, the page of a run, and index.html, the page of all runs under runs/.

A report is one file that needs no other and no network: style, scripts and pictures are in it. The scripts
and the style sheet are in web/.
"""

import base64
import html
import json
from pathlib import Path

from evaluation.names import FIGURES, SAMPLE_FIGURES, Figure, describe, summarise
from training import UserError, read_json, write_atomically

WEB = Path(__file__).parent / 'web'
CAPTIONS = {
    'reconstructions.png': (
        'Reconstructions below their originals, from training and from test images. The test images show '
        'what the model can do: look for lost patterns, straps and letters.'
    ),
    'imputed.png': (
        'Test images with missing pixels (blue), their conditional mean, two draws of the missing pixels, '
        'the standard deviation, and the truth if it is known. The draws should differ where the spread '
        'is bright, and only there.'
    ),
    'samples.png': (
        'Random samples: decoded draws from the prior, from the prior of a second VAE, of the codes of '
        'the training images, and from a Gaussian mixture fitted to these. Below the last row of each, '
        'the nearest training images in pixels: a sample that equals the one below it is a copy.'
    ),
    'interpolation.png': (
        'From one test image to another, along a straight line between their posteriors. Images on the '
        'way should be possible ones, not a fading from one into the other.'
    ),
    'magnitudes.png': (
        'The all-zeros and the all-ones vector, and test latents scaled to 0.5, 1 and 1.5 of their length.'
    ),
    'tsne_train.png': 'Training latents (codes of the posterior means), mapped to the plane by t-SNE.',
    'codes.png': 'Codes of the test images in the plane, on their two principal components and by t-SNE.',
    'grid.png': (
        'Decoded codes in the plane, at equally probable steps of the standard prior. Neighbours should be '
        'alike, and every class should have its place.'
    ),
    'loss.png': (
        'Negative ELBO and its two terms, means over each epoch. Validation, where there is an encoder: '
        'images that it does not train on, with --patience those held out, else the test images, which '
        'decide nothing. A validation loss that rises while the other falls is overfitting.'
    ),
    'amortisation.png': (
        "Negative ELBO of test images whose latents were fitted further, from the encoder's and from the "
        'prior.'
    ),
    'likelihood.png': (
        'The estimate of log p against the number of importance samples: it should have become flat.'
    ),
    'samples.gif': 'The same draws from the prior, epoch after epoch.',
    'interpolation.gif': 'The interpolation as an animation.',
}
GAN_CAPTIONS = {  # where they differ
    'samples.png': (
        'Random samples: images of draws from N(0, 1). Below the last row, the nearest training images in '
        'pixels.'
    ),
    'interpolation.png': 'From one draw to another, along the arc between them.',
    'loss.png': (
        'The losses of both networks, and how real the discriminator finds real and generated images.'
    ),
}
MAP_CAPTION = (
    'Test latents (codes of the posterior means), mapped to the plane by t-SNE. Point at one, or move with '
    'the arrow keys, to see its image.'
)
ARROWS = '↓ lower is better, ↑ higher is better'
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
{style}</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def web(name: str) -> str:
    """A file of web/."""
    return (WEB / name).read_text(encoding='utf-8')


def write_page(path: Path, title: str, body: str):
    page = PAGE.format(title=html.escape(title), style=web('style.css'), body=body)
    write_atomically(path, lambda p: p.write_text(page, encoding='utf-8', errors='backslashreplace'))


def inlined(path: Path) -> str:
    """A picture as the address of an <img>."""
    kind = {'.jpg': 'jpeg'}.get(path.suffix, path.suffix[1:])
    return f'data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}'


def table(rows: list[list[str]], heading: list[str] | None = None) -> str:
    """Rows of texts; from the second column on they are figures."""

    def line(cells, tag):
        classes = ['', *[' class="number"'] * (len(cells) - 1)]
        return ''.join(f'<{tag}{c}>{html.escape(text)}</{tag}>' for c, text in zip(classes, cells))

    head = f'<tr>{line(heading, "th")}</tr>' if heading else ''
    body = ''.join(f'<tr>{line(row, "td")}</tr>' for row in rows)
    return f'<div class="scroll"><table>{head}{body}</table></div>'


# -------------------------------------------------------------------------------------- the page of a run


def write_report(folder: Path, results: dict, config: dict):
    """Write report.html of the run in folder: a summary, figures, configuration and pictures."""
    found = [
        [f'{figure.name} {figure.arrow}', figure.text(results[name])]
        for name, figure in FIGURES.items()
        if name in results
    ]
    captions = CAPTIONS | GAN_CAPTIONS if config['system'] == 'gan' else CAPTIONS
    parts = [
        f'<p class="lead">{html.escape(summarise({**config, **results}))}</p>',
        f'<h2>Figures</h2><p class="quiet">{ARROWS}</p>' + table(found),
        table_of_samples(results['samples']),
        map_of_latents(folder),
        '<h2>Pictures</h2>',
        *(
            f'<figure><img alt="{html.escape(caption)}" src="{inlined(folder / name)}">'
            f'<figcaption>{html.escape(caption)}</figcaption></figure>'
            for name, caption in captions.items()
            if (folder / name).exists()
        ),
        '<details><summary>Configuration</summary>'
        + table([[name, '–' if value is None else str(value)] for name, value in config.items()])
        + '</details>',
    ]
    title = describe(results | config)
    write_page(folder / 'report.html', title[0].upper() + title[1:], '\n'.join(parts))


def table_of_samples(samples: dict[str, dict] | None) -> str:
    """The table of samples; '' if there is none."""
    if not samples:
        return ''
    heading = ['samples', *(f'{figure.name} {figure.arrow}' for figure in SAMPLE_FIGURES.values())]
    rows = [
        [kind, *(figure.text(row.get(name)) for name, figure in SAMPLE_FIGURES.items())]
        for kind, row in samples.items()
    ]
    return '<h2>Samples</h2>' + table(rows, heading)


def map_of_latents(folder: Path) -> str:
    """The map that shows images; '' if the folder has none."""
    if not (folder / 'map.json').exists() or not (folder / 'map.jpg').exists():
        return ''
    found = read_json(folder / 'map.json')
    used = sorted(set(found['labels']))
    names = [(found['colours'][label], html.escape(found['classes'][label])) for label in used]
    legend = ''.join(f'<li><i style="background: {colour}"></i>{name}</li>' for colour, name in names)
    data = json.dumps(found).replace('</', '<\\/')  # no class can end the script
    sprite = inlined(folder / 'map.jpg')
    return f"""<h2>Map of the latents</h2>
<p class="quiet">{MAP_CAPTION}</p>
<div class="map">
<svg viewBox="0 0 1000 1000" tabindex="0" role="application" aria-label="{MAP_CAPTION}"></svg>
<div class="shown"><div class="thumbnail" style="background-image: url({sprite})"></div>
<p aria-live="polite"></p><ul class="legend">{legend}</ul></div></div>
<script type="application/json" id="map-data">{data}</script>
<script>
{web('map.js')}</script>"""


# -------------------------------------------------------------------------------------- the page of all runs

INDEX_COLUMNS = {  # of results.json
    'system': Figure('system'),
    'dist': Figure('family'),
    'dataset': Figure('data set'),
    'n_train': Figure('training images', digits=0),
    'latent_dim': Figure('dimensions', digits=0),
    'seed': Figure('seed', digits=0),
    **{
        name: FIGURES[name]
        for name in ('test_loss', 'test_negative_elbo', 'knn_accuracy', 'frechet', 'train_seconds')
    },
}
TEXTS = 'system', 'dist', 'dataset'


def write_index(folder: Path):
    """Write index.html: a table of the runs in folder, however deep, sorted by a click on a column."""
    lines = []
    for path in sorted(folder.glob('*/**/results.json')):
        try:
            results = read_json(path)
        except UserError:  # it is being written, or broken: the run is left out
            continue
        lines.append(index_row(folder, path.parent, results))
    names = ['run', *(f'{figure.name} {figure.arrow}' for figure in INDEX_COLUMNS.values())]
    classes = ['', *('' if name in TEXTS else ' class="number"' for name in INDEX_COLUMNS)]
    heading = ''.join(f'<th{c}><button>{html.escape(name)}</button></th>' for c, name in zip(classes, names))
    body = f"""<p class="quiet">{len(lines)} runs. A click on the name of a column sorts by it. {ARROWS}.</p>
<div class="scroll"><table class="runs"><thead><tr><th>picture</th>{heading}</tr></thead>
<tbody>{''.join(lines)}</tbody></table></div>
<script>
{web('sort.js')}</script>"""
    write_page(folder / 'index.html', 'Runs', body)


def index_row(folder: Path, run: Path, results: dict) -> str:
    """A row of the table of runs, with data-value for the sort."""
    name = html.escape(run.relative_to(folder).as_posix())
    picture = 'samples.png' if results.get('system') == 'gan' else 'reconstructions.png'
    shown = f'<img loading="lazy" alt="{picture[:-4]} of {name}" src="{name}/{picture}">'
    cells = [
        f'<td>{shown if (run / picture).exists() else ""}</td>',
        f'<td data-value="{name}"><a href="{name}/report.html">{name}</a></td>',
    ]
    for key, figure in INDEX_COLUMNS.items():
        value = results.get(key)
        text, shown = '' if value is None else str(value), figure.text(value)
        number = '' if key in TEXTS else ' class="number"'
        cells.append(f'<td{number} data-value="{html.escape(text)}">{html.escape(shown)}</td>')
    return f'<tr>{"".join(cells)}</tr>'
