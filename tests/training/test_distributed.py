"""Several processes on one machine, by gloo: the same curve, the same checkpoints, one line for an error.

torchrun starts them in one test. In the others they are forks of this process, which are told what torchrun
would tell them, and need not import anything.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.utils.distributed import get_free_port

import train_ad
import train_vad
import train_vae
from training import distributed
from training.checkpoints import load_checkpoint, read_metrics
from training.errors import UserError

ROOT = Path(train_vad.__file__).parent
FLAGS = ['--latent-dim', '5', '--device', 'cpu', '--decoder', 'mlp', '--epochs', '2', '--batch-size', '10']


@pytest.fixture(autouse=True)
def quick(monkeypatch, quicken):
    quicken(monkeypatch)


@pytest.fixture
def processes(start_process, csv_dir):
    """processes(n, module, *arguments): the exit statuses of n processes that train one model, and what they
    wrote to standard output and error."""

    def run(n, module, *arguments):
        group = dict(WORLD_SIZE=str(n), MASTER_ADDR='localhost', MASTER_PORT=str(get_free_port()))
        flags = ['--data-path', csv_dir, *FLAGS, *arguments]
        started = [
            start_process(module, *flags, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(n)
        ]
        for process in started:
            process.join(timeout=120)
        out, err = ([getattr(process, name)() for process in started] for name in ('out', 'err'))
        return [process.exitcode for process in started], ''.join(out), ''.join(err)

    return run


def curve(folder):
    names = ('loss', 'reconstruction', 'kl')
    return torch.tensor([[line[name] for name in names] for line in read_metrics(folder)])


def test_any_number_of_processes_follows_the_same_curve(command, processes, csv_dir, tmp_path):
    status, _, err = command(train_vad, '--data-path', csv_dir, *FLAGS, '--run-dir', tmp_path / '1')
    assert status == 0, err
    one = json.loads((tmp_path / '1' / 'results.json').read_text())
    latents = load_checkpoint(tmp_path / '1' / 'checkpoint.pt')['latents']
    for n in (2, 4):
        folder = tmp_path / str(n)
        statuses, out, err = processes(n, train_vad, '--run-dir', folder)
        assert statuses == n * [0] and not err and out.count('report.html') == 1, err  # one process speaks
        torch.testing.assert_close(curve(folder), curve(tmp_path / '1'), rtol=1e-4, atol=0)
        results = json.loads((folder / 'results.json').read_text())
        for name in ('train_loss', 'test_loss', 'kl'):
            assert results[name] == pytest.approx(one[name], rel=1e-3)
        ours = load_checkpoint(folder / 'checkpoint.pt')['latents']
        torch.testing.assert_close(ours, latents, rtol=0.02, atol=0.02)
        assert not list(folder.glob('shares-*'))


def test_two_processes_train_on_incomplete_images_as_one_does(command, processes, csv_dir, tmp_path):
    missing = ['--missing', '0.5', '--run-dir']
    status, _, err = command(train_vad, '--data-path', csv_dir, *FLAGS, *missing, tmp_path / '1')
    assert status == 0, err
    statuses, _, err = processes(2, train_vad, *missing, tmp_path / '2')
    assert statuses == [0, 0], err
    torch.testing.assert_close(curve(tmp_path / '2'), curve(tmp_path / '1'), rtol=1e-4, atol=0)
    one, two = (json.loads((tmp_path / n / 'results.json').read_text()) for n in '12')
    assert two['test_rmse_missing'] == pytest.approx(one['test_rmse_missing'], rel=1e-2)


def test_two_processes_learn_the_prior_that_one_does(command, processes, csv_dir, tmp_path):
    learned = ['--prior', 'learned', '--run-dir']
    status, _, err = command(train_vad, '--data-path', csv_dir, *FLAGS, *learned, tmp_path / '1')
    assert status == 0, err
    statuses, _, err = processes(2, train_vad, *learned, tmp_path / '2')
    assert statuses == [0, 0], err
    one, two = (load_checkpoint(tmp_path / n / 'checkpoint.pt')['model']['prior.params'] for n in '12')
    torch.testing.assert_close(two, one, rtol=0.02, atol=0.02)


def test_an_interrupted_run_goes_on_with_another_number_of_processes(command, processes, csv_dir, tmp_path):
    many = ['--epochs', '20', '--dist', 'exponential']
    whole, run, copy = (tmp_path / name for name in ('whole', 'run', 'copy'))
    flags = ['--data-path', csv_dir, *FLAGS, *many]
    status, _, err = command(train_vad, *flags, '--run-dir', whole)
    assert status == 0, err

    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2', train_vad.__file__]
    launched = subprocess.Popen(
        [*map(str, [*torchrun, *FLAGS, *many, '--run-dir', run])],
        env={**os.environ, 'DATA_PATH': str(csv_dir), 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # After the first epoch. (The first checkpoint comes after seconds, on a fast machine after training.)
    metrics = run / 'metrics.jsonl'
    while launched.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    launched.send_signal(signal.SIGINT)
    _, err = launched.communicate(timeout=240)
    assert launched.returncode and 'Go on with: torchrun --nproc-per-node 2' in err, err
    state = load_checkpoint(run / 'checkpoint.pt')
    assert state['stage'] == 'training' and [p.name for p in run.glob('shares-*')] == [
        state['shares']['folder']
    ]

    shutil.copytree(run, copy)
    status, _, err = command(train_vad, *flags, '--run-dir', run, '--resume')
    assert status == 0 and not err, err
    # Of 64 images three processes have 22, 22 and 20.
    statuses, _, err = processes(3, train_vad, *many, '--run-dir', copy, '--resume')
    assert statuses == [0, 0, 0], err
    for folder in (run, copy):
        torch.testing.assert_close(curve(folder), curve(whole), rtol=1e-4, atol=0)
        assert not list(folder.glob('shares-*'))


@pytest.mark.parametrize(
    'module, flags, message',
    [
        (
            train_ad,
            ['--n-train', '4'],
            'expected images for each of 3 processes, in shares of 2, got 4 images',
        ),
        (train_vad, ['--decoder', 'dcgan7x7'], 'expected a decoder without batch normalisation'),
        (train_vae, [], 'expected train_ad.py or train_vad.py with several processes, got 3'),
    ],
)
def test_one_line_says_what_is_wrong(processes, tmp_path, one_line, module, flags, message):
    statuses, out, err = processes(3, module, *flags, '--run-dir', tmp_path / 'run')
    assert all(statuses) and one_line(err) and err.startswith('error: ' + message) and not out, err
    assert not re.search(rf'File "{re.escape(str(ROOT))}/\w+\.py"', err)  # no traceback of ours
    assert not (tmp_path / 'run' / 'checkpoint.pt').exists()


SET = dict(WORLD_SIZE='2', RANK='0', LOCAL_RANK='0', MASTER_ADDR='localhost', MASTER_PORT='29500')


@pytest.mark.parametrize(
    'changes',
    [
        *({name: None} for name in SET if name != 'WORLD_SIZE'),
        *({name: 'abc'} for name in SET if name != 'MASTER_ADDR'),
        dict(LOCAL_WORLD_SIZE='abc'),
        dict(WORLD_SIZE='0'),
        dict(WORLD_SIZE='-1'),
        dict(RANK='2'),
    ],
    ids=str,
)
def test_variables_that_torchrun_would_not_set(monkeypatch, changes):
    for name, value in {**SET, **changes}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match='expected WORLD_SIZE, .* as torchrun sets them, got WORLD_SIZE='):
        distributed.launched()


def test_one_process_needs_no_variables(monkeypatch):
    assert distributed.launched() == 1
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert distributed.launched() == 1


@pytest.mark.parametrize('address', ['localhost', 'no-such-host.invalid'])
def test_processes_that_cannot_meet(start_process, one_line, address):
    with socket.create_server(('', 0)) as server:  # the port is taken
        place = dict(MASTER_ADDR=address, MASTER_PORT=str(server.getsockname()[1]))
        process = start_process(train_ad, '--device', 'cpu', **{**SET, **place})
        process.join(timeout=60)
    assert process.exitcode == 2 and one_line(process.err()) and 'expected to meet 2 proc' in process.err()


@pytest.mark.parametrize(
    'writer', ['loop.write_atomically', 'loop.append_line', 'checkpoints.save_checkpoint']
)
def test_one_line_says_what_only_the_main_process_cannot_write(
    processes, monkeypatch, tmp_path, one_line, writer
):
    def write(*_):
        raise UserError('the disk is full')

    monkeypatch.setattr(f'training.{writer}', write)
    statuses, _, err = processes(2, train_ad, '--run-dir', tmp_path / 'run')
    assert statuses == [2, 2] and one_line(err), err
