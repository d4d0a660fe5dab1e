"""The grades of a trained run: what results.json says besides the configuration."""

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evaluation.losses import course_loss, mean_loss, pca_loss
from evaluation.sample_grades import grade_samples
from evaluation.samples import Sampler
from imputation import grade_imputation
from training import (
    DATASETS,
    GRADE,
    ImageDataset,
    Images,
    TrainedRun,
    mean_negative_elbo,
    noise_key,
    zero_weights,
)
from training.regularisation import held_out

NEIGHBOURS = 5
CHUNK = 1000  # images whose neighbours are searched at once
TRAIN_GRADED = 100_000  # training images whose loss is reported: a million would take minutes


@torch.no_grad()
def grade_test(trained: TrainedRun, test_set: ImageDataset, latents: Tensor) -> dict:
    """Grades on test images with latents [n, K]: course loss, negative ELBO, accuracy of nearest neighbours,
    and of missing pixels how well they are filled in.

    The losses are None where the truth under missing pixels is not known, the accuracy where the test set has
    other classes than the run's, or none.
    """
    from sklearn.neighbors import KNeighborsClassifier  # here: a second to import

    model, config = trained.model, trained.config
    grades = {
        'dataset': test_set.name,
        'n_test': len(test_set),
        'test_loss': course_loss(model, test_set, latents) if test_set.known else None,
        'test_loss_mean': mean_loss(model, test_set, latents) if test_set.known else None,
    }
    if test_set.observed is not None:
        grades |= grade_imputation(trained, test_set)
    if model.dist:  # of a point posterior the ELBO is not a bound on anything
        images, seed = Images(test_set, latents.device), noise_key(config.seed, GRADE)
        reconstruction, kl = mean_negative_elbo(model, latents, images, config, seed=seed)
        grades |= {
            'test_negative_elbo': reconstruction + kl,
            'test_reconstruction': reconstruction,
            'test_kl': kl,
        }
    codes, labels = model.mean(trained.latents).cpu(), trained.labels.cpu()
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(codes))).fit(codes, labels)
    classes = config.n_classes or len(DATASETS[config.dataset])  # of the run's images
    same_classes = test_set.labelled and (test_set.name, len(test_set.classes)) == (config.dataset, classes)
    accuracy = None
    if same_classes:
        parts = model.mean(latents).cpu().split(CHUNK)
        bar = tqdm(parts, desc='neighbours', disable=None, leave=False, delay=2)
        predicted = np.concatenate([neighbours.predict(part) for part in bar])
        accuracy = float((predicted == test_set.y.numpy()).mean())
    return {**grades, 'knn_accuracy': accuracy}


@torch.no_grad()
def grade_posteriors(
    trained: TrainedRun, model: nn.Module, test_set: ImageDataset, latents: Tensor
) -> dict[str, float]:
    """The negative ELBO of test images by posteriors that were fitted further, see refine_posteriors."""
    images, seed = Images(test_set, latents.device), noise_key(trained.config.seed, GRADE)
    reconstruction, kl = mean_negative_elbo(model, latents, images, trained.config, seed=seed)
    return {
        'refined_posterior': model.dist,
        'refined_negative_elbo': reconstruction + kl,
        'refined_reconstruction': reconstruction,
        'refined_kl': kl,
    }


@torch.no_grad()
def grade_training(trained: TrainedRun, train_set: ImageDataset) -> dict[str, float]:
    """Grades of the training latents (the first TRAIN_GRADED): course loss (sampled) and mean KL in nats.
    Also what early stopping and pruning did.

    With --patience the last tenth of train_set was held out, and has no latents.
    """
    model, latents = trained.model, trained.latents[:TRAIN_GRADED]
    train_set = train_set.part(slice(len(latents)))
    index = torch.arange(len(latents), device=latents.device)
    _, kl = model.sample(model.params(latents), seed=0, step=0, index=index)
    loss = course_loss(model, train_set, latents) if train_set.known else None
    grades = {'train_loss': loss, 'kl': float(kl.mean())}
    if trained.config.patience:
        grades |= {'n_held_out': held_out(trained.config.n_train), 'best_epoch': trained.best_epoch}
    if trained.config.prune:
        grades['zero_weights'] = zero_weights(model)
    return grades


def evaluate(
    trained: TrainedRun,
    train_set: ImageDataset,
    test_set: ImageDataset,
    test_latents: Tensor,
    sampler: Sampler,
) -> dict:
    """All grades of a run whose images have latents: of test images, training images and samples."""
    grades = grade_test(trained, test_set, test_latents) | grade_training(trained, train_set)
    grades['pca_loss'] = pca_loss(train_set, test_set, trained.config.latent_dim)
    return grades | grade_samples(sampler, train_set, test_set, test_latents)
