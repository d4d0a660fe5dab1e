"""A step as a CUDA graph: one launch in place of a hundred small ones, which the host cannot launch as fast
as the GPU runs."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.batches import Images
from training.config import Config
from training.distributed import world_size

WARM_UP = 3  # calls without the graph: libraries initialise themselves, and the optimiser creates its state


class CUDAGraphStep:
    """step(*arguments), a function without a result, captured once and replayed.

    A graph reads its arguments from the tensors that it was captured with: each call copies its arguments
    into these static inputs. Arguments of another shape (a last, smaller batch) run without the graph.
    Whatever else the step uses must stay at its address, and the step must not synchronise with the host.
    """

    def __init__(self, step: Callable[..., None], device: torch.device):
        self.step, self.device = step, device
        self.static_inputs, self.graph, self.calls = None, None, 0

    def __call__(self, *arguments: Tensor | float):
        if self.static_inputs is None:
            self.static_inputs = [
                torch.as_tensor(argument, device=self.device).clone() for argument in arguments
            ]
        pairs = list(zip(self.static_inputs, arguments))
        if any(torch.is_tensor(argument) and argument.shape != static.shape for static, argument in pairs):
            return self.step(*arguments)
        for static, argument in pairs:
            static.copy_(argument) if torch.is_tensor(argument) else static.fill_(argument)
        if self.calls < WARM_UP:
            self.warm_up()
        else:
            self.graph = self.graph or self.capture()
            self.graph.replay()
        self.calls += 1

    def warm_up(self):
        side_stream = torch.cuda.Stream()  # as PyTorch's manual advises before a capture
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            self.step(*self.static_inputs)
        torch.cuda.current_stream().wait_stream(side_stream)

    def capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # records the launches, and executes none
            self.step(*self.static_inputs)
        return graph


def with_cuda_graph(step: Callable[..., None], images: Images, config: Config) -> Callable[..., None]:
    """The step as a CUDAGraphStep where that is possible, and --eager is not given; else the step."""
    # Dropout takes a new seed from the host in each step. Pruning changes what a step computes. The images of
    # a mapped data set lie in their file, and the host reads them from there.
    changes = config.dropout or config.prune or images.X.device.type != 'cuda' or world_size() > 1
    return step if config.eager or changes else CUDAGraphStep(step, images.device)
