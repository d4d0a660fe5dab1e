"""Train a generative adversarial network: a generator of images, and a discriminator that tells them from real ones.

python train_gan.py --model linear --dataset mnist --n-train all
"""

from pathlib import Path

import commands
import gan
import grading
import models
import pictures
import training
import utils


def flags():
    parser = commands.Parser(
        'Train a generative adversarial network (GAN), grade its samples and draw its pictures.'
    )
    parser.add_argument(
        '--model',
        choices=list(models.GAN_NETWORKS),
        default='dcgan',
        help='both networks; linear is that of document 003, of two linear layers each',
    )
    commands.add_run_flags(parser, latent_dim=64, epochs=50, batch_size=32, default_folder='runs/gan-<model>')
    parser.add_argument(
        '--lr', type=commands.positive_float, default=1e-3, help='peak learning rate of both players'
    )
    return parser


def main():
    args = flags().parse_args()
    vars(args).setdefault('run_dir', Path('runs') / f'gan-{args.model}')
    run = commands.open_run('gan', args)
    if run is None:
        return
    model = run.model
    with commands.interruptible(run):
        if run.state and run.state['stage'] == 'trained':
            state, model = run.state, commands.load_model(run.state, run.device)
            seconds = sum(m['seconds'] for m in training.read_metrics(run.folder))
        else:
            state, seconds = gan.fit(model, run.train_set, run.config, run.folder, resume=run.state)
        results = {
            **grading.grade_samples(model, run.config, run.train_set, run.test_set),
            'train_seconds': round(seconds, 1),
            'parameters': sum(p.numel() for p in model.parameters()),
        }
        pictures.draw_gan(run.folder, model, state)
        pictures.save_gan_losses(training.read_metrics(run.folder), run.folder / 'loss.png')
    commands.close_run(run, results)


if __name__ == '__main__':
    utils.run_command(main)
