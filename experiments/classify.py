"""Classify images by the codes of a finished run's encoder, which stays as it is.

Usage:
    python -m experiments.classify runs/ae
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from tqdm import tqdm

from evaluation import NEIGHBOURS, print_table
from training import (
    UserError,
    data_path_flag,
    device_flag,
    find_data,
    flag,
    infer_latents,
    load_run,
    load_split,
    lock_folder,
    one_cycle,
    parse_flags,
    run_command,
    write_atomically,
    write_json,
)

# Of the deep head, AdamW's; the one that suits held-out training images is taken.
WEIGHT_DECAYS = (0.01, 0.1, 0.3, 1.0)
EPOCHS, BATCH, LR = 40, 50, 3e-3  # of the deep head
SHOWN = 600_000  # codes that it sees at most: many need fewer epochs
FOLDED = 5000  # codes, beyond which one fold is held out instead of each of five


def fit_deep(codes: Tensor, labels: Tensor, classes: int, weight_decay: float, seed: int) -> nn.Module:
    """The AE report's first head, trained on codes [n, D] and labels [n]."""
    torch.manual_seed(seed)
    head = nn.Sequential(
        nn.Linear(codes.shape[1], 64), nn.ReLU(), nn.Linear(64, 288), nn.ReLU(), nn.Linear(288, classes)
    )
    adam = torch.optim.AdamW(head.parameters(), weight_decay=weight_decay, fused=True)
    epochs = max(1, min(EPOCHS, SHOWN // len(codes)))
    steps = epochs * -(-len(codes) // BATCH)
    rows = (r for _ in range(epochs) for r in torch.randperm(len(codes)).split(BATCH))
    progress = tqdm(rows, desc='training a head', total=steps, disable=None, leave=False, delay=2)
    for step, r in enumerate(progress):
        adam.param_groups[0]['lr'] = LR * one_cycle(step, steps, warm_up=0.1)
        adam.zero_grad()
        F.cross_entropy(head(codes[r]), labels[r]).backward()
        adam.step()
    return head


def fit_linear(codes: Tensor, labels: Tensor, classes: int) -> nn.Module:
    """Its second head, one layer. The loss is convex: trained to its minimum, with scikit-learn's penalty on
    the weights, the head is logistic regression, whatever the seed."""
    head = nn.Linear(codes.shape[1], classes).double()
    codes = codes.double()
    lbfgs = torch.optim.LBFGS(
        head.parameters(), max_iter=500, tolerance_grad=1e-8, line_search_fn='strong_wolfe'
    )

    def closure():
        lbfgs.zero_grad()
        loss = F.cross_entropy(head(codes), labels) + head.weight.square().sum() / (2 * len(codes))
        loss.backward()
        return loss

    lbfgs.step(closure)
    return head.float()


def choose_weight_decay(codes: Tensor, labels: Tensor, classes: int, seed: int) -> float:
    """The one of WEIGHT_DECAYS with the smallest mean loss over five folds of the training codes, or of many
    over one of them."""
    losses, folds = [], min(5, len(codes)) if len(codes) <= FOLDED else 1
    for weight_decay in WEIGHT_DECAYS:
        loss = 0.0
        for fold in range(folds):
            held_out = torch.arange(len(codes)) % 5 == fold
            head = fit_deep(codes[~held_out], labels[~held_out], classes, weight_decay, seed)
            with torch.no_grad():
                loss += float(F.cross_entropy(head(codes[held_out]), labels[held_out], reduction='sum'))
        losses.append(loss)
    return WEIGHT_DECAYS[losses.index(min(losses))]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train classifiers on the codes that the encoder of a finished run (AE or VAE) gives its training
    images, and report their accuracy on its test images."""

    run: Path = flag(None, 'run folder', Path, positional=True, metavar='RUN')
    data_path: str | None = data_path_flag(
        'where the run was trained from, or if that is gone the environment variable DATA_PATH'
    )
    device: str | None = device_flag()


def codes_and_labels(options: Options):
    """Codes [n, D] of the run's training images, standardised, with their labels; codes of its test images,
    and the test set; the run's seed. UserError: the run has no encoder, or its images cannot be had."""
    run = options.run
    trained = load_run(run, options.device, script='train_ae.py')
    model, config = trained.model, trained.config
    if not model.encoder:
        raise UserError(
            f'expected a run with an encoder in {run}, got one of {config.system}; first: python train_ae.py'
        )
    data_path = find_data(run, options.data_path)
    _, test_set = load_split(config.replace(data_path=data_path, n_train=1))
    if test_set.checksum() != config.test_checksum:
        raise UserError(
            f'expected the test images that {run} was graded on, got others in {data_path}; name their '
            f'folder with --data-path'
        )
    codes, labels = model.mean(trained.latents).cpu(), trained.labels.cpu()
    if not test_set.labelled:
        raise UserError(f'expected images with labels in {run}, got none; train it on labelled ones')
    if len(labels.unique()) < 2:
        raise UserError(
            f'expected training images of two classes or more in {run}, got one; train it with a larger '
            '--n-train'
        )
    test_latents, _ = infer_latents(trained, test_set)
    test_codes = model.mean(test_latents).cpu()
    shift, scale = codes.mean(0), codes.std(0).clamp_min(1e-6)  # a VAE's means vary less than its prior
    return (codes - shift) / scale, labels, (test_codes - shift) / scale, test_set, config.seed


def main():
    options = parse_flags(Options)
    codes, labels, test_codes, test_set, seed = codes_and_labels(options)
    classes = len(test_set.classes)
    weight_decay = choose_weight_decay(codes, labels, classes, seed)
    heads = {
        'three layers (64, 288)': fit_deep(codes, labels, classes, weight_decay, seed),
        'one layer': fit_linear(codes, labels, classes),
    }
    with torch.no_grad():
        predictions = {name: head(test_codes).argmax(1) for name, head in heads.items()}
    others = {
        'logistic regression': LogisticRegression(max_iter=2000),
        '5 nearest neighbours': KNeighborsClassifier(min(NEIGHBOURS, len(codes))),
    }
    for name, classifier in others.items():
        predictions[name] = torch.as_tensor(classifier.fit(codes, labels).predict(test_codes))
    accuracy = {
        name: float((predicted == test_set.y).float().mean()) for name, predicted in predictions.items()
    }

    fig, axes = plt.subplots(1, 2, figsize=(15, 7), layout='constrained')
    for ax, name in zip(axes, heads):
        ConfusionMatrixDisplay.from_predictions(
            test_set.y,
            predictions[name],
            labels=range(classes),
            display_labels=test_set.classes,
            xticks_rotation='vertical',
            colorbar=False,
            cmap='Blues',
            ax=ax,
        )
        ax.set(
            title=f'{name}: {accuracy[name]:.3f} of {len(test_set)} test images',
            xlabel='predicted',
            ylabel='class',
        )
    record = {'n_train': len(codes), 'n_test': len(test_set), 'latent_dim': codes.shape[1]}
    record = {'accuracy': accuracy, 'weight_decay': weight_decay, **record}
    with lock_folder(options.run):
        write_atomically(options.run / 'confusion.png', lambda path: fig.savefig(path, dpi=100))
        write_json(options.run / 'classify.json', record)
    plt.close(fig)
    cells = [[name, f'{value:.4f}'] for name, value in accuracy.items()]
    print_table(cells, {'classifier of the codes': '<', 'test accuracy': '>'})
    print(f'confusion matrices: {options.run / "confusion.png"}')


if __name__ == '__main__':
    run_command(main)
