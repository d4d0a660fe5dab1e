import math

import torch

from training.optimisers import RowAdam, one_cycle


def test_row_adam_equals_torch_on_the_rows_it_touches():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(10, 4, generator=generator)
    local_index = torch.tensor([7, 2, 5])
    reference = latents[local_index].clone().requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.1)
    ours = latents.clone()
    row_adam = RowAdam(ours, 0.9, 0.999)
    for _ in range(5):
        gradient = torch.randn(3, 4, generator=generator)
        reference.grad = gradient
        adam.step()
        row_adam.step(local_index, gradient, 0.1)
    torch.testing.assert_close(ours[local_index], reference.detach())
    others = [0, 1, 3, 4, 6, 8, 9]
    assert torch.equal(ours[others], latents[others])
    assert not row_adam.m[others].any() and not row_adam.count[others].any()


def test_row_adam_counts_each_row_by_itself():
    latents = torch.zeros(2, 3)
    adam = RowAdam(latents, 0.9, 0.999)
    for _ in range(9):
        adam.step(torch.tensor([0]), torch.ones(1, 3), 0.1)
    adam.step(torch.tensor([1]), torch.full((1, 3), 1e-3), 0.1)
    first_step = torch.full((3,), -0.1)  # its length is lr
    torch.testing.assert_close(latents[1], first_step, rtol=1e-3, atol=0)


def test_one_cycle_rises_to_1_and_falls_to_a_hundredth():
    factors = [one_cycle(i, 1000, 0.1) for i in range(1000)]
    assert 0 < factors[0] and max(factors) == factors[99] == 1 and math.isclose(factors[-1], 0.01)
    assert factors[:100] == sorted(factors[:100]) and factors[99:] == sorted(factors[99:], reverse=True)


def test_a_single_step_of_one_cycle_moves_too():
    assert one_cycle(0, 1, 0.1) > 0
