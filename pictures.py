"""The pictures of a run folder, and report.html that shows them with the figures."""

import base64
import html

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.decomposition import PCA

import grading
import training
import utils

INTERPOLATE = 1, 3  # trouser and dress
STEPS = 10  # images along an interpolation, ends included

CAPTIONS = {
    'reconstructions.png': 'Reconstructions below their originals, from training and from test images.',
    'samples.png': 'Random samples: decoded draws from the prior, and from a Gaussian mixture fitted to the training latents.',
    'interpolation.png': 'From one test image to another, along a straight line between their posteriors.',
    'magnitudes.png': 'The all-zeros and the all-ones vector, and test latents scaled to 0.5, 1 and 1.5 of their length.',
    'tsne_train.png': 'Training latents (codes of the posterior means), mapped to the plane by t-SNE.',
    'tsne_test.png': 'Test latents, mapped likewise.',
    'codes.png': 'Codes of the test images in the plane, on their two principal components and by t-SNE.',
    'grid.png': 'Decoded codes in the plane, at equally probable steps of the prior.',
    'loss.png': 'Negative ELBO and its two terms, means over each epoch. Validation, where there is an encoder: images that it '
    'does not train on, with --patience those held out, else the test images, which decide nothing.',
    'amortisation.png': "Negative ELBO of test images whose latents were fitted further, from the encoder's and from the prior.",
    'samples.gif': 'The same draws from the prior, epoch after epoch.',
    'interpolation.gif': 'The interpolation as an animation.',
}
GAN_CAPTIONS = {  # where they differ
    'samples.png': 'Random samples: images of draws from N(0, 1).',
    'interpolation.png': 'From one draw to another, along the arc between them.',
    'loss.png': "The two players' losses, and what the discriminator takes real and generated images for, by epoch.",
}


def save_rows(rows, file_name, per_row):
    """Write labelled rows of images. rows: (label, images [n, 28, 28] or [n, 3, H, W] in 0-255) pairs; per_row images
    to a line."""
    strips = [utils.image_grid(images, per_row) for _, images in rows]  # [3, height, width] each
    heights = [strip.shape[1] for strip in strips]
    width = max(strip.shape[2] for strip in strips)
    fig, axes = plt.subplots(
        len(rows),
        1,
        squeeze=False,
        figsize=(12, 12 * sum(heights) / width + 0.15 * len(rows)),
        gridspec_kw=dict(height_ratios=heights),
    )
    for ax, (label, _), strip in zip(axes[:, 0], rows, strips):
        ax.imshow(strip.permute(1, 2, 0).numpy(), interpolation='nearest')
        ax.set_ylabel(label, rotation=0, ha='right', va='center')
        ax.set(xticks=[], yticks=[], frame_on=False)
    fig.savefig(file_name, dpi=100, bbox_inches='tight')
    plt.close(fig)


def save_losses(metrics, file_name):
    """metrics: the lines of metrics.jsonl, with a validation set's loss or without."""
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    for ax, name in zip(axes, ('loss', 'reconstruction', 'kl')):
        for prefix, label in (('', 'training'), ('validation_', 'validation')):
            if prefix + name in metrics[0]:
                ax.plot(
                    [m['epoch'] for m in metrics],
                    [m[prefix + name] for m in metrics],
                    marker='.',
                    label=label,
                )
                ax.legend(frameon=False)
        ax.set(
            title={'loss': 'negative ELBO (total)', 'kl': 'KL'}.get(name, name),
            xlabel='epoch',
            ylabel='nats an image',
            yscale='linear' if name == 'kl' else 'log',
        )  # the first epoch is many times the last
        ax.xaxis.get_major_locator().set_params(
            integer=True, min_n_ticks=1
        )  # whole epochs, were there only one
        ax.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(file_name, dpi=100)
    plt.close(fig)


def save_codes(dataset, codes, file_name):
    """The map by the codes' two principal components beside that by t-SNE. codes: [N, D] of the images of dataset."""
    points = codes.cpu().numpy()[: utils.TSNE_POINTS]
    if np.ptp(points, 0).any():
        flat = PCA(min(2, *points.shape)).fit_transform(points)  # [N, 2]; [N, 1] of one-dimensional codes
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    else:  # equal codes have no components
        flat = np.zeros((len(points), 2))
    fig, axes = plt.subplots(1, 2, figsize=(14, 6))
    for ax, title, plane in zip(axes, ('principal components', 't-SNE'), (flat, utils.tsne(points))):
        utils.scatter_classes(ax, dataset, plane)
        ax.set(title=title, xticks=[], yticks=[])
    axes[1].legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    fig.savefig(file_name, dpi=100, bbox_inches='tight')
    plt.close(fig)


