import torch

from training import gan_trainer
from training.batches import Images
from training.gan_trainer import MAX_SHIFT, GANTrainer, shift
from training.loop import fit
from training.runs import build_model
from training.systems import GANConfig


def test_shifts_move_images_whole_and_pass_the_gradient():
    x = torch.full((64, 1, 28, 28), -1.0)
    x[:, :, 10:14, 10:14] = 1
    x.requires_grad_()
    moved = shift(x, torch.Generator().manual_seed(0))
    corners = {tuple((image[0] > 0).nonzero()[0].tolist()) for image in moved}
    assert moved.shape == x.shape and all((image > 0).sum() == 16 for image in moved) and len(corners) > 20
    assert {c for corner in corners for c in corner} <= set(range(10 - MAX_SHIFT, 11 + MAX_SHIFT))
    moved.sum().backward()
    assert (x.grad[:, :, 10:14, 10:14] == 1).all()


def test_long_runs_keep_few_frames(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(gan_trainer, 'FRAMES', 2)
    config = GANConfig(model='linear', latent_dim=4, epochs=5, batch_size=64, shape=(28, 28))
    trainer = GANTrainer(build_model(config), Images(digits[0], 'cpu'), config)
    fit(trainer, tmp_path)
    assert len(trainer.frames) == 1  # after epoch 3
