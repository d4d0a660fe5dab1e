"""Full covariances that do not fit in memory are refused before anything is allocated."""

import pytest
import torch

from training import memory
from training.batches import Images
from training.errors import UserError
from training.memory import check_full_covariance
from training.run_data import load_data, load_split


def test_the_line_names_the_bytes(monkeypatch):
    monkeypatch.setattr(memory, 'available', lambda device: 1000)
    device = torch.device('cpu')
    check_full_covariance(4, 5, 3, device)  # 14 numbers, 840 bytes
    with pytest.raises(
        UserError, match='1,000 bytes on cpu.* 4 latent dimensions, which takes 1,680 bytes: 14'
    ):
        check_full_covariance(4, 10, 3, device)


def test_latents_that_do_not_fit_are_refused_before_a_model_is_built(vad_config):
    config = vad_config(dist='gaussian-full', latent_dim=1_000_000, n_train=64, n_test=10)
    with pytest.raises(
        UserError, match='full covariance of 1000000 latent dimensions.* smaller --latent-dim'
    ):
        load_data(config)


def test_the_copies_of_the_images_and_adam_count(vad_config, monkeypatch):
    config = vad_config(dist='gaussian-full', latent_dim=4, n_train=64, n_test=10)
    train_set, _ = load_split(config)
    needed = 3 * 4 * 14 * len(Images(train_set, 'cpu'))
    monkeypatch.setattr(memory, 'available', lambda device: needed)
    load_data(config)
    monkeypatch.setattr(memory, 'available', lambda device: needed - 1)
    with pytest.raises(UserError, match='320 images and copies, 3 times'):
        load_data(config)


def test_the_memory_of_this_machine():
    assert memory.available(torch.device('cpu')) > 2**28
