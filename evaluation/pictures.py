"""The pictures of a run folder."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from evaluation.drawing import image_grid, masked, save_gif, save_grid, save_rows
from evaluation.fidelity import nearest
from evaluation.maps import TSNE_POINTS, draw_codes, draw_map, tsne, write_map
from evaluation.samples import Sampler
from imputation import Imputation, impute
from training import PRIOR, ImageDataset, TrainedRun, noise_key

SHOWN = 16  # images in a row of reconstructions
SAMPLES_SHOWN, SAMPLES_PER_ROW = 60, 20  # of each way to sample
INTERPOLATED = 10  # images along an interpolation, ends included
GRID = 20  # codes along each side of the grid


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
    family's own prior, so that each image stands for an equal share of it (a learned one has none)."""
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
        codes = model.code(model.mean(their_latents[:TSNE_POINTS])).cpu().numpy()
        places = tsne(codes)
        draw_map(dataset, places, folder / f'tsne_{name}.png', f't-SNE of the {what} latents')
        if name == 'test':
            write_map(dataset, places, folder)
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
