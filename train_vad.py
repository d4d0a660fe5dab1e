"""Train a variational auto-decoder: each image owns a distribution over latents, fitted with the decoder.

python train_vad.py --dist laplace
"""

import commands
import utils


def main():
    parser = commands.training_parser(
        'Train a variational auto-decoder (VAD), grade it and draw its pictures.', 'vad', latent_dim=60
    )
    commands.train('vad', parser.parse_args())


if __name__ == '__main__':
    utils.run_command(main)
