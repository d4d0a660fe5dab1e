"""Shared by the tests: Triton's interpreter where there is no GPU, no network, small data sets, commands in
this process."""

import gzip
import json
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

# Before anything imports torch: several workers share the cores, and a process with OpenMP threads cannot
# fork.
os.environ['OMP_NUM_THREADS'] = '1'

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # before anything imports triton, as torchvision does

import torchvision  # noqa: E402
from PIL import Image  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from evaluation import frechet  # noqa: E402
from training import loop  # noqa: E402
from training.command import run_command  # noqa: E402
from training.data import ImageDataset, read_digits  # noqa: E402
from training.systems import VADConfig  # noqa: E402
from training.trainer import Trainer  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads fail at once, whether there is a network or not."""

    def download(self):
        raise URLError('no network in tests')

    monkeypatch.setattr(torchvision.datasets.MNIST, 'download', download)
    monkeypatch.setattr(torchvision.datasets.Imagenette, '_download', download)
    monkeypatch.delenv('DATA_PATH', raising=False)


@pytest.fixture(scope='session', autouse=True)
def cache_folder(tmp_path_factory):
    """The user's cache folder, for these tests alone."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """Commands without --device run on the CPU, where they repeat bit for bit. Tests of the kernels, of CUDA
    graphs and of runs with --device cuda use a GPU where there is one."""
    if not {'kernels', 'test_cuda_graph.py', 'test_on_gpu.py'} & set(request.node.path.parts):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')  # of processes to be started


@pytest.fixture
def saved_every_epoch(monkeypatch):
    """A checkpoint after each epoch, however short."""
    monkeypatch.setattr(loop, 'SAVE_EVERY', 0)


# ------------------------------------------------------------------------------------------------ data


@pytest.fixture(scope='session')
def digits():
    """64 training and 40 test digits, as ImageDatasets."""
    (X, y), (X_test, y_test) = read_digits()
    return ImageDataset(X[:64], y[:64], 'digits'), ImageDataset(X_test[:40], y_test[:40], 'digits')


def write_csv_dir(folder, digits):
    folder.mkdir()
    header = 'label,' + ','.join(f'pixel{i}' for i in range(1, 785))
    for dataset, part in zip(digits, ('train', 'test')):
        rows = (
            ','.join(map(str, [int(y), *X.flatten().int().tolist()])) for X, y in zip(dataset.X, dataset.y)
        )
        (folder / f'fashion-mnist_{part}.csv').write_text('\n'.join([header, *rows]) + '\n')
    return folder


@pytest.fixture
def csv_dir(tmp_path, digits):
    """A folder with the course's two CSV files (whose images are digits, for want of bundled clothing)."""
    return write_csv_dir(tmp_path / 'data', digits)


@pytest.fixture(scope='session')
def write_idx():
    """write_idx(folder, datasets, suffix): MNIST's four files of a training and a test set; .gz: gzipped."""

    def write(folder, datasets, suffix=''):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for dataset, part in zip(datasets, ('train', 't10k')):
            images, labels = dataset.X.byte().numpy(), dataset.y.byte().numpy()
            for name, array in (('images-idx3', images), ('labels-idx1', labels)):
                header = struct.pack(f'>4B{array.ndim}I', 0, 0, 8, array.ndim, *array.shape)
                data = header + array.tobytes()
                path = Path(folder) / f'{part}-{name}-ubyte{suffix}'
                path.write_bytes(gzip.compress(data) if suffix else data)

    return write


@pytest.fixture
def imagenette_dir(tmp_path):
    """Imagenette in torchvision's layout: three images of noise for each class in either part."""
    generator = np.random.default_rng(0)
    for part in ('train', 'val'):
        for wnid in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            folder = tmp_path / 'imagenette2-160' / part / wnid
            folder.mkdir(parents=True)
            for i in range(3):  # larger than they are read
                Image.fromarray(generator.integers(0, 256, (160, 200, 3), np.uint8)).save(
                    folder / f'{i}.JPEG'
                )
    return tmp_path


# ------------------------------------------------------------------------------------- configurations


@pytest.fixture
def vad_config():
    """vad_config(**changes): a small VADConfig for the digits."""

    def make(**changes):
        small = dict(latent_dim=8, epochs=3, batch_size=16, obs_std=0.1, dataset='digits', shape=(28, 28))
        return VADConfig(**{**small, **changes})

    return make


