"""Fréchet distance between samples and real images, and the features that images are compared by.

    d^2 = |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2))

for the means m and covariances C of the features of two sets of images (Heusel et al., 2017), by
torchmetrics. The features are those of the Inception network that the paper used, if torch-fidelity is
installed and the network's weights are on disk (nothing is downloaded); else of a small classifier, trained
here on the run's training images, once for the same images. Distances compare within one kind of features,
and for the classifier within one set of training images only.
"""

import contextlib
import hashlib
import importlib.util
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import channels_first
from training import ImageDataset, Images, UserError, one_cycle, write_atomically

SAMPLES = 1000  # images of a set that is graded
STEPS, BATCH, LR = 300, 64, 2e-3  # of the classifier; the steps are so many however many images there are
INCEPTION_WEIGHTS = 'pt_inception-2015-12-05-6726825d.pth'  # the name under which torch-fidelity stores them


class Classifier(nn.Module):
    """Images [B, *shape] in 0-1 to features [B, 64], of which a linear layer makes the classes' logits."""

    num_features = 64

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.channels, height, width = channels_first(shape)
        self.features = nn.Sequential(
            nn.Conv2d(self.channels, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(7),  # [B, 64, 7, 7], whatever the images' size
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 49, self.num_features),
            nn.ReLU(),
        )
        self.head = nn.Linear(self.num_features, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.features(x.view(len(x), self.channels, *x.shape[-2:]))  # [B, 64]


@torch.enable_grad()  # whatever the caller does
def train_classifier(train_set: ImageDataset) -> Classifier:
    """A Classifier of the training images, in eval mode. Always on the CPU and from one seed: the same images
    give the same features, and distances compare."""
    # With the shifted copies: without them it would overfit a thousand images.
    images = Images(train_set, 'cpu')
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):  # weights and dropout do not change the caller's random numbers
        torch.manual_seed(0)
        model = Classifier(train_set.shape, len(train_set.classes))
        adam = torch.optim.Adam(model.parameters(), lr=LR)
        for step in range(STEPS):
            for group in adam.param_groups:
                group['lr'] = LR * one_cycle(step, STEPS, warm_up=0.1)
            index = torch.randint(len(images), (BATCH,), generator=generator)
            loss = F.cross_entropy(model.head(model(images[index][0])), train_set.y[index % images.n])
            adam.zero_grad()
            loss.backward()
            adam.step()
    return model.eval().requires_grad_(False)


def inception_weights() -> Path | None:
    """The file of the Inception network's weights; None: it, or torch-fidelity, is not on this machine."""
    weights = Path(torch.hub.get_dir()) / 'checkpoints' / INCEPTION_WEIGHTS
    return weights if importlib.util.find_spec('torch_fidelity') and weights.exists() else None


def load_classifier(train_set: ImageDataset) -> Classifier:
    """train_classifier, or the one that it made of the same images before, from the user's cache folder."""
    made_of = train_set.checksum(), train_set.classes, STEPS, torch.__version__, Path(__file__).read_bytes()
    folder = Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'auto-decoders')
    path = folder / f'classifier-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:20]}.pt'
    with torch.device('meta'):  # no random numbers are taken for weights that are loaded
        classifier = Classifier(train_set.shape, len(train_set.classes))
    with contextlib.suppress(Exception):  # there is none, or a damaged one, of which torch raises many types
        classifier.load_state_dict(torch.load(path, weights_only=True), assign=True)
        return classifier.eval().requires_grad_(False)
    classifier = train_classifier(train_set)
    with contextlib.suppress(OSError, UserError):  # without room for it, it is trained again next time
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: torch.save(classifier.state_dict(), temporary))
    return classifier


known = {}  # classifiers by the checksum of their images: one serves all runs that are graded


def feature_networks(
    train_set: ImageDataset, device: torch.device | str
) -> tuple[Classifier | None, nn.Module | None]:
    """The classifier of the training images, None if they have no labels; and torchmetrics' Inception network
    with 2,048 features, None without its weights."""
    classifier = network = None
    if train_set.labelled:
        checksum = train_set.checksum()
        if checksum not in known:
            known[checksum] = load_classifier(train_set)
        classifier = known[checksum]
    if weights := inception_weights():
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights))
        network = metric.inception.to(device)
    return classifier, network


@torch.no_grad()
def classifier_features(classifier: Classifier, images: Tensor) -> Tensor:
    """Features [N, 64] of uint8 images [N, *shape]."""
    return torch.cat([classifier(part.float() / 255) for part in images.split(250)])


@torch.no_grad()
def inception_features(network: nn.Module, images: Tensor) -> Tensor:
    """Features [N, 2048] of uint8 images [N, *shape]. Grey images become three equal channels."""
    images = images[:, None].expand(-1, 3, -1, -1) if images.dim() == 3 else images
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).cpu() for part in images.split(50)])


@torch.no_grad()
def extract(
    images: Tensor, classifier: Classifier | None, network: nn.Module | None
) -> tuple[Tensor | None, Tensor | None]:
    """Features [N, F] of uint8 images [N, *shape], of the Inception network if there is one, else of the
    classifier; and the classes int64 [N] that the classifier sees. None without the networks for it."""
    features = predicted = None
    if classifier:
        features = classifier_features(classifier, images)
        predicted = classifier.head(features).argmax(1)
    if network:
        features = inception_features(network, images)
    return features, predicted


class Precomputed(nn.Identity):
    """Features that are computed already, as a network for torchmetrics."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of features [N, F] and [M, F]; N and M at least 2."""
    from torchmetrics.image.fid import FrechetInceptionDistance  # here: two seconds to import

    metric = FrechetInceptionDistance(feature=Precomputed(a.shape[1]))
    metric.update(a.double(), real=True)  # double: the covariances' product has eigenvalues near 0
    metric.update(b.double(), real=False)
    return float(metric.compute())
