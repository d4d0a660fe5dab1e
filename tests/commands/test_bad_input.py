"""What bad input gets: one line on standard error, status 2, and finished runs left as they are."""

import json
import subprocess
import sys

import numpy as np
import pytest

import train_ad
import train_ae
import train_gan
import train_vad
import train_vae
from training.checkpoints import load_checkpoint
from training.runs import is_finished
from training.trainer import Trainer

# ------------------------------------------------------------------------------------------------ flags


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--epochs', '0'], 'argument --epochs: expected a whole number from 1 to 2^31 - 1, got 0'),
        (['--epochs', 'ten'], "invalid whole number value: 'ten'"),
        (['--n-train', '0'], 'from 1 to'),
        (['--n-train', 'some'], 'count (a whole number or "all")'),
        (['--n-test', '41'], 'expected at most 40 images'),
        (['--batch-size', '100000000000000000000'], 'from 1 to'),
        (['--latent-dim', '-1'], 'from 1 to'),
        (['--lr', '0'], 'expected a number above 0 and below 1e18, got 0'),
        (['--lr', 'nan'], 'got nan'),
        (['--latent-lr', 'inf'], 'above 0'),
        (['--obs-std', '0'], 'above 0'),
        (['--obs-std', '1e200'], 'below 1e18'),
        (['--beta', '-1'], 'expected a number of at least 0 and below 1e18, got -1'),
        *(
            (['--missing', rate], f'expected a number above 0 and below 1, got {rate}')
            for rate in ('0', '1', 'nan', '-0.1')
        ),
        (['--missing', ''], "expected a value, got an empty one: ''"),
        (['--seed', '-1'], 'expected a whole number from 0 to 2^32 - 1, got -1'),
        (['--decoder', 'resnet'], "invalid choice: 'resnet'"),
        (['--dist', 'cauchy'], "invalid choice: 'cauchy'"),
        (['--dataset', 'cifar'], "invalid choice: 'cifar'"),
        (['--dataset', 'mnist'], 'expected mnist in'),
        (['--device', 'tpu'], 'expected --device to be cpu'),
        (['--device', 'cuda:99'], 'CUDA devices'),
        (['--interpolate', 'trouser', 'hat'], 'expected --interpolate to name two of T-shirt'),
        (['--interpolate', '\u00b2', '3'], "got '\u00b2'"),
        (['--interpolate', 'dress', '3'], "two different classes, got 'dress' twice"),
        (['--learning-rate', '1'], 'unrecognized arguments'),
        (['--epoch', '1'], 'unrecognized arguments'),
    ],
)
def test_bad_flags_get_one_line(command, csv_dir, tmp_path, one_line, arguments, message):
    status, out, err = command(train_vad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *arguments)
    assert status == 2 and one_line(err) and message in err and not out
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('script', [train_ad, train_ae])
def test_points_have_no_kl_to_weigh(command, script, one_line):
    status, _, err = command(script, '--beta', '0.5')
    assert status == 2 and one_line(err) and 'unrecognized arguments: --beta' in err


def test_no_traceback_in_a_process_of_its_own(csv_dir, tmp_path, one_line):
    flags = ['--data-path', csv_dir, '--run-dir', tmp_path / 'run', '--n-test', '99']
    command = [sys.executable, train_vad.__file__, *flags]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert result.returncode == 2 and one_line(result.stderr)


def test_a_decoder_that_cannot_make_such_images(command, imagenette_dir, tmp_path, small, one_line):
    flags = ['--dataset', 'imagenette', '--data-path', imagenette_dir, '--run-dir', tmp_path / 'run', *small]
    status, _, err = command(train_vad, *flags, '--decoder', 'dcgan7x7')
    assert status == 2 and one_line(err)
    assert 'expected images of shape (28, 28) for decoder dcgan7x7, got (3, 64, 64)' in err


def test_an_encoder_that_cannot_take_such_images(command, tmp_path, small, one_line):
    np.save(tmp_path / 'images.npy', np.zeros((4, 4, 400), np.uint8))
    flags = ['--data-path', tmp_path / 'images.npy', '--run-dir', tmp_path / 'run', *small]
    status, _, err = command(train_vae, *flags)
    assert status == 2 and one_line(err) and 'for encoder conv, got 4 x 400; use --encoder mlp' in err


def test_a_model_that_cannot_be_leaves_a_finished_run(train, run_dir, contents, one_line):
    before = contents(run_dir)
    status, _, err = train(train_vad, '--dist', 'laplace', '--decoder', 'conv64')
    assert status == 2 and one_line(err) and 'for decoder conv64' in err
    # nothing was left that it could go on with
    status, out, err = train(train_vad, '--dist', 'laplace', '--resume')
    assert status == 0 and not err and 'nothing to resume' in out and contents(run_dir) == before


def test_memory_that_does_not_suffice_is_one_line(train, one_line):
    status, _, err = train(train_vad, '--latent-dim', 2**31 - 1)
    assert status == 2 and one_line(err) and 'not enough memory' in err


