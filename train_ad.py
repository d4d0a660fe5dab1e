"""Train an auto-decoder: each image owns a latent vector, fitted with the decoder.

python train_ad.py
"""

import commands
import utils


def main():
    parser = commands.training_parser(
        'Train an auto-decoder (AD), grade it and draw its pictures.', 'ad', latent_dim=128
    )
    commands.train('ad', parser.parse_args())


if __name__ == '__main__':
    utils.run_command(main)
