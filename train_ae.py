"""Train an auto-encoder: three convolutions to a small code, and their mirror image back to pixels.

python train_ae.py
python train_ae.py --dropout 0.1 --patience 5 --prune 0.3      # the regularisers of document 002
python train_ae.py --sweep 2,4,6,8,10,12,14                    # one run for each size of the code
python train_ae.py --tune 10                                   # search the architecture
"""

import argparse

import commands
import networks
import sweep
import utils


def fraction(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'expected a number of at least 0 and below 1, got {text}')
    return value


def sizes(text):
    values = [commands.positive(word) for word in text.split(',')]
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f'expected different latent sizes, got {text}')
    return sorted(values)


# argparse names a type by its function in "invalid ... value"
fraction.__name__ = 'number'
sizes.__name__ = 'list of latent sizes (as in 2,4,8)'


def main():
    parser = commands.training_parser(
        'Train an auto-encoder (AE), grade it and draw its pictures.', 'ae', latent_dim=8
    )
    parser.set_defaults(encoder='conv3', decoder='mirror')
    parser.add_argument(
        '--weight-decay',
        metavar='W',
        type=commands.weight,
        default=0.0,
        help='decoupled (AdamW): weights shrink by lr * W a step',
    )
    parser.add_argument(
        '--dropout',
        metavar='P',
        type=fraction,
        default=0.0,
        help='share of hidden outputs dropped in training; for --encoder conv3 and --decoder mirror',
    )
    parser.add_argument(
        '--patience',
        metavar='E',
        type=commands.positive,
        default=argparse.SUPPRESS,
        help='hold out the last tenth of the training images, stop after E epochs in which their loss did not '
        'fall, and keep the best weights (default: no early stopping)',
    )
    parser.add_argument(
        '--min-delta',
        metavar='NATS',
        type=commands.weight,
        default=argparse.SUPPRESS,
        help='by how much it must fall to count, with --patience (default: 0)',
    )
    parser.add_argument(
        '--prune',
        metavar='FRACTION',
        type=fraction,
        default=0.0,
        help="after half of the epochs set this share of each layer's weights, the smallest, to 0 for good",
    )
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        '--sweep',
        metavar='D,D,...',
        type=sizes,
        default=argparse.SUPPRESS,
        help='a run for each of these latent sizes, in folders dNN of the run folder (runs/ae-sweep), and '
        'their losses beside those of PCA',
    )
    several.add_argument(
        '--tune',
        metavar='N',
        type=commands.positive,
        default=argparse.SUPPRESS,
        help='try N configurations by their loss on held-out training images and train the best again; all in '
        'the run folder (runs/ae-tune). Replaces --latent-dim, --batch-size, --lr, --weight-decay and '
        '--patience; the same command with a larger N goes on',
    )
    args = parser.parse_args()
    given = vars(args)
    if 'min_delta' in given and 'patience' not in given and 'tune' not in given:
        raise utils.UserError(
            'expected --min-delta together with --patience, got it alone; add --patience, or leave it out'
        )
    paired = args.encoder == 'conv3' and args.decoder == 'mirror'
    if not paired and (args.dropout or 'tune' in given):
        raise utils.UserError(
            f'expected --encoder conv3 and --decoder mirror for --dropout and --tune, got {args.encoder} and '
            f'{args.decoder}; leave out one or the other'
        )
    if args.prune and (args.encoder == 'lstm' or args.epochs == 1):
        raise utils.UserError(
            f'expected an encoder of linear layers and convolutions and two epochs or more for --prune, got '
            f'{args.encoder} and {args.epochs}; choose others, or leave it out'
        )
    config = {'weight_decay': args.weight_decay, 'prune': args.prune}
    if paired:
        config.update(architecture=networks.ARCHITECTURE, dropout=args.dropout)
    if 'patience' in given or 'tune' in given:
        config['min_delta'] = given.get('min_delta', 0.0)
    if 'patience' in given:
        config['patience'] = args.patience
    if 'sweep' in given:
        sweep.run(args, config)
    elif 'tune' in given:
        try:
            import tune  # here: nothing else needs Optuna
        except ModuleNotFoundError as error:
            raise utils.UserError(
                f'expected Optuna for --tune, got {error}; first: pip install optuna'
            ) from None
        tune.run(args, config)
    else:
        commands.train('ae', args, **config)


if __name__ == '__main__':
    utils.run_command(main)
