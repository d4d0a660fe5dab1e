"""Plots of losses by epoch, and of other figures by what they depend on."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from evaluation.drawing import save_figure
from training import read_metrics


def draw_curve(ax: plt.Axes, metrics: list[dict], name: str, label: str):
    """Add the metric `name` by epoch to a plot."""
    points = [(line['epoch'], line[name]) for line in metrics if name in line]
    ax.plot(*zip(*points) if points else ((), ()), marker='.', label=label)
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # whole epochs, even of a single one
    ax.legend(frameon=False)
    ax.grid(alpha=0.3)
    ax.set(xlabel='epoch')


def draw_losses(folder: Path):
    """Write loss.png: the losses of a run by epoch, of a validation set too if it had one."""
    metrics = read_metrics(folder)
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout='tight')
    titles = {'loss': 'negative ELBO (total)', 'reconstruction': 'reconstruction', 'kl': 'KL'}
    for ax, (name, title) in zip(axes, titles.items()):
        draw_curve(ax, metrics, name, 'training')
        if any('validation_loss' in line for line in metrics):
            draw_curve(ax, metrics, f'validation_{name}', 'validation')
        scale = 'linear' if name == 'kl' else 'log'  # the first epoch's loss is many times the last one's
        ax.set(title=title, ylabel='nats an image', yscale=scale)
    save_figure(fig, folder / 'loss.png')


def draw_gan_losses(folder: Path):
    """Write loss.png: the losses of a GAN's two networks by epoch."""
    metrics = read_metrics(folder)
    fig, axes = plt.subplots(1, 2, figsize=(12, 3.2), layout='tight')
    draw_curve(axes[0], metrics, 'discriminator_loss', 'discriminator')
    draw_curve(axes[0], metrics, 'generator_loss', 'generator')
    axes[0].set(title='losses', ylabel='nats an image')
    draw_curve(axes[1], metrics, 'd_real', 'D(x)')
    draw_curve(axes[1], metrics, 'd_fake', 'D(G(z))')
    axes[1].set(title='mean probability of being real')
    save_figure(fig, folder / 'loss.png')


def draw_amortisation(table: list[dict], file_name: Path):
    """table: as amortisation.amortisation gives it."""
    fig, ax = plt.subplots(figsize=(6, 3.5), layout='tight')
    for start in ('encoder', 'prior'):
        rows = [row for row in table if row['start'] == start]
        negative_elbo = [row['negative_elbo'] for row in rows]
        ax.plot([row['passes'] for row in rows], negative_elbo, marker='.', label=f'from the {start}')
    ax.set(xlabel='passes of fitting', ylabel='negative ELBO, nats an image', yscale='log')
    ax.legend(frameon=False)
    ax.grid(alpha=0.3)
    save_figure(fig, file_name)


def draw_likelihood(draws: list[int], negative_log_p: np.ndarray, file_name: Path):
    """The mean of -log p over the images, as estimated by these numbers of draws."""
    fig, ax = plt.subplots(figsize=(6, 3.5), layout='tight')
    ax.plot(draws, negative_log_p, marker='.')
    ax.set(xlabel='importance samples of an image', ylabel='-log p(x), nats an image', xscale='log')
    ax.grid(alpha=0.3)
    save_figure(fig, file_name)