# ------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda lines: lines[:1], 'a header and nothing below'),
        (lambda lines: [lines[0].replace('pixel784', 'pixel784,extra'), *lines[1:]], 'got 786 columns'),
        (lambda lines: [*lines[:5], lines[5].replace(',0', ',300', 1), *lines[6:]], "got '300' in line 6"),
        (lambda lines: None, 'expected the file'),
    ],
)
def test_broken_csv_files_get_one_line(command, csv_dir, tmp_path, one_line, damage, message):
    path = csv_dir / 'fashion-mnist_test.csv'
    lines = damage(path.read_text().splitlines())
    path.unlink() if lines is None else path.write_text('\n'.join(lines) + '\n')
    status, out, err = command(train_ad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run')
    assert status == 2 and one_line(err) and message in err and not out and not (tmp_path / 'run').exists()


def test_bad_data_gets_one_line_and_leaves_a_finished_run(train, run_dir, csv_dir, contents, one_line):
    before = contents(run_dir)
    path = csv_dir / 'fashion-mnist_train.csv'
    path.write_text(path.read_text()[:-300])
    status, _, err = train(train_vad)
    assert status == 2 and one_line(err) and 'line 65' in err and contents(run_dir) == before
    assert not run_dir.with_name('run.new').exists()


def test_the_fallback_to_digits_is_warned_of_and_recorded(train, tmp_path):
    data = ['--data-path', tmp_path / 'none', '--n-train', '50', '--n-test', '50']
    status, _, err = train(train_vad, *data)
    assert status == 0 and err.startswith('warning: ') and err.count('\n') == 1
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['dataset'] == 'digits' and 'fallback' in results['data']


@pytest.mark.parametrize(
    'module, flags, share, message',
    [
        (train_gan, [], 0.5, 'expected complete images for a GAN'),
        (train_vad, ['--missing', '0.5'], 0.5, 'expected complete images for --missing'),
        (train_vad, [], 0, 'expected observed pixels in the 5 training images of'),
    ],
)
def test_missing_pixels_where_they_must_not_be(command, tmp_path, one_line, module, flags, share, message):
    observed = np.random.default_rng(0).random((10, 28, 28)) < share
    np.savez(tmp_path / 'images.npz', images=np.zeros((10, 28, 28), np.uint8), observed=observed)
    data = ['--data-path', tmp_path / 'images.npz', '--run-dir', tmp_path / 'run']
    status, out, err = command(module, *data, *flags)
    assert status == 2 and one_line(err) and message in err and 'images.npz' in err and not out
    assert not (tmp_path / 'run').exists()


def test_other_data_than_pictures_have_no_image_size(train, one_line):
    status, _, err = train(train_vad, '--image-size', '16')
    assert status == 2 and one_line(err) and 'expected a folder of pictures for --image-size, got' in err


def test_a_missing_block_that_hides_whole_images(train, one_line):
    status, _, err = train(train_vad, '--missing', '0.99', '--missing-kind', 'blocks')
    assert status == 2 and one_line(err) and 'got none; choose a --missing below 0.99' in err


# ------------------------------------------------------------------------------------------- run folders


def test_a_run_folder_that_is_a_file(command, csv_dir, tmp_path, one_line):
    (tmp_path / 'run').write_text('')
    status, _, err = command(train_vad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run')
    assert status == 2 and one_line(err) and 'expected --run-dir to be a folder' in err
    status, _, err = command(train_vad, '--data-path', csv_dir, '--run-dir', tmp_path / 'run' / 'below')
    assert status == 2 and one_line(err)


@pytest.mark.parametrize('name', ['runs', '.', '/'])
def test_a_run_folder_that_holds_other_things_is_left_alone(
    command, csv_dir, tmp_path, monkeypatch, one_line, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs' / 'precious').mkdir(parents=True)
    status, _, err = command(train_vad, '--data-path', csv_dir, '--run-dir', name)
    assert status == 2 and one_line(err) and 'which holds other things; name another' in err
    assert (tmp_path / 'runs' / 'precious').exists()


# ------------------------------------------------------------------------------------------- divergence


def assert_divergence_is_said(status, err):
    assert status == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert 'expected a finite loss' in err and ' at step ' in err
    assert 'Delete the run and train with a lower --lr' in err


@pytest.mark.usefixtures('saved_every_epoch')
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(train, tmp_path, monkeypatch):
    whole = Trainer.step

    def poisoned(self, *batch):
        if self.step_number == 5:
            self.latents.fill_(float('inf'))
        whole(self, *batch)

    monkeypatch.setattr(Trainer, 'step', poisoned)
    status, _, err = train(train_vad)
    assert_divergence_is_said(status, err)
    assert load_checkpoint(tmp_path / 'run' / 'checkpoint.pt')['step'] == 3  # three steps an epoch
    assert not is_finished(tmp_path / 'run')


def test_a_learning_rate_that_is_too_high_is_said(train, tmp_path):
    status, _, err = train(train_vad, '--lr', '1e17', '--n-train', '10')
    assert_divergence_is_said(status, err)
    assert not is_finished(tmp_path / 'run')