GRID = 20  # codes along each side of the grid


@torch.no_grad()
def save_grid(model, file_name):
    """The decoded codes of a model with two latent dimensions, laid out in the plane at quantiles of the prior, so that
    each image stands for an equal share of it."""
    u = (torch.arange(GRID, device=model.pixel_bias.device) + 0.5) / GRID
    across, up = torch.meshgrid(model.family.quantile(u), model.family.quantile(u).flip(0), indexing='xy')
    z = torch.stack([across, up], -1).view(-1, 2)  # [GRID^2, 2], the top row first
    torchvision.utils.save_image(utils.image_grid(model.decode(z), GRID, padding=0), file_name)


def save_amortisation(table, file_name):
    """table: as grading.amortisation gives it."""
    fig, ax = plt.subplots(figsize=(6, 3.5))
    for start in ('encoder', 'prior'):
        rows = [row for row in table if row['start'] == start]
        ax.plot(
            [row['passes'] for row in rows],
            [row['negative_elbo'] for row in rows],
            marker='.',
            label=f'from the {start}',
        )
    ax.set(xlabel='passes of fitting', ylabel='negative ELBO, nats an image', yscale='log')
    ax.legend(frameon=False)
    ax.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(file_name, dpi=100)
    plt.close(fig)


def pick_pair(dataset, classes):
    """Indices of the first test image of each of two classes; where one is missing, the first two images
    that differ in class, or the first two."""
    wanted = [(dataset.y == c).nonzero().flatten() for c in classes]
    if all(len(w) for w in wanted):
        return int(wanted[0][0]), int(wanted[1][0])
    others = (dataset.y != dataset.y[0]).nonzero().flatten()
    return 0, int(others[0]) if len(others) else len(dataset) - 1


@torch.no_grad()
def draw(folder, model, state, train, test, test_latents, classes):
    """Write all pictures of a run into folder. test_latents: [n, K], fitted to the data set test."""
    latents, seed = state['latents'], state['config']['seed']

    def reconstruct(rows):
        return model.decode(model.mean(rows))

    n = 16
    save_rows(
        [
            ('train', train.X[:n]),
            ('decoded', reconstruct(latents[:n])),
            ('test', test.X[:n]),
            ('decoded', reconstruct(test_latents[:n])),
        ],
        folder / 'reconstructions.png',
        n,
    )
    prior = 'the prior' if model.dist else 'N(0, 1)'
    save_rows(
        [
            (prior, grading.sample_prior(model, 100, seed)),
            ('mixture', grading.sample_mixture(model, latents, 100, seed)),
        ],
        folder / 'samples.png',
        20,
    )

    # Between posteriors, that is between rows: log-scales are interpolated as well as locations.
    a, b = pick_pair(test, classes)
    t = torch.linspace(0, 1, STEPS, device=latents.device)[:, None]
    path = reconstruct(test_latents[a] + t * (test_latents[b] - test_latents[a]))  # [STEPS, *shape]
    originals = torch.full((STEPS, *model.shape), 255.0)
    originals[0], originals[-1] = test.X[a], test.X[b]
    save_rows([('original', originals), ('decoded', path)], folder / 'interpolation.png', STEPS)
    save_gif(torch.cat([path, path.flip(0)[1:-1]]), folder / 'interpolation.gif')  # there and back

    if not model.dist:  # what an auto-decoder's codes mean, as in document 000
        d = model.latent_dim
        ends = torch.stack([torch.zeros(d), torch.ones(d)]).to(latents.device)
        save_rows(
            [('zeros, ones', reconstruct(ends))]
            + [(f'x {m}', reconstruct(m * test_latents[:n])) for m in (0.5, 1, 1.5)],
            folder / 'magnitudes.png',
            n,
        )
    if model.dist and model.latent_dim == 2:
        save_grid(model, folder / 'grid.png')
    utils.plot_tsne(
        train, model.code(model.mean(latents)), folder / 'tsne_train.png', 't-SNE of the training latents'
    )
    utils.plot_tsne(
        test, model.code(model.mean(test_latents)), folder / 'tsne_test.png', 't-SNE of the test latents'
    )
    if model.encoder and not model.dist:
        save_codes(test, model.mean(test_latents), folder / 'codes.png')


