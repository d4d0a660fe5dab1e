"""Auto-encoders with codes of several sizes, and their losses beside those of PCA: train_ae.py --sweep."""

import argparse
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.decomposition import PCA

import commands
import grading
import utils


def pca_losses(train_set, test_set, sizes):
    """The course's loss of the test images, in batches of 64, by PCA of the training images with each of sizes: floats."""
    x, x_test = (dataset.X.flatten(1).numpy() for dataset in (train_set, test_set))  # [N, 784] in 0-255
    pca = PCA(min(max(sizes), *x.shape), random_state=0).fit(x)
    scores = pca.transform(x_test)
    losses = []
    for size in sizes:
        decoded = torch.as_tensor(scores[:, :size] @ pca.components_[:size] + pca.mean_).clamp(
            0, 255
        )  # [N, 784], as images are
        pairs = zip(torch.as_tensor(x_test).split(grading.GRADE_BATCH), decoded.split(grading.GRADE_BATCH))
        losses.append(float(torch.stack([grading.reconstruction_loss(*pair) for pair in pairs]).mean()))
    return losses


def draw_losses(rows, file_name):
    """rows: those of sweep.json."""
    fig, ax = plt.subplots(figsize=(7, 5))
    for name, label in (
        ('pca_loss', 'PCA'),
        ('test_loss', 'auto-encoder'),
        ('train_loss', 'auto-encoder, training images'),
    ):
        ax.plot([row['latent_dim'] for row in rows], [row[name] for row in rows], marker='o', label=label)
    ax.set(
        xlabel='dimensions of the code',
        ylabel='reconstruction loss',
        xticks=[row['latent_dim'] for row in rows],
    )
    ax.grid(alpha=0.3)
    ax.legend()
    fig.savefig(file_name, dpi=100, bbox_inches='tight')
    plt.close(fig)


def run(args, config):
    """A run for each size in args.sweep, in args.run_dir/dNN; then pictures, sweep.json and a table.

    config: entries of the runs' configuration besides the flags. Finished sizes are not done again, and those of an earlier sweep
    in the folder are shown too.
    """
    given = vars(args)
    folder = given.get('run_dir', Path('runs/ae-sweep'))
    train_set, test_set, _ = utils.load_data(
        given.get('data_path', 'dataset'), given.get('dataset'), given.get('n_train'), given.get('n_test')
    )
    commands.choose_collection(folder, 'd[0-9]*', 'tsne_d[0-9]*.png*', 'sweep.*')
    sizes = sorted(
        {
            *args.sweep,
            *(
                int(path.parent.name[1:])
                for path in folder.glob('d[0-9]*/results.json')
                if path.parent.name[1:].isdecimal()
            ),
        }
    )
    rows = []
    for size in sizes:
        run_dir = folder / f'd{size:02d}'
        resume = args.resume and run_dir.exists() or utils.is_whole(run_dir)
        flags = argparse.Namespace(**{**vars(args), 'latent_dim': size, 'run_dir': run_dir, 'resume': resume})
        commands.train('ae', flags, **config)
        results = utils.read_json(run_dir / 'results.json')
        rows.append(
            {
                name: results[name]
                for name in ('latent_dim', 'test_loss', 'train_loss', 'knn_accuracy', 'train_seconds')
            }
        )
        utils.write_atomically(
            folder / f'tsne_d{size:02d}.png', lambda path: shutil.copy(run_dir / 'tsne_test.png', path)
        )
    for row, loss in zip(rows, pca_losses(train_set, test_set, sizes)):
        row['pca_loss'] = loss
    draw_losses(rows, folder / 'sweep.png')
    utils.write_json(folder / 'sweep.json', {'seed': args.seed, 'sizes': rows})
    print()
    columns = {
        'latent_dim': '>',
        'train_loss': '>',
        'test_loss': '>',
        'pca_loss': '>',
        'knn_accuracy': '>',
        'train_seconds': '>',
    }
    commands.print_table([[commands.cell(row[name], name) for name in columns] for row in rows], columns)
    print(f'pictures and figures: {folder / "sweep.png"}, {folder / "sweep.json"}')