# ---------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope='session')
def run_code():
    """run_code(code): the output of a Python program, run in the project's folder without Triton's
    interpreter."""

    def run(code):
        environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
        command = [sys.executable, '-c', code]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def run_main(module, arguments):
    """The exit status of a script's main() with these arguments, in this process."""
    argv, sys.argv = sys.argv, [module.__file__, *map(str, arguments)]
    try:
        run_command(module.main)
        return 0
    except SystemExit as exit:
        return exit.code
    finally:
        sys.argv = argv


@pytest.fixture
def command(capsys):
    """command(module, *arguments) -> (exit status, standard output, standard error), in this process."""

    def run(module, *arguments):
        capsys.readouterr()
        status = run_main(module, arguments)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def start_process(tmp_path):
    """start_process(module, *arguments, **environment): a script's main() in a process of its own, a fork of
    this one: it has imported everything already. Returns the process; .out() and .err() are its output."""
    fork, started = multiprocessing.get_context('fork'), []

    def main(module, arguments, environment, outputs):
        for descriptor, path in enumerate(outputs, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.stdout, sys.stderr = (open(i, 'w', buffering=1, closefd=False) for i in (1, 2))
        os.environ.update(environment)
        torch.set_num_threads(1)  # the threads of this process are not in the fork
        with threadpool_limits(1):
            sys.exit(run_main(module, arguments))

    def start(module, *arguments, **environment):
        if torch.cuda.is_initialized():
            pytest.skip('a process that has used a GPU cannot be forked')
        outputs = [tmp_path / f'process{len(started)}.{name}' for name in ('out', 'err')]
        for path in outputs:
            path.touch()
        process = fork.Process(target=main, args=(module, arguments, environment, outputs), daemon=True)
        process.out, process.err = (path.read_text for path in outputs)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(scope='session')
def quicken():
    """quicken(monkeypatch): Fréchet distances take a moment, and mean nothing."""
    known = {}  # of its own: no other test gets these classifiers

    def patch(monkeypatch):
        for name, value in (('STEPS', 3), ('SAMPLES', 100), ('known', known)):
            monkeypatch.setattr(frechet, name, value)

    return patch


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory, digits, quicken):
    """A finished VAD run, trained once; tests take copies of it, see run_dir."""
    import train_vad

    folder = tmp_path_factory.mktemp('finished')
    data = write_csv_dir(folder / 'data', digits)
    small = ['--dist', 'laplace', '--epochs', 2, '--latent-dim', 6, '--device', 'cpu']
    with pytest.MonkeyPatch.context() as monkeypatch:
        quicken(monkeypatch)
        assert run_main(train_vad, ['--data-path', data, '--run-dir', folder / 'run', *small]) == 0
    return folder / 'run'


@pytest.fixture
def run_dir(finished_run, csv_dir, tmp_path):
    """A finished run of `train_vad.py --dist laplace --epochs 2 --latent-dim 6 --device cpu` on csv_dir."""
    shutil.copytree(finished_run, tmp_path / 'run')
    for name, place in (('config.json', 'data_path'), ('config.json', 'data'), ('results.json', 'data')):
        path = tmp_path / 'run' / name
        path.write_text(json.dumps({**json.loads(path.read_text()), place: str(csv_dir)}))
    return tmp_path / 'run'


@pytest.fixture(scope='session')
def one_line():
    """one_line(err): whether standard error is one error in one line."""
    return lambda err: err.startswith('error: ') and err.count('\n') == 1


@pytest.fixture(scope='session')
def contents():
    """contents(folder): names and bytes of the files in it and below, but for those of its lock."""

    def read(folder):
        files = (path for path in folder.rglob('*') if path.is_file())
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in files
            if path.name not in ('.lock', '.owner')
        }

    return read


@pytest.fixture(scope='session')
def names():
    """names(folder): of what is in it, but for hidden files."""
    return lambda folder: {path.name for path in folder.iterdir() if path.name[0] != '.'}


@pytest.fixture(scope='session')
def ctrl_c():
    """ctrl_c(): what Ctrl-C does to this process."""
    return lambda: os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(number, how): call how() before that step of Trainer; returns a function that undoes it."""

    def install(number, how):
        whole = Trainer.step

        def step(self, *batch):
            if self.step_number == number:
                how()
            whole(self, *batch)

        monkeypatch.setattr(Trainer, 'step', step)
        return lambda: monkeypatch.setattr(Trainer, 'step', whole)

    return install
