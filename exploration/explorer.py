"""What the page shows of a trained run. Pictures are uint8 arrays [height, width, 3], images are enlarged."""

import contextlib
import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from evaluation import Sampler, image_grid
from evaluation.fidelity import nearest
from evaluation.maps import TSNE_POINTS, class_colours, fit_square, tsne
from imputation import impute
from imputation.predictive import NOISE_IMAGES, Noise, measure_noise
from training import ImageDataset, UserError, find_data, infer_latents, load_run, read_json
from training.run_data import load_split

SIDE = 256  # pixels of an enlarged image's longer side, about: with more of them the editor is slow
DIRECTIONS = 8  # along which one walks
STRIP = 10  # images between two
SAMPLES = 30  # on the page, in rows of
PER_ROW = 10
MAP = 700  # pixels of the map's sides
MASKED = (120, 160, 230)  # red, green, blue of an erased pixel
DRAWS = 3  # of the erased pixels


class Explorer:
    """A run and its images. UserError: the run cannot be opened, or its images are gone."""

    def __init__(self, folder: Path, data_path: str | None = None, device: str | None = None):
        self.trained = load_run(folder, device)
        self.model, self.config = self.trained.model, self.trained.config
        place = self.config.replace(data_path=find_data(folder, data_path))
        self.train_set, self.test_set = load_split(place)
        if self.train_set.shape != self.model.shape:
            raise UserError(
                f'expected the images of shape {self.model.shape} that {folder} was trained on, got '
                f'{self.train_set.shape} in {place.data_path}; name their folder with --data-path'
            )
        self.folder, self.has_latents = folder, self.config.system != 'gan'
        self.scale = max(1, SIDE // max(self.model.shape[-2:]))

    def prepare(self):
        """Compute what every answer needs, so that none has to wait for it."""
        _ = self.sampler
        if self.has_latents:
            _ = self.directions, self.places, self.noise

    def picture(self, image: Tensor) -> np.ndarray:
        """An image [*shape] in 0-255, enlarged."""
        pixels = image.detach().cpu().float().clamp(0, 255).round().byte()
        pixels = pixels.expand(3, *pixels.shape) if pixels.dim() == 2 else pixels  # [3, H, W]
        return pixels.movedim(0, 2).repeat_interleave(self.scale, 0).repeat_interleave(self.scale, 1).numpy()

    def grid(self, images: Tensor, per_row: int) -> np.ndarray:
        """Images [N, *shape] in 0-255 in rows, enlarged a little."""
        grid = (255 * image_grid(images.detach().cpu(), per_row)).byte().movedim(0, 2)
        scale = max(1, self.scale // 4)
        return grid.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()

    def original(self, i: int) -> np.ndarray:
        return self.picture(self.test_set[i][1])

    # ------------------------------------------------------------------------------------ latents

    @functools.lru_cache(maxsize=100)  # noqa: B019  (there is one explorer)
    def code(self, i: int) -> Tensor:
        """z [1, D] of a test image: the mean of its posterior."""
        latents, _ = infer_latents(self.trained, self.test_set.part(slice(i, i + 1)), label='fitting')
        return self.model.mean(latents)

    @functools.cached_property
    def directions(self) -> Tensor:
        """The principal directions of the training images' z, each as long as a standard deviation along it,
        those with the largest variance first: [D, D]."""
        z = self.model.mean(self.trained.latents[:5000])
        variance, directions = torch.linalg.eigh(torch.cov(z.T).reshape(z.shape[1], -1))  # ascending
        return (directions * variance.clamp_min(0).sqrt()).T.flip(0)

    @torch.no_grad()
    def walk(self, i: int, steps: list[float]) -> np.ndarray:
        """A test image, moved by so many standard deviations along the first directions."""
        steps = torch.tensor(steps, device=self.directions.device, dtype=self.directions.dtype)
        return self.picture(self.model.decode(self.code(i) + steps @ self.directions[: len(steps)])[0])

    def ends(self, a: int, b: int) -> tuple[Tensor, Tensor]:
        """z of two test images; of a GAN the prior's draws a and b. [1, D] each."""
        if self.has_latents:
            return self.code(a), self.code(b)
        return self.model.sample_prior(1, seed=a), self.model.sample_prior(1, seed=b)

    @torch.no_grad()
    def between(self, a: int, b: int, t: list[float], arc: bool) -> Tensor:
        """The images [len(t), *shape] at the places t (0-1) from a to b: on the straight line, or on the arc,
        along which also the length changes evenly (Shoemake's slerp)."""
        start, end = self.ends(a, b)
        t = torch.tensor(t, device=start.device, dtype=start.dtype)[:, None]
        cosine = torch.cosine_similarity(start, end).clamp(-1, 1)
        angle = torch.arccos(cosine)
        if not arc or torch.sin(angle) < 1e-3:  # no arc leads from one direction to the same
            return self.model.decode(start + t * (end - start))
        one, other = (torch.sin(angle * share) / torch.sin(angle) for share in (1 - t, t))
        lengths = start.norm(), end.norm()
        direction = one * start / lengths[0] + other * end / lengths[1]
        return self.model.decode(direction * (lengths[0] + t * (lengths[1] - lengths[0])))

    # ----------------------------------------------------------------------------------- erased pixels

    def read(self, picture: np.ndarray) -> Tensor:
        """An image [*shape] in 0-255 of a picture [height, width, 3 or 4] in the images' size, or enlarged.
        UserError: it is of another size."""
        height, width = self.model.shape[-2:]
        size = picture.shape[:2]
        if size == (height * self.scale, width * self.scale):
            offset = self.scale // 2
            picture = picture[offset :: self.scale, offset :: self.scale]
        elif size != (height, width):
            raise UserError(
                f'expected a picture of {height} x {width} pixels, as the images of this run are, got '
                f'{size[0]} x {size[1]}; scale it'
            )
        colours = torch.from_numpy(np.ascontiguousarray(picture[..., :3])).float().movedim(2, 0)  # [3, H, W]
        if len(self.model.shape) == 3:
            return colours
        weights = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue in grey
        return torch.einsum('c,chw->hw', weights, colours)

    def erased(self, painted: np.ndarray) -> Tensor:
        """Which pixels [H, W] are, of a mask bool [height, width] in the size of the images or enlarged."""
        height, width = self.model.shape[-2:]
        blocks = torch.from_numpy(painted).float()[None, None]
        return torch.nn.functional.adaptive_avg_pool2d(blocks, (height, width))[0, 0] >= 0.5

    @functools.cached_property
    def noise(self) -> Noise:
        """That of erased pixels, measured on test images from which a block of a quarter is erased."""
        some = self.test_set.part(slice(NOISE_IMAGES))
        if some.observed is None:
            some = some.hide_pixels('blocks', 0.25, self.config.seed, 1)
        return measure_noise(self.trained, some)

    def fill_in(self, image: Tensor, erased: Tensor) -> dict[str, np.ndarray]:
        """Pictures of an image [*shape] in 0-255 without its erased pixels, bool [H, W]: what is left, the
        conditional mean, DRAWS draws, and the standard deviation (white where it is largest)."""
        observed = (~erased).expand(self.model.shape).clone()
        place = dict(name=self.config.dataset, observed=observed[None], classes=self.test_set.classes)
        dataset = ImageDataset(torch.where(observed, image, 0.0)[None], torch.zeros(1), known=False, **place)
        completed = impute(self.trained, dataset, DRAWS, noise=self.noise)
        left = self.picture(image)
        hidden = erased.repeat_interleave(self.scale, 0).repeat_interleave(self.scale, 1).numpy()
        left[hidden] = MASKED
        spread = completed.std[0]
        pictures = {'what is left': left, 'conditional mean': self.picture(completed.mean[0])}
        pictures |= {f'draw {k + 1}': self.picture(draw[0]) for k, draw in enumerate(completed.draws)}
        return pictures | {'standard deviation': self.picture(255 * spread / spread.amax().clamp_min(1))}

    # ---------------------------------------------------------------------------------- samples and map

    @functools.cached_property
    def sampler(self) -> Sampler:
        return Sampler(self.trained)

    def draw(self, way: str, seed: int) -> np.ndarray:
        """Rows of samples, each above the training images that are nearest to it in pixels."""
        samples = self.sampler.sample(SAMPLES, seed)[way].cpu()
        index, _ = nearest(samples, self.train_set.X)
        rows = zip(samples.split(PER_ROW), self.train_set.X[index].split(PER_ROW))
        return self.grid(torch.cat([image for pair in rows for image in pair]), PER_ROW)

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Places in the plane of the first test images by t-SNE of their codes, in 0-1000: [N, 2]. A run has
        them in map.json, if these are its images."""
        with contextlib.suppress(UserError):  # a run of an older program has none
            places = np.array(read_json(self.folder / 'map.json')['places'])
            if self.test_set.checksum() == self.config.test_checksum and len(places) <= len(self.test_set):
                return places
        latents, _ = infer_latents(self.trained, self.test_set.part(slice(TSNE_POINTS)))
        with torch.no_grad():
            return fit_square(tsne(self.model.code(self.model.mean(latents)).cpu().numpy()))

    def map(self, chosen: int | None = None) -> np.ndarray:
        """The map, a point for each image in the colour of its class."""
        picture = Image.new('RGB', (MAP, MAP), 'white')
        draw, colours = ImageDraw.Draw(picture), class_colours(self.test_set)
        for i, (x, y) in enumerate(self.places * MAP / 1000):
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), colours[int(self.test_set.y[i])])
        if chosen is not None:
            x, y = self.places[chosen] * MAP / 1000
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), outline='black', width=2)
        return np.asarray(picture)

    def at(self, x: float, y: float) -> int:
        """The index of the test image whose point is nearest to a pixel of the map."""
        return int(np.square(self.places - np.array([x, y]) * 1000 / MAP).sum(1).argmin())

    @torch.no_grad()
    def reconstruction(self, i: int) -> np.ndarray:
        return self.picture(self.model.decode(self.code(i))[0])
