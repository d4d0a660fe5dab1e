"""Train a variational auto-encoder: each image gets its distribution over latents from an encoder.

python train_vae.py --encoder lstm --likelihood bernoulli --dataset mnist --n-train all --n-test all
"""

import commands
import utils


def main():
    parser = commands.training_parser(
        'Train a variational auto-encoder (VAE), grade it and draw its pictures.', 'vae', latent_dim=60
    )
    commands.train('vae', parser.parse_args())


if __name__ == '__main__':
    utils.run_command(main)
