import math

import torch

from evaluation.amortisation import amortisation
from training.runs import TrainedRun, build_model
from training.systems import VAEConfig


def test_what_fitting_gains_of_incomplete_images(digits):
    test_set = digits[1].hide_pixels('blocks', 0.5, 0, 1)
    config = VAEConfig(latent_dim=3, encoder='mlp', decoder='mlp', shape=(28, 28), missing_share=0.5)
    trained = TrainedRun(config, build_model(config).eval().requires_grad_(False))
    table = amortisation(trained, test_set)
    assert all(math.isfinite(row['negative_elbo']) for row in table)
    # what is not observed does not count
    test_set.X = torch.where(test_set.observed[torch.arange(40)], test_set.X, 77.0)
    assert amortisation(trained, test_set) == table