def save_gif(frames, file_name):
    """Write an animation that repeats for ever, ten frames a second. frames: [N, H, W] or [N, 3, H, W] in 0-255.

    Small images are enlarged, by whole numbers, to about 200 pixels. (A frame equal to the one before it only lasts longer.)
    """
    frames = torch.as_tensor(frames).detach().cpu().float().clamp(0, 255).round().byte()
    factor = max(1, 224 // frames.shape[-1])
    frames = frames.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    pages = [
        Image.fromarray((frame.movedim(0, 2) if frame.dim() == 3 else frame).contiguous().numpy())
        for frame in frames
    ]
    pages[0].save(
        file_name, format='GIF', save_all=True, append_images=pages[1:], duration=100, loop=0
    )  # milliseconds


def save_gan_losses(metrics, file_name):
    """metrics: the lines of a GAN's metrics.jsonl."""
    fig, axes = plt.subplots(1, 2, figsize=(12, 3.2))
    for ax, title, names in (
        (axes[0], 'losses', {'discriminator_loss': 'discriminator', 'generator_loss': 'generator'}),
        (axes[1], 'mean probability of being real', {'d_real': 'D(x)', 'd_fake': 'D(G(z))'}),
    ):
        for name, label in names.items():
            ax.plot([m['epoch'] for m in metrics], [m[name] for m in metrics], marker='.', label=label)
        ax.set(title=title, xlabel='epoch', ylabel='nats an image' if ax is axes[0] else '')
        ax.xaxis.get_major_locator().set_params(
            integer=True, min_n_ticks=1
        )  # whole epochs, were there only one
        ax.legend(frameon=False)
        ax.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(file_name, dpi=100)
    plt.close(fig)


@torch.no_grad()
def draw_gan(folder, model, state):
    """Write a GAN's samples and interpolations into folder. state: the final checkpoint, with its frames [E, 64, *shape]."""
    seed = state['config']['seed']
    save_rows([('N(0, 1)', grading.sample_prior(model, 80, seed))], folder / 'samples.png', 16)
    grids = torch.stack([255 * utils.image_grid(frame) for frame in state['frames']])  # [E, 3, height, width]
    save_gif(grids if len(model.shape) == 3 else grids[:, 0], folder / 'samples.gif')
    # Along the arc every point is itself a draw from N(0, 1); the middle of the straight line would be too short for one.
    a, b = model.sample_prior(2, seed=training.key(seed, training.PRIOR))
    angle = torch.linspace(0, torch.pi / 2, STEPS, device=a.device)[:, None]
    path = model.decode(torch.cos(angle) * a + torch.sin(angle) * b)  # [STEPS, *shape]
    save_rows([('N(0, 1)', path)], folder / 'interpolation.png', STEPS)
    save_gif(torch.cat([path, path.flip(0)[1:-1]]), folder / 'interpolation.gif')  # there and back


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; }} td {{ padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid #ddd; }}
figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }} figcaption {{ color: #555; }}
.columns {{ display: flex; flex-wrap: wrap; gap: 3rem; }}
</style></head><body>
<h1>{title}</h1>
<div class="columns"><div><h2>Results</h2><table>{results}</table></div>
<div><h2>Configuration</h2><table>{config}</table></div></div>
{figures}
</body></html>
"""


def write_report(folder, results, config):
    """Write report.html: figures, configuration and the pictures of the folder, in one self-contained file."""

    def table(pairs):
        return ''.join(
            f'<tr><td>{html.escape(str(k))}</td><td>{html.escape(format_value(v))}</td></tr>'
            for k, v in pairs
        )

    captions = {**CAPTIONS, **GAN_CAPTIONS} if config['system'] == 'gan' else CAPTIONS
    figures = ''.join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/{name[-3:]};base64,'
        f'{base64.b64encode((folder / name).read_bytes()).decode()}"><figcaption>{html.escape(caption)}</figcaption></figure>\n'
        for name, caption in captions.items()
        if (folder / name).exists()
    )
    title = ' '.join(filter(None, (config['system'].upper(), config['dist'], 'on', config['dataset'])))
    page = PAGE.format(
        title=html.escape(title),
        figures=figures,
        config=table(config.items()),
        results=table((k, v) for k, v in results.items() if k not in config),
    )
    utils.write_atomically(folder / 'report.html', lambda path: path.write_text(page, encoding='utf-8'))


def format_value(value):
    return '-' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)
