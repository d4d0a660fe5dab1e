"""Train a generative adversarial network: a generator of images, and a discriminator that tells them from
real ones.

Usage:
    python train_gan.py --model linear --dataset mnist --n-train all
"""

from evaluation import Sampler, draw_gan_losses, draw_gan_pictures, finish_run, grade_samples
from training import (
    GANConfig,
    GANTrainer,
    Images,
    build_model,
    distributed,
    fit,
    load_data,
    open_run,
    parse_flags,
    run_command,
)


def main():
    config = parse_flags(GANConfig)  # --help lists them
    device = distributed.start(config.device, one_only=True)
    config, train_set, test_set = load_data(config)  # images in 0-255; the config now says what they are
    model = build_model(config, device)  # a generator: z [B, D] to images, and a discriminator

    # A run can be resumed, and replaces an older one only when it is finished.
    with open_run(config, device, train_set) as run:
        if run.is_done:
            return
        if not run.is_trained:  # else only grades and pictures are missing
            trainer = GANTrainer(model, Images(train_set, device), config)  # and copies, shifted by a pixel
            fit(trainer, run.folder, run.checkpoint)  # generator and discriminator, in turn
            run.save_trained(model, frames=trainer.frames)
            del trainer  # frees the states of its optimisers

        trained = run.load_trained()
        sampler = Sampler(trained)
        results = grade_samples(sampler, train_set, test_set)  # Fréchet distance, number of classes
        draw_gan_pictures(run.folder, sampler, train_set)
        draw_gan_losses(run.folder)
        finish_run(run, trained, results)  # results.json, report.html, the table on the terminal


if __name__ == '__main__':
    run_command(main)
