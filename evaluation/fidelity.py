"""Do samples look real, do they show everything that real images show, and are they new?

The first two are judged in features, by balls around the images of a set. The radius of a ball is the
distance to the k-th nearest other image of that set (k = NEIGHBOURS).

    precision   share of samples in a real image's ball                   (Kynkäänniemi et al., 2019)
    recall      share of real images in a sample's ball
    density     real images' balls that a sample is in, the mean, over k  (Naeem et al., 2020)
    coverage    share of real images in whose ball there is a sample

An odd real image has a large ball, in which samples may lie that look like nothing real: precision counts
them in full, density by the number of balls, so that it can exceed 1. For two sets from one distribution,
density is about 1 and coverage about 1 - 2^-k.

Whether samples are new is judged in pixels, by authenticity (Alaa et al., 2022): the share of samples that
are farther from the nearest training image than that image is from its own nearest other training image.
"""

import torch
from torch import Tensor
from tqdm import tqdm

NEIGHBOURS = 5
SPREAD = 'precision', 'recall', 'density', 'coverage'
CHUNK = 1000  # training images that are compared at once


def spread(real: Tensor, samples: Tensor) -> dict[str, float | None]:
    """Precision, recall, density and coverage of samples [M, F] among real images [N, F], both given as
    features. They are None where a set has no k-th neighbour."""
    if min(len(real), len(samples)) <= NEIGHBOURS:
        return dict.fromkeys(SPREAD)

    def distances(a, b):
        # In double and by differences, not by a matrix product: those of equal features are exactly 0.
        return torch.cdist(a.double(), b.double(), compute_mode='donot_use_mm_for_euclid_dist')

    def radii(x):
        return distances(x, x).kthvalue(NEIGHBOURS + 1, dim=1).values  # the first is 0, to itself

    apart = distances(real, samples)  # [N, M]
    in_real = apart <= radii(real)[:, None]
    in_samples = apart <= radii(samples)
    values = in_real.any(0), in_samples.any(1), in_real.sum(0) / NEIGHBOURS, in_real.any(1)
    return {name: float(value.double().mean()) for name, value in zip(SPREAD, values)}


def nearest(images: Tensor, X: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each of images [n, *shape] the nearest image of X [N, *shape] in pixels: its index, int64 [n], and
    the squared distance, float64 [n], both on the CPU.

    own: int64 [n]; image own[i] of X is not considered for images[i]. Searches on the device of images.
    """
    device = images.device
    x = images.flatten(1).float()  # [n, P]
    centre = x.mean(0)  # distances stay, but numbers are smaller, and less of their digits cancels
    x = x - centre
    index = torch.zeros(len(x), dtype=torch.int64, device=device)
    closest = torch.full((len(x),), torch.inf, device=device)
    starts = range(0, len(X), CHUNK)
    for start in tqdm(starts, desc='nearest training images', disable=None, leave=False, delay=2):
        part = X[start : start + CHUNK].to(device).flatten(1).float() - centre  # [C, P]
        # |x - t|^2 = |x|^2 - 2 x.t + |t|^2, without |x|^2, which is the same for all t.
        apart = torch.addmm(part.square().sum(1), x, part.T, alpha=-2)  # [n, C]
        if own is not None:
            here = ((own >= start) & (own < start + len(part))).nonzero()[:, 0]
            apart[here.to(device), (own[here] - start).to(device)] = torch.inf
        smallest, place = apart.min(1)
        index = torch.where(smallest < closest, start + place, index)
        closest = torch.minimum(smallest, closest)
    index = index.cpu()
    # From the differences themselves: a copy is at distance 0, not at what rounding left.
    difference = images.cpu().flatten(1).float() - X[index].flatten(1).float()
    return index, difference.square().sum(1, dtype=torch.float64)


def authenticity(samples: Tensor, X: Tensor) -> float | None:
    """Authenticity of samples [n, *shape] as to the training images X [N, *shape]; None for fewer than two of
    these."""
    if len(X) < 2:
        return None
    index, distance = nearest(samples, X)
    found, place = index.unique(return_inverse=True)  # few of many training images
    _, to_others = nearest(X[found].to(samples.device), X, own=found)
    return float((distance > to_others[place]).double().mean())
