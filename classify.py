"""Classify images by the codes of a finished run's encoder, which stays as it is.

python classify.py runs/ae
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.neighbors import KNeighborsClassifier

import commands
import grading
import training
import utils

WEIGHT_DECAYS = (
    0.01,
    0.1,
    0.3,
    1.0,
)  # of the deep head, AdamW's: the one that suits held-out training images
EPOCHS, BATCH, LR = 40, 50, 3e-3  # of the deep head


def fit_deep(codes, labels, classes, weight_decay, seed):
    """Document 002's first head, trained on codes [n, D] and labels [n]."""
    torch.manual_seed(seed)
    head = nn.Sequential(
        nn.Linear(codes.shape[1], 64), nn.ReLU(), nn.Linear(64, 288), nn.ReLU(), nn.Linear(288, classes)
    )
    adam = torch.optim.AdamW(head.parameters(), weight_decay=weight_decay)
    steps = EPOCHS * -(-len(codes) // BATCH)
    rows = (r for _ in range(EPOCHS) for r in torch.randperm(len(codes)).split(BATCH))
    for step, r in enumerate(rows):
        adam.param_groups[0]['lr'] = LR * training.one_cycle(step, steps, warm_up=0.1)
        adam.zero_grad()
        F.cross_entropy(head(codes[r]), labels[r]).backward()
        adam.step()
    return head


def fit_linear(codes, labels, classes):
    """Its second head, one layer. The loss is convex: trained to its minimum, with scikit-learn's penalty on the weights, the
    head is logistic regression, whatever the seed."""
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


def choose_weight_decay(codes, labels, classes, seed):
    """The one of WEIGHT_DECAYS with the smallest mean loss over five folds of the training codes."""
    losses = []
    for weight_decay in WEIGHT_DECAYS:
        loss = 0.0
        for fold in range(min(5, len(codes))):
            held_out = torch.arange(len(codes)) % 5 == fold
            head = fit_deep(codes[~held_out], labels[~held_out], classes, weight_decay, seed)
            with torch.no_grad():
                loss += float(F.cross_entropy(head(codes[held_out]), labels[held_out], reduction='sum'))
        losses.append(loss)
    return WEIGHT_DECAYS[losses.index(min(losses))]


def codes_and_labels(run, args):
    """Codes [n, D] of the run's training images, standardised, with their labels; the same of its test images, and the test
    set. UserError: the run has no encoder, or its images cannot be had."""
    given = vars(args)
    state, model = commands.open_finished(run, given, script='train_ae.py')
    config = state['config']
    if not model.encoder:
        raise utils.UserError(
            f'expected a run with an encoder in {run}, got one of {config["system"]}; first: '
            f'python train_ae.py'
        )
    data_path = commands.find_data(run, given)
    _, test, _ = utils.load_data(data_path, config['dataset'], n_train=1, n_test=config['n_test'])
    if test.checksum() != config['test_checksum']:
        raise utils.UserError(
            f'expected the test images that {run} was graded on, got others in {data_path}; name their folder '
            f'with --data-path'
        )
    codes, labels = model.mean(state['latents']).cpu(), state['labels'].cpu()
    if len(labels.unique()) < 2:
        raise utils.UserError(
            f'expected training images of two classes or more in {run}, got one; train it with a larger '
            f'--n-train'
        )
    test_codes = model.mean(grading.fit_test_latents(model, state, test)).cpu()
    shift, scale = (
        codes.mean(0),
        codes.std(0).clamp_min(1e-6),
    )  # of a VAE's means, which vary less than its prior
    return (codes - shift) / scale, labels, (test_codes - shift) / scale, test, config['seed']


def main():
    parser = commands.Parser(
        'Train classifiers on the codes that the encoder of a finished run (AE or VAE) gives its training '
        'images, and report their accuracy on its test images.'
    )
    parser.add_argument('run', type=Path, metavar='RUN', help='run folder')
    commands.add_place_flags(parser, None)
    args = parser.parse_args()
    codes, labels, test_codes, test, seed = codes_and_labels(args.run, args)
    classes = len(test.classes)
    weight_decay = choose_weight_decay(codes, labels, classes, seed)
    heads = {
        'three layers (64, 288)': fit_deep(codes, labels, classes, weight_decay, seed),
        'one layer': fit_linear(codes, labels, classes),
    }
    with torch.no_grad():
        predictions = {name: head(test_codes).argmax(1) for name, head in heads.items()}
    for name, classifier in (
        ('logistic regression', LogisticRegression(max_iter=2000)),
        ('5 nearest neighbours', KNeighborsClassifier(min(grading.NEIGHBOURS, len(codes)))),
    ):
        predictions[name] = torch.as_tensor(classifier.fit(codes, labels).predict(test_codes))
    accuracy = {name: float((predicted == test.y).float().mean()) for name, predicted in predictions.items()}

    fig, axes = plt.subplots(1, 2, figsize=(15, 7), layout='constrained')
    for ax, name in zip(axes, heads):
        ConfusionMatrixDisplay.from_predictions(
            test.y,
            predictions[name],
            labels=range(classes),
            display_labels=test.classes,
            xticks_rotation='vertical',
            colorbar=False,
            cmap='Blues',
            ax=ax,
        )
        ax.set(
            title=f'{name}: {accuracy[name]:.3f} of {len(test)} test images',
            xlabel='predicted',
            ylabel='class',
        )
    utils.write_atomically(args.run / 'confusion.png', lambda path: fig.savefig(path, dpi=100, format='png'))
    plt.close(fig)
    utils.write_json(
        args.run / 'classify.json',
        {
            'accuracy': accuracy,
            'weight_decay': weight_decay,
            'n_train': len(codes),
            'n_test': len(test),
            'latent_dim': codes.shape[1],
        },
    )
    commands.print_table(
        [[name, f'{value:.4f}'] for name, value in accuracy.items()],
        {'classifier of the codes': '<', 'test accuracy': '>'},
    )
    print(f'confusion matrices: {args.run / "confusion.png"}')


if __name__ == '__main__':
    utils.run_command(main)
