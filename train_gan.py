"""Train a generative adversarial network: a generator of images, and a discriminator that tells them from real ones.

    python train_gan.py --model linear --dataset mnist --n-train all
"""
import argparse
from pathlib import Path

import commands
import gan
import grading
import pictures
import training
import utils


def flags():
    parser = commands.Parser('Train a generative adversarial network (GAN), grade its samples and draw its pictures.')
    parser.add_argument('--model', choices=list(gan.MODELS), default='dcgan',
                        help='both networks; linear is that of document 003, of two linear layers each')
    thousand = f'{utils.DEFAULT_IMAGES}, or all if there are fewer'
    commands.add_data_flags(parser, 'dataset', 'fashion-mnist, or scikit-learn\'s digits where there is neither file nor network',
                            thousand)
    parser.add_argument('--n-train', metavar='N', type=commands.count, default=argparse.SUPPRESS,
                        help=f'how many training images, a number or "all" (default: {thousand})')
    parser.add_argument('--latent-dim', metavar='D', type=commands.positive, default=64, help='dimensions of the noise')
    parser.add_argument('--epochs', metavar='E', type=commands.positive, default=50,
                        help='epochs; one shows every image once and two shifted copies of it')
    parser.add_argument('--batch-size', metavar='B', type=commands.positive, default=32, help='images a step')
    parser.add_argument('--lr', type=commands.positive_float, default=argparse.SUPPRESS,
                        help='peak learning rate of both players (default: '
                             + ', '.join(f'{model.lr:g} for {name}' for name, model in gan.MODELS.items()) + ')')
    parser.add_argument('--seed', type=commands.seed, default=0, help='weights, order of the images and noise follow from it')
    parser.add_argument('--run-dir', metavar='DIR', type=Path, default=argparse.SUPPRESS,
                        help='where the run goes (default: runs/gan-<model>)')
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint in the run folder, exactly')
    return parser


def main():
    args = flags().parse_args()
    vars(args).setdefault('run_dir', Path('runs') / f'gan-{args.model}')
    run = commands.open_run('gan', args, lr=gan.MODELS[args.model].lr)
    if run is None:
        return
    model = commands.new_model(run)
    with commands.interruptible(run):
        if run.state and run.state['stage'] == 'trained':
            state, model = run.state, commands.load_model(run.state, run.device)
            seconds = sum(m['seconds'] for m in training.read_metrics(run.folder))
        else:
            state, seconds = gan.fit(model, run.train_set, run.config, run.folder, resume=run.state)
        results = {**grading.grade_samples(model, run.config, run.train_set, run.test_set), 'train_seconds': round(seconds, 1),
                   'parameters': sum(p.numel() for p in model.parameters())}
        pictures.draw_gan(run.folder, model, state)
        pictures.save_gan_losses(training.read_metrics(run.folder), run.folder / 'loss.png')
    commands.close_run(run, results)


if __name__ == '__main__':
    utils.run_command(main)
