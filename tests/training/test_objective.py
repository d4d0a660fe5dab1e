import math

import pytest
import torch
from torch.distributions import ContinuousBernoulli, Normal

from training.objective import NegativeELBO
from training.runs import build_model


@pytest.fixture
def reconstruction(digits, small_config):
    """reconstruction(likelihood): the first term for five images x; also the model, its z, and x."""

    def compute(likelihood):
        config = small_config('gaussian', 'conv', likelihood=likelihood)
        model, x = build_model(config), digits[0].X[:5] / 255
        params, noise = torch.zeros(5, 2, 8), dict(seed=0, step=0, index=torch.arange(5))
        term, _ = NegativeELBO(model, config)(params, x, None, **noise)
        z, _ = model.sample(params, **noise)
        return term, model, z, x

    return compute


def test_the_gaussian_likelihood_equals_torchs_up_to_its_constant(reconstruction):
    term, model, z, x = reconstruction('gaussian')
    expected = -Normal(model.render(model.code(z)), 0.1).log_prob(x) - math.log(0.1 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(term, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_the_bernoulli_likelihood_is_the_cross_entropy_of_pixels_between_0_and_1_too(reconstruction):
    term, model, z, x = reconstruction('bernoulli')
    continuous = ContinuousBernoulli(logits=model.logits(model.code(z)))
    expected = -continuous.log_prob(x) + continuous._cont_bern_log_norm()
    torch.testing.assert_close(term, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-3)
