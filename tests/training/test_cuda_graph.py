from types import SimpleNamespace

import pytest
import torch

from training.cuda_graph import CUDAGraphStep, with_cuda_graph
from training.inference import Schedule, fit_latents
from training.randomness import REFINE
from training.systems import AEConfig, VADConfig


class Recorded(CUDAGraphStep):
    """A graph for machines without a GPU: what was captured is called again."""

    def warm_up(self):
        self.step(*self.static_inputs)

    def capture(self):
        class Graph:
            replay = self.warm_up

        return Graph


@pytest.fixture
def with_and_without(monkeypatch, digits, small_config, make_trainer):
    """with_and_without(wrap, device): train three epochs, the last batch of each of which is smaller, and fit
    latents; with steps as they are, and wrapped. All that was trained must be the same."""

    def train(device):
        config = small_config('laplace', batch_size=20)
        trainer = make_trainer(config, digits[0], device=device)
        trainer.model.train()
        for epoch in range(3):
            for batch in trainer.images.epoch(0, epoch, 20):
                trainer.step(*batch)
        fit = dict(use=REFINE, schedule=Schedule(passes=5, lr=0.05, quiet=0.6), label='refining')
        latents = fit_latents(trainer.model, trainer.latents[:64].clone(), trainer.images, config, **fit)
        shares, history = trainer.state_dict()['shares'], trainer.history
        return {**shares, **trainer.model.state_dict(), 'history': history, 'fitted': latents}

    def compare(wrap, device):
        ends = []
        for how in (lambda step: step, wrap):
            for module in ('trainer', 'inference'):
                name = f'training.{module}.with_cuda_graph'
                monkeypatch.setattr(name, lambda step, images, config: how(step))
            ends.append(train(device))
        for name, x in ends[0].items():
            torch.testing.assert_close(x, ends[1][name], rtol=1e-3, atol=1e-4)

    return compare


def test_a_step_reads_all_that_changes_from_its_arguments(with_and_without):
    steps = []

    def recorded(step):
        steps.append(Recorded(step, 'cpu'))
        return steps[-1]

    with_and_without(recorded, 'cpu')
    assert [step.calls for step in steps] == [27, 5] and all(step.graph for step in steps)


@pytest.mark.parametrize(
    'place, config, expected',
    [
        ('cuda:0', VADConfig(), True),
        ('cpu', VADConfig(), False),  # images of a mapped file
        ('cuda:0', VADConfig(eager=True), False),
        ('cuda:0', AEConfig(dropout=0.1), False),
        ('cuda:0', AEConfig(prune=0.1), False),
    ],
)
def test_which_steps_become_graphs(place, config, expected):
    images = SimpleNamespace(device=torch.device('cuda'), X=SimpleNamespace(device=torch.device(place)))
    assert isinstance(with_cuda_graph(print, images, config), CUDAGraphStep) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason='a CUDA graph cannot be captured without a GPU')
def test_a_cuda_graph_trains_as_its_launches_one_by_one(with_and_without):
    # The usual algorithms of convolutions add up in no fixed order.
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        with_and_without(lambda step: CUDAGraphStep(step, torch.device('cuda')), 'cuda')
