"""What an encoder leaves to be gained by fitting (Cremer et al., "Inference suboptimality in variational
autoencoders", 2018)."""

from pathlib import Path

import numpy as np
import torch

from evaluation.curves import draw_amortisation
from evaluation.report import print_table
from training import (
    GRADE,
    INFER,
    NEW_IMAGES,
    ImageDataset,
    Images,
    TrainedRun,
    encode,
    fit_latents,
    mean_negative_elbo,
    noise_key,
    write_json,
)

PASSES = (0, 2, 4, 8, 16, 32)
IMAGES = 1000  # of the test set, at most
DRAWS = 5  # samples of each image that a figure is the mean of


def amortisation(trained: TrainedRun, test_set: ImageDataset) -> list[dict]:
    """The negative ELBO in nats of test images whose latents were fitted by some passes with noise, the
    decoder frozen, from the encoder's latents and from the prior.

    Returns dicts of passes, start ('encoder' or 'prior'), negative_elbo, reconstruction, kl.
    """
    model, config = trained.model, trained.config
    images = Images(test_set, model.pixel_bias.device)
    encoded = encode(model, images, images.own()[:IMAGES])
    seed = noise_key(config.seed, GRADE)
    table = []
    # Zeros are the prior, the family's own one.
    for start, latents in (('encoder', encoded), ('prior', torch.zeros_like(encoded))):
        for passes in PASSES:
            label = f'fitting from the {start}'
            schedule = NEW_IMAGES._replace(passes=passes)
            fitted = fit_latents(model, latents.clone(), images, config, INFER, schedule, label)
            terms = [
                mean_negative_elbo(model, fitted, images, config, seed=seed, step=draw)
                for draw in range(DRAWS)
            ]
            reconstruction, kl = np.mean(terms, 0).tolist()
            negative_elbo = reconstruction + kl
            table.append(
                {
                    'passes': passes,
                    'start': start,
                    'negative_elbo': negative_elbo,
                    'reconstruction': reconstruction,
                    'kl': kl,
                }
            )
    return table


def report_amortisation(folder: Path, table: list[dict]):
    """Write amortisation.json and amortisation.png, and print the table."""
    write_json(folder / 'amortisation.json', table)
    draw_amortisation(table, folder / 'amortisation.png')
    cells = [
        [f'{value:.2f}' if isinstance(value, float) else str(value) for value in row.values()]
        for row in table
    ]
    print_table(cells, {name: '<' if name == 'start' else '>' for name in table[0]})
