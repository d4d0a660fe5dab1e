"""Auto-encoders with codes of several sizes, and their losses beside those of PCA: train_ae.py --sweep."""

import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt

from evaluation import cell, print_table, save_figure
from training import (
    AEConfig,
    UserError,
    check_collection,
    is_finished,
    load_data,
    lock_folder,
    pick_device,
    read_json,
    write_atomically,
    write_json,
)

RESULTS = ('latent_dim', 'train_loss', 'test_loss', 'pca_loss', 'knn_accuracy', 'train_seconds')


def draw_sweep(rows: list[dict], file_name: Path):
    """rows: those of sweep.json."""
    fig, ax = plt.subplots(figsize=(7, 5))
    labels = {'pca_loss': 'PCA', 'test_loss': 'auto-encoder', 'train_loss': 'auto-encoder, training images'}
    sizes = [row['latent_dim'] for row in rows]
    for name, label in labels.items():
        ax.plot(sizes, [row[name] for row in rows], marker='o', label=label)
    ax.set(xlabel='dimensions of the code', ylabel='reconstruction loss', xticks=sizes)
    ax.grid(alpha=0.3)
    ax.legend()
    save_figure(fig, file_name)


def read_row(run_dir: Path) -> dict:
    """RESULTS of the finished run in run_dir. UserError: there are none."""
    path = run_dir / 'results.json'
    row = {name: read_json(path).get(name) for name in RESULTS}
    for name in ('train_loss', 'test_loss', 'pca_loss'):
        if not isinstance(row[name], float):
            raise UserError(
                f'expected a number for {name} in {path}, got {row[name]!r}; grade the run again: python '
                f'evaluate.py {run_dir}'
            )
    return row


def sweep(config: AEConfig, train: Callable[[AEConfig], None]):
    """A run for each size in config.sweep, by train(config), in the run folder's dNN; then pictures,
    sweep.json and a table. Finished sizes are not trained again, and those of an earlier sweep in the folder
    are shown too."""
    folder = config.run_dir or Path('runs/ae-sweep')
    pick_device(config.device)
    load_data(config)  # an error before the first run, if there are none
    check_collection(folder, 'd[0-9]*', 'tsne_d[0-9]*.png', 'sweep.*')
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        earlier = [path.parent.name[1:] for path in folder.glob('d[0-9]*/results.json')]
        sizes = sorted({*config.sweep, *(int(name) for name in earlier if name.isdecimal())})
        rows = []
        for size in sizes:
            run_dir = folder / f'd{size:02d}'
            resume = config.resume and run_dir.exists() or is_finished(run_dir)
            train(config.replace(latent_dim=size, run_dir=run_dir, resume=resume))
            rows.append(read_row(run_dir))
            tsne = run_dir / 'tsne_test.png'
            copy = folder / f'tsne_d{size:02d}.png'
            write_atomically(copy, lambda path, tsne=tsne: shutil.copy(tsne, path))
        draw_sweep(rows, folder / 'sweep.png')
        write_json(folder / 'sweep.json', {'seed': config.seed, 'sizes': rows})
    print()
    print_table([[cell(row[name], name) for name in RESULTS] for row in rows], dict.fromkeys(RESULTS, '>'))
    print(f'pictures and figures: {folder / "sweep.png"}, {folder / "sweep.json"}')
