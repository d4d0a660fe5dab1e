"""The benchmark's parts, on few images; no times are asserted."""

import benchmark
import pytest
import torch

import utils

CPU = torch.device('cpu')


def test_steps_go_on_from_epoch_to_epoch(digits):
    ours, plain = benchmark.make_trainer(digits[0], CPU, 'groupnorm'), benchmark.plain_step(digits[0], CPU)
    steps = {
        'ours': benchmark.our_step(ours),
        'plain': plain,
        'constants': benchmark.our_step(
            benchmark.without_sampling(benchmark.make_trainer(digits[0], CPU, 'groupnorm'))
        ),
    }
    times = benchmark.by_turns(steps, CPU, seconds=0)
    assert set(times) == set(steps) and all(t > 0 for t in times.values())
    assert ours.step_number == 24  # two a turn


def test_the_plain_program_learns_and_its_shortest_way_is_returned(digits, monkeypatch):
    monkeypatch.setattr(benchmark, 'EPOCHS', 20)
    monkeypatch.setattr(benchmark, 'TARGET', 10)  # any loss will do
    curve = benchmark.plain_curve(*digits, CPU, seed=0)
    assert len(curve) == 1 and curve[0][0] > 0
    monkeypatch.setattr(benchmark, 'TARGET', 0)
    curve = benchmark.plain_curve(*digits, CPU, seed=0)
    assert len(curve) == 2 and curve[-1][1] < curve[0][1]


def test_many_images_are_written_and_mapped(tmp_path):
    images = benchmark.np.load(benchmark.many_images(1001, tmp_path), mmap_mode='r')
    assert images.shape == (1001, 28, 28) and images.std() > 60


def test_one_process_and_several_take_steps_by_turns(digits):
    rates = benchmark.one_and_many(2, digits[0], CPU, 64, seconds=0)
    assert list(rates) == ['one', 'together', 'apart'] and all(rate > 0 for rate in rates.values())


def test_each_process_of_the_benchmark_has_its_share(digits, monkeypatch):
    monkeypatch.setattr(benchmark.processes, 'share', lambda n: slice(16, 32))
    assert benchmark.make_trainer(digits[0], CPU, 'groupnorm').images.n == 16


def test_too_few_images_are_said(digits, monkeypatch):
    monkeypatch.setattr(utils, 'load_data', lambda path: (digits[0].part(slice(63)), digits[1], 'digits'))
    monkeypatch.setattr('sys.argv', ['benchmark.py', '--device', 'cpu'])
    with pytest.raises(utils.UserError, match='expected 64 training images or more, a batch, got 63'):
        benchmark.main()
