"""The pictures of a run folder."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from evaluation.fidelity import nearest
from evaluation.samples import Sampler
from imputation import Imputation, impute
from training import PRIOR, ImageDataset, TrainedRun, noise_key, write_atomically

TSNE_POINTS = 2000  # in a map, at most: more hide each other, and take minutes
SHOWN = 16  # images in a row of reconstructions
SAMPLES_SHOWN, SAMPLES_PER_ROW = 60, 20  # of each way to sample
INTERPOLATED = 10  # images along an interpolation, ends included
MISSING_COLOUR = (120.0, 160.0, 230.0)  # red, green, blue of a missing pixel
GRID = 20  # codes along each side of the grid


# ------------------------------------------------------------------------------------- images and maps


def real_tensor(name: str, value: Any) -> Tensor:
    """A tensor, an array or nested lists of real numbers as a tensor on the CPU. ValueError: it is something
    else."""
    try:
        x = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        came = type(value).__name__
        raise ValueError(f'expected {name} to be a tensor or an array of numbers, got {came}') from error
    if x.is_complex():
        raise ValueError(f'expected {name} to be real numbers, got {x.dtype}')
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x  # NumPy has no bfloat16


def check_finite(name: str, x: Tensor):
    """ValueError: x has a NaN or an infinity."""
    if not x.isfinite().all():
        raise ValueError(
            f'expected {name} to be finite, got {int((~x.isfinite()).sum())} numbers that are not'
        )


def image_grid(images: Tensor, per_row: int = 8, padding: int = 1) -> Tensor:
    """One picture [3, height, width] in 0-1 of images [N, H, W], [N, 1, H, W] or [N, 3, H, W] in 0-255.
    ValueError: they are not such images."""
    import torchvision  # here: it takes a second to import

    images = real_tensor('images', images).float()
    check_finite('images', images)
    if not images.numel() or not (images.dim() == 3 or images.dim() == 4 and images.shape[1] in (1, 3)):
        raise ValueError(f'expected images [N, H, W], [N, 1, H, W] or [N, 3, H, W], got {list(images.shape)}')
    images = images.clamp(0, 255) / 255
    images = images[:, None] if images.dim() == 3 else images
    return torchvision.utils.make_grid(images, nrow=per_row, padding=padding, pad_value=1)


def save_grid(images: Tensor, file_name: str | Path, per_row: int = 8, padding: int = 1):
    """Write image_grid as a picture. ValueError: there are no such images, or no picture has the file name's
    suffix."""
    grid = (255 * image_grid(images, per_row, padding)).round().byte()  # [3, height, width]
    picture = Image.fromarray(grid.movedim(0, 2).contiguous().numpy())
    try:
        write_atomically(file_name, picture.save)
    except (ValueError, KeyError) as error:  # PIL does not know the suffix, or cannot write such files
        raise ValueError(
            f'expected a file name with the suffix of a picture, such as .png, got {str(file_name)!r}'
        ) from error


def save_gif(frames: Tensor, file_name: Path):
    """Write an animation that repeats for ever, ten frames a second. frames: [N, H, W] or [N, 3, H, W] in
    0-255.

    Small images are enlarged, by whole numbers, to about 200 pixels. (A frame equal to the one before it only
    lasts longer.)
    """
    frames = torch.as_tensor(frames).detach().cpu().float().clamp(0, 255).round().byte()
    step = math.ceil(max(frames.shape[-2:]) / 65_535)  # the most pixels that a side of a GIF can have
    frames = frames[..., ::step, ::step]
    factor = max(1, 224 // max(frames.shape[-2:]))
    frames = frames.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    frames = frames.movedim(1, 3) if frames.dim() == 4 else frames  # PIL has the channels last
    first, *others = [Image.fromarray(frame.contiguous().numpy()) for frame in frames]
    options = dict(append_images=others, duration=100, loop=0)  # milliseconds a frame; 0: for ever
    write_atomically(file_name, lambda temporary: first.save(temporary, save_all=True, **options))


def save_rows(rows: list[tuple[str, Tensor]], file_name: Path, per_row: int):
    """Write labelled rows of images. rows: (label, images [n, 28, 28] or [n, 3, H, W] in 0-255) pairs."""
    strips = [image_grid(images, per_row) for _, images in rows]  # [3, height, width] each
    heights = [strip.shape[1] for strip in strips]
    height = 12 * sum(heights) / max(strip.shape[2] for strip in strips) + 0.15 * len(rows)
    size = (12, min(height, 100))  # inches; a figure of columns of pixels would be too high to be drawn
    ratios = dict(height_ratios=heights)
    fig, axes = plt.subplots(len(rows), 1, squeeze=False, figsize=size, gridspec_kw=ratios)
    for ax, (label, _), strip in zip(axes[:, 0], rows, strips):
        ax.imshow(strip.permute(1, 2, 0).numpy(), interpolation='nearest')
        ax.set_ylabel(label, rotation=0, ha='right', va='center')
        ax.set(xticks=[], yticks=[], frame_on=False)
    save_figure(fig, file_name)


def save_figure(fig: plt.Figure, file_name: str | Path):
    path = Path(file_name)
    path = path if path.suffix else path.with_suffix('.png')  # as matplotlib does
    try:
        write_atomically(path, lambda temporary: fig.savefig(temporary, dpi=100, bbox_inches='tight'))
    finally:  # an unknown suffix, for example, is an error
        plt.close(fig)


def masked(dataset: ImageDataset, n: int) -> Tensor:
    """The first n images in 0-255, [n, *shape]; where pixels are missing, in colour with these in blue."""
    x = dataset.X[:n].float()
    if dataset.observed is None:
        return x
    observed = dataset.observed[torch.arange(len(x))]
    if x.dim() == 3:
        x, observed = (t[:, None].expand(-1, 3, -1, -1) for t in (x, observed))  # [n, 3, H, W]
    return torch.where(observed, x, torch.tensor(MISSING_COLOUR).view(3, 1, 1))


def draw_samples(sampler: Sampler, train_set: ImageDataset, file_name: Path):
    """Write rows of SAMPLES_SHOWN images sampled in each way, and below the last one of each the training
    images that are nearest to it in pixels; without these where they are not known in full."""
    rows = []
    for name, images in sampler.sample(SAMPLES_SHOWN).items():
        rows.append((name, images))
        if train_set.known:
            index, _ = nearest(images[-SAMPLES_PER_ROW:], train_set.X)
            rows.append(('training images\nnearest to the\nrow above', train_set.X[index]))
    save_rows(rows, file_name, SAMPLES_PER_ROW)


def draw_imputed(file_name: Path, dataset: ImageDataset, completed: Imputation):
    """Write rows of the first images of dataset: as they came, their conditional mean, two imputations, the
    standard deviation, and the truth if it is known."""
    n = min(SHOWN, len(dataset))
    spread = completed.std[:n]
    rows = [('missing in blue', masked(dataset, n)), ('imputed: mean', completed.mean[:n])]
    rows += [(f'draw {i + 1}', draw[:n]) for i, draw in enumerate(completed.draws[:2])]
    brightest = spread.amax().clamp_min(1)
    rows += [(f'std, white: {float(brightest):.0f}', 255 * spread / brightest)]
    rows += [('truth', dataset.X[:n])] if dataset.known else []
    save_rows(rows, file_name, n)


def tsne(points: np.ndarray) -> np.ndarray:
    """Places in the plane [N, 2] by t-SNE (van der Maaten and Hinton, 2008) for points [N, D]; of equal
    points, the origin."""
    from sklearn.manifold import TSNE  # here: a second to import

    if not np.ptp(points, 0).any():  # scikit-learn crashes
        return np.zeros((len(points), 2))
    perplexity, start = min(30, (len(points) - 1) / 3), 'pca' if points.shape[1] > 1 else 'random'
    return TSNE(2, perplexity=perplexity, init=start, random_state=0).fit_transform(points)


def scatter_classes(ax: plt.Axes, dataset, flat: np.ndarray):
    """Draw places [N, 2] of the first N images of dataset, coloured and labelled by class."""
    labels = torch.as_tensor(dataset.y)[: len(flat)].cpu().numpy()
    for label in np.unique(labels):
        name = dataset.classes[label] if hasattr(dataset, 'classes') else str(label)
        ax.scatter(*flat[labels == label].T, s=12, color=plt.cm.tab10(label % 10), label=name)


def plot_tsne(dataset, latents: Tensor, file_name: str | Path, plot_title: str = 't-SNE of the latents'):
    """Write a t-SNE map of the first TSNE_POINTS latents [N, D], coloured by the classes of dataset, whose
    labels .y are N or more. ValueError: no latents, latents that are not finite, or too few labels."""
    points = real_tensor('latents', latents)
    check_finite('latents', points)
    if points.dim() < 2 or not points.numel():
        raise ValueError(f'expected latents [N, D], got {list(points.shape)}')
    if not hasattr(dataset, 'y'):
        raise ValueError(f'expected a data set with labels .y, got {type(dataset).__name__}')
    labels = real_tensor('labels', dataset.y)
    if labels.dim() != 1 or len(labels) < len(points):
        raise ValueError(f'expected a label for each of {len(points)} latents, got {list(labels.shape)}')
    flat = tsne(points.flatten(1).numpy()[:TSNE_POINTS])  # [N, 2]
    fig, ax = plt.subplots(figsize=(8, 7))
    scatter_classes(ax, dataset, flat)
    ax.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    ax.set(title=plot_title, xticks=[], yticks=[])
    save_figure(fig, file_name)


def draw_codes(dataset: ImageDataset, codes: Tensor, file_name: Path):
    """Write two maps of codes [N, D]: by their principal components, and by t-SNE."""
    from sklearn.decomposition import PCA

    points = codes.cpu().numpy()[:TSNE_POINTS]
    flat = np.zeros((len(points), 2))
    if np.ptp(points, 0).any():  # equal codes have no components
        scores = PCA(min(2, *points.shape)).fit_transform(points)  # [N, 2]; [N, 1] of one-dimensional codes
        flat[:, : scores.shape[1]] = scores
    fig, axes = plt.subplots(1, 2, figsize=(14, 6))
    for ax, title, plane in zip(axes, ('principal components', 't-SNE'), (flat, tsne(points))):
        scatter_classes(ax, dataset, plane)
        ax.set(title=title, xticks=[], yticks=[])
    axes[1].legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(fig, file_name)


# ---------------------------------------------------------------------------------- all pictures of a run


def pick_pair(dataset: ImageDataset, classes: tuple[int, int]) -> tuple[int, int]:
    """Indices of the first image of each of two classes; where one is missing, the first two images that
    differ in class, or the first two."""
    wanted = [(dataset.y == c).nonzero().flatten() for c in classes]
    if all(len(w) for w in wanted):
        return int(wanted[0][0]), int(wanted[1][0])
    others = (dataset.y != dataset.y[0]).nonzero().flatten()
    return 0, int(others[0]) if len(others) else len(dataset) - 1


def draw_code_plane(model, file_name: Path):
    """The decoded codes of a model with two latent dimensions, laid out in the plane at quantiles of the
    prior, so that each image stands for an equal share of it."""
    u = (torch.arange(GRID, device=model.pixel_bias.device) + 0.5) / GRID
    across, up = torch.meshgrid(model.family.quantile(u), model.family.quantile(u).flip(0), indexing='xy')
    z = torch.stack([across, up], -1).view(-1, 2)  # [GRID^2, 2], the top row first
    save_grid(model.decode(z), file_name, GRID, padding=0)


@torch.no_grad()
def draw_pictures(
    folder: Path,
    trained: TrainedRun,
    train_set: ImageDataset,
    test_set: ImageDataset,
    test_latents: Tensor,
    sampler: Sampler,
    classes: tuple[int, int],
):
    """Write the pictures of a run whose images have latents.

    test_latents: [n, K], fitted to test_set. sampler: of the run. classes: numbers of the two whose images an
    interpolation joins.
    """
    model, latents = trained.model, trained.latents

    def reconstruct(latents):
        return model.decode(model.mean(latents))

    groups, rows = (('train', train_set, latents), ('test', test_set, test_latents)), []
    for name, dataset, their_latents in groups:
        rows += [(name, masked(dataset, SHOWN)), ('decoded', reconstruct(their_latents[:SHOWN]))]
    save_rows(rows, folder / 'reconstructions.png', SHOWN)
    if test_set.observed is not None:
        some = test_set.part(slice(SHOWN))
        draw_imputed(folder / 'imputed.png', some, impute(trained, some, m=2))

    draw_samples(sampler, train_set, folder / 'samples.png')

    # Between posteriors, that is between rows of latents: log-scales are interpolated as well as locations.
    a, b = pick_pair(test_set, classes)
    t = torch.linspace(0, 1, INTERPOLATED, device=latents.device)[:, None]
    path = reconstruct(test_latents[a] + t * (test_latents[b] - test_latents[a]))  # [INTERPOLATED, *shape]
    originals = torch.full((INTERPOLATED, *model.shape), 255.0)
    originals[0], originals[-1] = test_set[a][1], test_set[b][1]  # the truth, where it is known
    save_rows([('original', originals), ('decoded', path)], folder / 'interpolation.png', INTERPOLATED)
    save_gif(torch.cat([path, path.flip(0)[1:-1]]), folder / 'interpolation.gif')  # there and back

    if not model.dist:  # what an auto-decoder's codes mean, as in the 4x4 report
        ends = torch.stack([torch.zeros(model.latent_dim), torch.ones(model.latent_dim)]).to(latents.device)
        rows = [(f'x {m}', reconstruct(m * test_latents[:SHOWN])) for m in (0.5, 1, 1.5)]
        save_rows([('zeros, ones', reconstruct(ends)), *rows], folder / 'magnitudes.png', SHOWN)
    if model.dist and model.latent_dim == 2:
        draw_code_plane(model, folder / 'grid.png')
    for name, dataset, their_latents in tqdm(groups, desc='t-SNE', disable=None, leave=False):
        what = 'training' if name == 'train' else 'test'
        codes = model.code(model.mean(their_latents))
        plot_tsne(dataset, codes, folder / f'tsne_{name}.png', f't-SNE of the {what} latents')
    if model.encoder and not model.dist:
        draw_codes(test_set, model.mean(test_latents), folder / 'codes.png')


@torch.no_grad()
def draw_gan_pictures(folder: Path, sampler: Sampler, train_set: ImageDataset):
    """Write a GAN's samples and interpolations."""
    trained, model = sampler.trained, sampler.trained.model
    draw_samples(sampler, train_set, folder / 'samples.png')
    grids = torch.stack([255 * image_grid(frame) for frame in trained.frames])  # [E, 3, height, width]
    save_gif(grids if len(model.shape) == 3 else grids[:, 0], folder / 'samples.gif')
    # Every point along the arc is a draw from N(0, 1). On the straight line the middle would be too short for
    # one.
    a, b = model.sample_prior(2, seed=noise_key(trained.config.seed, PRIOR))
    angle = torch.linspace(0, torch.pi / 2, INTERPOLATED, device=a.device)[:, None]
    path = model.decode(torch.cos(angle) * a + torch.sin(angle) * b)  # [INTERPOLATED, *shape]
    save_rows([('N(0, 1)', path)], folder / 'interpolation.png', INTERPOLATED)
    save_gif(torch.cat([path, path.flip(0)[1:-1]]), folder / 'interpolation.gif')  # there and back
