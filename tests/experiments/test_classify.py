"""Classifiers of the codes of an encoder."""

import json
import shutil

import numpy as np
import pytest
import torch

import train_ad
import train_ae
import train_gan
import train_vae
from experiments import classify
from training import infer_latents, load_data, load_run
from training.checkpoints import load_checkpoint, save_checkpoint

HEADS = ['three layers (64, 288)', 'one layer']


def test_classifiers_of_the_codes(command, ae_run, contents):
    before = contents(ae_run)
    status, out, err = command(classify, ae_run, '--device', 'cpu')
    assert status == 0 and not err and 'confusion.png' in out
    accuracy = json.loads((ae_run / 'classify.json').read_text())['accuracy']
    assert list(accuracy) == [*HEADS, 'logistic regression', '5 nearest neighbours']
    assert accuracy['one layer'] == accuracy['logistic regression']
    assert all(f'{value:.4f}' in out for value in accuracy.values())
    after = contents(ae_run)
    assert set(after) - set(before) == {'classify.json', 'confusion.png'}
    assert all(after[name] == before[name] for name in before)


def test_classifiers_of_a_vaes_posterior_means(command, csv_dir, tmp_path, small):
    folder = tmp_path / 'vae'
    networks = ['--encoder', 'mlp', '--decoder', 'mlp']
    status, _, err = command(train_vae, '--data-path', csv_dir, '--run-dir', folder, *small, *networks)
    assert status == 0, err
    status, _, err = command(classify, folder)
    assert status == 0 and not err and json.loads((folder / 'classify.json').read_text())['latent_dim'] == 3


def test_the_codes_of_incomplete_test_images_are_those_of_the_run(command, csv_dir, tmp_path, small):
    folder, missing = tmp_path / 'ae', ['--missing', '0.5', '--missing-kind', 'blocks']
    status, _, err = command(train_ae, '--data-path', csv_dir, '--run-dir', folder, *small, *missing)
    assert status == 0, err
    _, _, codes, _, _ = classify.codes_and_labels(classify.Options(run=folder))
    trained = load_run(folder)
    _, _, test_set = load_data(trained.config.replace(data_path=csv_dir))
    assert test_set.observed is not None
    expected, _ = infer_latents(trained, test_set)
    shift, scale = trained.latents.mean(0), trained.latents.std(0)
    torch.testing.assert_close(codes, (expected - shift) / scale)


def test_the_test_images_of_a_binarised_run_are_found(command, csv_dir, tmp_path, small):
    folder, binary = tmp_path / 'ae', ['--likelihood', 'bernoulli', '--binarise', 'static']
    assert command(train_ae, '--data-path', csv_dir, '--run-dir', folder, *small, *binary)[0] == 0
    status, _, err = command(classify, folder)
    assert status == 0, err


def test_heads_learn_what_can_be_learned():
    labels = torch.arange(200) % 4
    centres = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    codes = 0.3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) + centres[labels]
    for head in (classify.fit_deep(codes, labels, 4, 0.01, seed=0), classify.fit_linear(codes, labels, 4)):
        assert (head(codes).argmax(1) == labels).float().mean() > 0.98


# ------------------------------------------------------------------------- what cannot be classified


@pytest.fixture
def refused(command, one_line):
    """refused(message, *arguments): whether the message is all that comes of it."""

    def refused(message, *arguments):
        status, out, err = command(classify, *arguments)
        return status == 2 and one_line(err) and message in err and not out

    return refused


@pytest.mark.parametrize(
    'module, arguments, message',
    [
        (train_ad, ['--decoder', 'mlp'], 'expected a run with an encoder in'),
        (train_gan, ['--model', 'linear'], 'got one of gan'),
    ],
)
def test_a_run_without_an_encoder(command, refused, csv_dir, tmp_path, small, module, arguments, message):
    folder = tmp_path / 'run'
    status, _, err = command(module, '--data-path', csv_dir, '--run-dir', folder, *small, *arguments)
    assert status == 0, err
    assert refused(message, folder)


def test_images_without_labels(command, refused, tmp_path, small):
    np.save(tmp_path / 'images.npy', np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8))
    places = ['--data-path', tmp_path / 'images.npy', '--run-dir', tmp_path / 'ae']
    assert command(train_ae, *places, *small)[0] == 0
    assert refused('expected images with labels in', tmp_path / 'ae')


def test_no_run(refused, csv_dir, tmp_path):
    assert refused('does not exist; first run: python train_ae.py', tmp_path / 'none')
    assert refused('expected a finished run in', csv_dir)
    assert refused('the following arguments are required: RUN')


def test_images_of_one_class(refused, ae_run):
    state = load_checkpoint(ae_run / 'checkpoint.pt')
    save_checkpoint(ae_run / 'checkpoint.pt', {**state, 'labels': torch.zeros_like(state['labels'])})
    assert refused('of two classes or more', ae_run)


def test_other_test_images_or_none(refused, ae_run, csv_dir, tmp_path):
    other = shutil.copytree(csv_dir, tmp_path / 'other')
    lines = (other / 'fashion-mnist_test.csv').read_text().splitlines()
    (other / 'fashion-mnist_test.csv').write_text('\n'.join([lines[0], *lines[:0:-1]]) + '\n')
    assert refused('expected the test images that', ae_run, '--data-path', other)
    assert refused('name the folder with --data-path', ae_run, '--data-path', tmp_path / 'none')
