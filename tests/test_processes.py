"""Several processes on one machine, by torchrun and gloo: the same curve, the same checkpoints, one line for what is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import shards
import torch
import torch.distributed as dist

import train_vad
import training
import utils

ROOT = Path(__file__).parent.parent
FLAGS = ['--latent-dim', '5', '--device', 'cpu', '--epochs', '2', '--batch-size', '10']


def torchrun(processes, csv_dir, *flags, script='train_vad.py'):
    """A torchrun of the script, started."""
    environment = {**os.environ, 'DATA_PATH': str(csv_dir), 'OMP_NUM_THREADS': '1'}
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc-per-node',
        str(processes),
        ROOT / script,
        *FLAGS,
        *flags,
    ]
    return subprocess.Popen(
        [*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """Its exit status, standard output and error."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def curve(folder):
    return torch.tensor(
        [[m[name] for name in ('loss', 'reconstruction', 'kl')] for m in training.read_metrics(folder)]
    )


def test_any_number_of_processes_follows_the_same_curve(command, csv_dir, tmp_path):
    status, _, err = command(train_vad, '--data-path', csv_dir, *FLAGS, '--run-dir', tmp_path / '1')
    assert status == 0, err
    one = json.loads((tmp_path / '1' / 'results.json').read_text())
    for k in (2, 4):
        status, out, err = finish(torchrun(k, csv_dir, '--run-dir', tmp_path / str(k)))
        assert status == 0 and not err and out.count('report.html') == 1, err  # one process speaks
        torch.testing.assert_close(curve(tmp_path / str(k)), curve(tmp_path / '1'), rtol=1e-4, atol=0)
        results = json.loads((tmp_path / str(k) / 'results.json').read_text())
        for name in ('train_loss', 'test_loss', 'kl'):
            assert results[name] == pytest.approx(one[name], rel=1e-3)
        latents = [
            utils.load_checkpoint(tmp_path / run / 'checkpoint.pt')['latents'] for run in ('1', str(k))
        ]
        torch.testing.assert_close(*latents, rtol=0.02, atol=0.02)
        assert not list((tmp_path / str(k)).glob('shares-*'))


def test_an_interrupted_run_goes_on_with_another_number_of_processes(command, csv_dir, tmp_path):
    many = ['--epochs', '30', '--dist', 'exponential']
    status, _, err = command(
        train_vad, '--data-path', csv_dir, *FLAGS, *many, '--run-dir', tmp_path / 'whole'
    )
    assert status == 0, err
    run = tmp_path / 'run'
    process = torchrun(2, csv_dir, *many, '--run-dir', run)
    while process.poll() is None and not (run / 'checkpoint.pt').exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status and 'Go on with: torchrun --nproc-per-node 2' in err, err
    state = utils.load_checkpoint(run / 'checkpoint.pt')
    assert state['stage'] == 'training' and [p.name for p in run.glob('shares-*')] == [state['shares']]
    shutil.copytree(run, tmp_path / 'copy')
    status, _, err = command(train_vad, '--data-path', csv_dir, *FLAGS, *many, '--run-dir', run, '--resume')
    assert status == 0 and not err, err
    # Of 64 images three processes have 22, 22 and 20.
    status, _, err = finish(torchrun(3, csv_dir, *many, '--run-dir', tmp_path / 'copy', '--resume'))
    assert status == 0, err
    for folder in (run, tmp_path / 'copy'):
        torch.testing.assert_close(curve(folder), curve(tmp_path / 'whole'), rtol=1e-4, atol=0)
        assert not list(folder.glob('shares-*'))


@pytest.mark.parametrize(
    'script, flags, message',
    [
        (
            'train_ad.py',
            ['--n-train', '4'],
            'expected images for each of 3 processes, in shares of 2, got 4 images',
        ),
        ('train_vad.py', ['--decoder', 'dcgan7x7'], 'expected a decoder without batch normalisation'),
        ('train_vae.py', [], 'expected train_ad.py or train_vad.py with several processes, got 3'),
    ],
)
def test_one_line_says_what_is_wrong(csv_dir, tmp_path, script, flags, message):
    status, out, err = finish(torchrun(3, csv_dir, *flags, '--run-dir', tmp_path / 'run', script=script))
    errors = [line for line in err.splitlines() if line.startswith('error: ')]  # torchrun adds its own report
    assert status and len(errors) == 1 and errors[0].startswith('error: ' + message), err
    assert not re.search(rf'File "{re.escape(str(ROOT))}/\w+\.py"', err)  # no traceback of ours
    assert not (tmp_path / 'run' / 'checkpoint.pt').exists()


# ------------------------------------------------------------------------------------------------ shards


@pytest.fixture
def alone():
    """A group of one process."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_shards_come_back(alone, tmp_path):
    parts = {'table': torch.randn(5, 7, 3), 'count': torch.arange(35).view(5, 7)}
    shards.write(tmp_path / 'shares-1', parts, 7)
    back = shards.read(tmp_path / 'shares-1', {name: torch.zeros_like(x) for name, x in parts.items()}, 7)
    assert all(torch.equal(back[name], x) for name, x in parts.items())


@pytest.mark.parametrize('n, missing', [(6, False), (7, True)])
def test_shards_of_another_size_or_none(alone, tmp_path, n, missing):
    shards.write(tmp_path / 'shares-1', {'table': torch.randn(5, 7, 3)}, 7)
    if missing:
        shutil.rmtree(tmp_path / 'shares-1')
    with pytest.raises(shards.Failed) as error:
        shards.read(tmp_path / 'shares-1', {'table': torch.zeros(5, n, 3)}, n)
    assert str(error.value) and '\n' not in str(error.value)


def test_shards_that_cannot_be_written(alone, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(shards.Failed) as error:
        shards.write(tmp_path / 'file' / 'shares-1', {'table': torch.randn(5, 7, 3)}, 7)
    assert str(error.value) and '\n' not in str(error.value)
