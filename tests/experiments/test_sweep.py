"""Auto-encoders with codes of several sizes, beside PCA."""

import json

import pytest

import train_ae
from training.trainer import Trainer


@pytest.fixture
def flags(csv_dir, tmp_path, small):
    return ['--data-path', csv_dir, '--run-dir', tmp_path / 'sweep', *small, '--sweep']


@pytest.fixture
def steps(monkeypatch):
    """The latent size of each step that is taken, six a run."""
    whole, sizes = Trainer.step, []

    def step(self, *batch):
        sizes.append(self.model.latent_dim)
        whole(self, *batch)

    monkeypatch.setattr(Trainer, 'step', step)
    return sizes


def swept(folder):
    return [row['latent_dim'] for row in json.loads((folder / 'sweep.json').read_text())['sizes']]


def test_an_interrupted_sweep_goes_on(
    command, flags, tmp_path, steps, contents, one_line, stop_at, ctrl_c, names
):
    folder = tmp_path / 'sweep'
    undo = stop_at(1, lambda: len(steps) > 6 and ctrl_c())  # in the second size
    status, _, err = command(train_ae, *flags, '4,1')
    assert status == 130 and '--resume' in err and not (folder / 'sweep.json').exists()
    undo()
    first = contents(folder / 'd01')
    status, _, err = command(train_ae, *flags, '4,1')
    assert status == 2 and one_line(err) and 'go on with it by --resume' in err
    status, out, err = command(train_ae, *flags, '4,1', '--resume')
    assert status == 0 and not err and steps == 6 * [1] + 6 * [4]
    assert contents(folder / 'd01') == first
    rows = json.loads((folder / 'sweep.json').read_text())['sizes']
    assert swept(folder) == [1, 4] and rows[0]['pca_loss'] > rows[1]['pca_loss']
    assert names(folder) == {'sweep.png', 'sweep.json', 'tsne_d01.png', 'tsne_d04.png', 'd01', 'd04'}
    assert 'pca_loss' in out


def test_a_sweep_takes_one_more_size_but_no_other_seed(command, flags, tmp_path, steps, one_line):
    status, _, err = command(train_ae, *flags, '4')
    assert status == 0 and not err, err
    status, _, err = command(train_ae, *flags, '4', '--seed', '1')
    assert status == 2 and one_line(err) and 'seed 0 (now 1)' in err
    status, _, err = command(train_ae, *flags, '2')
    assert status == 0 and not err and steps == 6 * [4] + 6 * [2]
    assert swept(tmp_path / 'sweep') == [2, 4]


@pytest.mark.parametrize('flag', ['--sweep', '--tune'])
def test_a_folder_of_other_things_is_left_alone(command, ae_run, csv_dir, small, contents, one_line, flag):
    before = contents(ae_run)
    status, _, err = command(train_ae, '--data-path', csv_dir, '--run-dir', ae_run, *small, flag, '2')
    assert status == 2 and one_line(err) and 'one of the same command' in err and contents(ae_run) == before
