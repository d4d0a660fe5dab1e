"""Shared by the tests: the Triton interpreter where there is no GPU, no network, and small data sets."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # before anything imports triton, as torchvision does

import torchvision  # noqa: E402
from PIL import Image  # noqa: E402

import utils  # noqa: E402


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads fail at once, whether there is a network or not."""

    def download(self):
        raise URLError('no network in tests')

    monkeypatch.setattr(torchvision.datasets.MNIST, 'download', download)
    monkeypatch.setattr(torchvision.datasets.Imagenette, '_download', download)
    monkeypatch.delenv('DATA_PATH', raising=False)


@pytest.fixture(scope='session')
def digits():
    """64 training and 40 test digits, as ImageDatasets."""
    (X, y), (X_test, y_test) = utils.read_digits()
    return utils.ImageDataset(X[:64], y[:64], 'digits'), utils.ImageDataset(
        X_test[:40], y_test[:40], 'digits'
    )


def write_csv(path, dataset):
    header = 'label,' + ','.join(f'pixel{i}' for i in range(1, 785))
    rows = (','.join(map(str, [int(y), *X.flatten().int().tolist()])) for X, y in zip(dataset.X, dataset.y))
    path.write_text('\n'.join([header, *rows]) + '\n')


@pytest.fixture
def csv_dir(tmp_path, digits):
    """A folder with the course's two CSV files (whose images are digits, for want of bundled clothing)."""
    folder = tmp_path / 'data'
    folder.mkdir()
    for dataset, part in zip(digits, ('train', 'test')):
        write_csv(folder / f'fashion-mnist_{part}.csv', dataset)
    return folder


@pytest.fixture(scope='session')
def run_code():
    """run_code(code): the output of a Python program, run in the project's folder without Triton's interpreter."""

    def run(code):
        environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
        result = subprocess.run(
            [sys.executable, '-c', code],
            cwd=Path(__file__).parent.parent,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


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


@pytest.fixture
def command(monkeypatch, capsys):
    """command(module, *arguments) -> (exit status, standard output, standard error), in this process."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, 'argv', [module.__file__, *map(str, arguments)])
        capsys.readouterr()
        try:
            utils.run_command(module.main)
            status = 0
        except SystemExit as exit:
            status = exit.code
        out, err = capsys.readouterr()
        return status, out, err

    return run
