"""Whole runs on a GPU, their steps as CUDA graphs: each system, and what changes a step. They end about where
the same runs on a CPU end."""

import json

import pytest
import torch

import evaluate
import impute
import train_ad
import train_ae
import train_gan
import train_vad
import train_vae

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='for machines with a GPU')


def losses(train, module, folder, *arguments):
    status, _, err = train(module, '--run-dir', folder, *arguments)
    assert status == 0, err
    return json.loads((folder / 'results.json').read_text())


@pytest.mark.parametrize(
    'module, arguments',
    [
        (train_ad, []),
        (train_ad, ['--decoder', 'dcgan7x7', '--eager']),
        *((train_vad, ['--dist', dist]) for dist in ('gaussian', 'laplace', 'exponential', 'uniform')),
        (train_vad, ['--dist', 'gaussian-full', '--batch-size', '10']),
        (train_vad, ['--decoder', 'dcgan7x7', '--obs-std', 'auto']),
        (train_vad, ['--decoder', 'conv6', '--likelihood', 'bernoulli', '--binarise', 'dynamic']),
        (train_vad, ['--missing', '0.5', '--missing-kind', 'blocks']),
        (train_ae, []),
        (train_ae, ['--dropout', '0.1', '--prune', '0.2']),
        (train_vae, []),
        (train_vae, ['--encoder', 'lstm', '--dist', 'laplace']),
        (train_vae, ['--missing', '0.5', '--importance-samples', '3']),
    ],
)
def test_a_run_ends_where_it_ends_on_a_cpu(train, tmp_path, module, arguments):
    cpu, gpu = (
        losses(train, module, tmp_path / device, '--device', device, *arguments) for device in ('cpu', 'cuda')
    )
    for name in ('train_loss', 'test_loss', 'kl'):
        assert gpu[name] == pytest.approx(cpu[name], rel=0.03, abs=0.05), name


@pytest.mark.parametrize('module, arguments', [(train_vad, ['--bfloat16']), (train_gan, [])])
def test_a_run_comes_to_its_end(train, tmp_path, module, arguments):
    losses(train, module, tmp_path / 'gpu', '--device', 'cuda', *arguments)


def test_a_run_of_the_gpu_is_graded_and_fills_in_images(train, command, tmp_path, csv_dir):
    run = tmp_path / 'gpu'
    losses(train, train_vad, run, '--device', 'cuda', '--missing', '0.3')
    data = ['--data-path', csv_dir, '--device', 'cuda']
    for arguments in ([], ['--likelihood', '20'], ['--refine', 'full', '--n-test', '20']):
        status, _, err = command(evaluate, run, *data, *arguments)
        assert status == 0, err
    status, _, err = command(
        impute, run, '--out', tmp_path / 'filled.npz', '--draws', '2', '--device', 'cuda'
    )
    assert status == 0, err
