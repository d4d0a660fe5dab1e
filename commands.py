"""What the training scripts share: their flags, and a run from start to report."""

import argparse
import contextlib
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch

import grading
import kernels
import models
import networks
import pictures
import processes
import training
import utils

matplotlib.use('Agg')  # pictures go to files: no window, no display needed


def positive(text):
    value = int(text)
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f'expected a whole number from 1 to 2^31 - 1, got {text}')
    return value


def positive_float(text):
    value = float(text)
    if not 0 < value < 1e18:  # its square is still a float32
        raise argparse.ArgumentTypeError(f'expected a number above 0 and below 1e18, got {text}')
    return value


def weight(text):
    value = float(text)
    if not 0 <= value < 1e18:
        raise argparse.ArgumentTypeError(f'expected a number of at least 0 and below 1e18, got {text}')
    return value


def count(text):
    return 'all' if text == 'all' else positive(text)


def seed(text):
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f'expected a whole number from 0 to 2^32 - 1, got {text}')
    return value


# argparse names a type by its function in "invalid ... value"
positive.__name__ = 'whole number'
positive_float.__name__ = weight.__name__ = 'number'
count.__name__ = 'count (a whole number or "all")'


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line (the usage is in --help), and a flag must be written out."""

    def __init__(self, description):
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message):
        print(f'error: {message}; see --help', file=sys.stderr)
        sys.exit(2)


def add_place_flags(parser, default_path):
    """default_path: None: of a run that is there, see find_data."""
    default = os.environ.get('DATA_PATH') if default_path else None
    if default:
        described = '%(default)s, by the environment variable DATA_PATH'
    elif default_path:
        described = f'the environment variable DATA_PATH, or {default_path}'
    else:
        described = 'where the run was trained from, or if that is gone the environment variable DATA_PATH'
    parser.add_argument(
        '--data-path',
        metavar='DIR',
        default=default or argparse.SUPPRESS,
        help="folder of the data: the course's CSV files or torchvision's; data is downloaded into it "
        'if it has neither; or a file IMAGES.npy, uint8 [N, H, W] or [N, H, W, 3], read as it is needed '
        '(default: ' + described + ')',
    )
    parser.add_argument(
        '--device', default=argparse.SUPPRESS, help='cpu, cuda or cuda:N (default: cuda if there is one)'
    )


def add_data_flags(parser, default_path, default_dataset, default_count):
    add_place_flags(parser, default_path)
    parser.add_argument(
        '--dataset',
        choices=list(utils.DATASETS),
        default=argparse.SUPPRESS,
        help=f'the data set, never replaced by another (default: {default_dataset})',
    )
    parser.add_argument(
        '--n-test',
        metavar='N',
        type=count,
        default=argparse.SUPPRESS,
        help=f'how many test images, a number or "all" (default: {default_count})',
    )


def add_run_flags(parser, latent_dim, epochs, batch_size, default_folder):
    """The flags of all training scripts; with defaults."""
    thousand = f'{utils.DEFAULT_IMAGES}, or all if there are fewer'
    add_data_flags(
        parser,
        'dataset',
        "fashion-mnist, or scikit-learn's digits where there is neither file nor network",
        thousand,
    )
    parser.add_argument(
        '--n-train',
        metavar='N',
        type=count,
        default=argparse.SUPPRESS,
        help=f'how many training images, a number or "all" (default: {thousand})',
    )
    parser.add_argument(
        '--latent-dim', metavar='D', type=positive, default=latent_dim, help='latent dimensions an image'
    )
    parser.add_argument(
        '--epochs',
        metavar='E',
        type=positive,
        default=epochs,
        help='epochs; one shows every image once and two shifted copies of it',
    )
    parser.add_argument('--batch-size', metavar='B', type=positive, default=batch_size, help='images a step')
    parser.add_argument(
        '--seed', type=seed, default=0, help='weights, order of the images and noise follow from it'
    )
    parser.add_argument(
        '--run-dir',
        metavar='DIR',
        type=Path,
        default=argparse.SUPPRESS,
        help=f'where the run goes (default: {default_folder})',
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint in the run folder, exactly'
    )


def training_parser(description, system, latent_dim):
    """The flags of the training scripts of decoders with latents, with the best known defaults."""
    parser = Parser(description)
    if system in ('vad', 'vae'):
        parser.add_argument(
            '--dist', choices=list(kernels.FAMILIES), default='gaussian', help='family of the posteriors'
        )
    add_run_flags(
        parser, latent_dim, epochs=27, batch_size=64, default_folder='runs/<system>-<dist>, or runs/<system>'
    )
    parser.add_argument(
        '--lr',
        type=positive_float,
        default=argparse.SUPPRESS,
        help='peak learning rate of the decoder (default: '
        + ', '.join(f'{decoder.lr:g} for {name}' for name, decoder in networks.DECODERS.items())
        + ')',
    )
    if system in ('ae', 'vae'):
        parser.add_argument(
            '--encoder', choices=list(networks.ENCODERS), default='conv', help='what gives an image its latents'
        )
    else:
        parser.add_argument(
            '--latent-lr', type=positive_float, default=0.1, help='peak learning rate of the latents'
        )
    parser.add_argument('--beta', type=weight, default=1.0, help='weight of the KL; 1 is the ELBO')
    if system == 'vae':
        parser.add_argument(
            '--likelihood',
            choices=['gaussian', 'bernoulli'],
            default='gaussian',
            help='of a pixel given its latents; bernoulli, the cross-entropy, suits digits',
        )
        parser.add_argument(
            '--grid',
            action='store_true',
            help='insist on grid.png, the decoded codes in the plane, which --latent-dim 2 gives',
        )
    parser.add_argument(
        '--obs-std',
        type=positive_float,
        default=0.08,
        help='standard deviation of a pixel (0-1) given its latents, of the Gaussian likelihood; the larger, the '
        'more the KL matters',
    )
    parser.add_argument(
        '--bfloat16',
        action='store_true',
        default=argparse.SUPPRESS,
        help='the decoder in bfloat16, for processors that have it: 1.6 times as fast with dcgan7x7',
    )
    parser.add_argument(
        '--cuda-graph',
        action='store_true',
        default=argparse.SUPPRESS,
        help='on a GPU, launch each step as one CUDA graph',
    )
    parser.add_argument(
        '--decoder',
        choices=list(networks.DECODERS),
        default='groupnorm',
        help='dcgan4x4 and dcgan7x7 are those of documents 000 and 001, 13 and 4 times slower on a CPU; mlp and '
        'conv64 (for 3 x 64 x 64) of document 003, conv6 of document 004',
    )
    parser.add_argument(
        '--interpolate',
        nargs=2,
        metavar='CLASS',
        default=argparse.SUPPRESS,
        help='classes of the two test images of interpolation.png, names or numbers '
        '(default: trouser dress, classes 1 and 3)',
    )
    return parser


def parse_classes(wanted, names):
    """Class numbers for --interpolate's two names or numbers."""
    chosen = []
    for word in wanted:
        lower = [name.lower() for name in names]
        if word.lower() in lower:
            chosen.append(lower.index(word.lower()))
        elif word.isdecimal() and int(word) < len(names):
            chosen.append(int(word))
        else:
            raise utils.UserError(f'expected --interpolate to name two of {", ".join(names)}, got {word!r}')
    if chosen[0] == chosen[1]:
        raise utils.UserError(
            f'expected --interpolate to name two different classes, got {wanted[0]!r} twice'
        )
    return tuple(chosen)


def build_model(config):
    """The model that a configuration describes, untrained. ValueError: there is no such model."""
    if config['system'] == 'gan':
        return models.GAN(config['model'], config['latent_dim'], config['shape'])
    size = config['latent_dim'], config['decoder'], config.get('shape', networks.SHAPE)
    seed = training.key(config['seed'], training.GRADE)
    if config['system'] == 'ad':
        model = models.AutoDecoder(*size)
    elif config['system'] == 'vad':
        model = models.VariationalAutoDecoder(config['dist'], *size, seed=seed)
    elif config['system'] == 'ae':
        options = {name: config[name] for name in ('architecture', 'dropout') if name in config}
        model = models.AutoEncoder(config['encoder'], *size, **options)
    else:
        model = models.VariationalAutoEncoder(config['encoder'], config['dist'], *size, seed=seed)
    model.bfloat16 = config.get('bfloat16', False)
    return model


def load_model(state, device):
    """The trained model in a final checkpoint's state. UserError: the state does not fit this program's models."""
    try:
        model = build_model(state['config']).to(device)
        model.load_state_dict(state['model'])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise utils.UserError(
            f'the checkpoint does not fit this version of the program '
            f'({str(error).splitlines()[0]}); train the run again'
        ) from None
    return model.eval().requires_grad_(False)


def find_data(run, given):
    """Where the data of a finished run is: --data-path, or where it was trained from, or if that is gone DATA_PATH."""
    recorded = utils.read_json(run / 'config.json').get('data_path', 'dataset')
    return given.get('data_path') or (
        recorded if Path(recorded).exists() else os.environ.get('DATA_PATH') or recorded
    )


def open_finished(run, given, script='train_vad.py'):
    """The checkpoint's state of the finished run in the folder run, and its model, on the device given.get('device').

    script: that makes such runs. UserError: there is none.
    """
    if not run.is_dir():
        raise utils.UserError(
            f'expected a run folder, got {run}, which {"is a file" if run.exists() else "does not exist"}; '
            f'first run: python {script} --run-dir {run}'
        )
    if not utils.is_whole(run):
        raise utils.UserError(
            f'expected a finished run in {run}, got '
            + (
                'an unfinished one; finish it with --resume'
                if (run / 'checkpoint.pt').exists()
                else f'none; first run: python {script} --run-dir {run}'
            )
        )
    device = utils.pick_device(given.get('device'))
    state = utils.load_checkpoint(run / 'checkpoint.pt', device)
    if state.get('stage') != 'trained':
        raise utils.UserError(
            f'expected a finished run in {run}, got the checkpoint of an unfinished one; train it again'
        )
    return state, load_model(state, device)


def new_model(config, device):
    """The configuration's model, untrained. UserError: there is no such model for these images."""
    torch.manual_seed(config['seed'])  # the weights
    try:
        return build_model(config).to(device)
    except ValueError as error:
        raise utils.UserError(str(error)) from None


def choose_folder(run_dir):
    """The folder to work in. A whole run stays in its place until its successor, <run_dir>.new, is whole too."""
    if run_dir.exists() and not run_dir.is_dir():
        raise utils.UserError(f'expected --run-dir to be a folder, got the file {run_dir}')
    inside = list(run_dir.iterdir()) if run_dir.exists() else []
    others = any(path.is_dir() and not path.name.startswith('shares-') for path in inside)
    if inside and (not (run_dir / 'config.json').exists() or others):
        raise utils.UserError(
            f'expected --run-dir to be a new folder or that of a run, got {run_dir}, which holds other '
            f'things; name another'
        )
    new = utils.settle(run_dir)
    return new if utils.is_whole(run_dir) else run_dir


def choose_collection(folder, *patterns):
    """Make the folder of several runs, or go on in it. UserError: it holds what matches none of the patterns."""
    if folder.exists() and not folder.is_dir():
        raise utils.UserError(f'expected --run-dir to be a folder, got the file {folder}')
    others = (
        [path.name for path in folder.iterdir() if not any(map(path.match, patterns))]
        if folder.exists()
        else []
    )
    if others:
        raise utils.UserError(
            f'expected --run-dir to be a new folder or one of the same command, got {folder}, which holds '
            f'{min(others)}; name another'
        )
    folder.mkdir(parents=True, exist_ok=True)


def check_same_config(state, config, folder):
    saved = state.get('config', {})
    differences = [
        f'{k} {saved.get(k)} (now {config.get(k)})'
        for k in {**saved, **config}
        if saved.get(k) != config.get(k)
    ]
    if differences:
        raise utils.UserError(
            f'the checkpoint in {folder} is from another configuration: {", ".join(differences)}; '
            f'resume with the flags it was started with, or name another --run-dir'
        )


# Flags that say what the run computes, and so are in its configuration; not every system has every one.
HYPERPARAMETERS = (
    'latent_dim',
    'epochs',
    'batch_size',
    'lr',
    'latent_lr',
    'beta',
    'obs_std',
    'decoder',
    'seed',
    'encoder',
    'likelihood',
    'model',
    'cuda_graph',
    'bfloat16',
)


@dataclass
class Run:
    """A run that is to be done, or finished: what its flags came to."""

    config: dict  # what the run computes; a resumed run must have the same
    run_dir: Path  # where the run will be when it is whole
    folder: Path  # where it grows
    state: dict | None  # the checkpoint to go on from
    model: torch.nn.Module  # untrained
    train_set: utils.ImageDataset
    test_set: utils.ImageDataset
    source: str  # where the images come from
    classes: tuple  # numbers of the two whose images an interpolation joins
    device: torch.device


def open_run(system, args, **config):
    """The Run for a training script's flags, its folder made and config.json in it; None: it is finished already.

    config: more entries of the configuration. UserError: the flags do not fit the data or what the folder holds.
    """
    given = vars(args)  # flags without a default are there only if they were given
    if processes.expected() > 1 and system not in ('ad', 'vad'):
        raise utils.UserError(
            f'expected train_ad.py or train_vad.py with several processes, got {processes.expected()} of them for '
            f'a system without a table of latents; start it with python'
        )
    device, first = utils.pick_device(given.get('device')), not processes.rank()
    dist = given.get('dist')
    run_dir = given.get('run_dir', Path('runs') / '-'.join(filter(None, (system, dist))))
    run_dir = run_dir if run_dir.name else run_dir.resolve()  # '.' has no name to derive others from
    data_path = given.get('data_path', 'dataset')
    train_set, test_set, source = utils.load_data(
        data_path, given.get('dataset'), given.get('n_train'), given.get('n_test')
    )
    if 'cuda_graph' in given and (device.type != 'cuda' or config.get('dropout') or config.get('prune')):
        raise utils.UserError(
            f'expected a GPU, and neither --dropout nor --prune, for --cuda-graph, got device {device.type}; leave '
            f'it out'
        )
    if 'patience' in config:
        training.hold_out(train_set)  # or says why not
    classes = (
        parse_classes(given['interpolate'], train_set.classes)
        if 'interpolate' in given
        else pictures.INTERPOLATE
    )
    config = {
        'system': system,
        'dist': dist,
        'dataset': train_set.name,
        'n_train': len(train_set),
        'n_test': len(test_set),
        'shape': list(train_set.X.shape[1:]),
        'train_checksum': train_set.checksum(),
        'test_checksum': test_set.checksum(),
        **config,
        **{name: given[name] for name in HYPERPARAMETERS if name in given},
    }

    folder, state = choose_folder(run_dir), None
    if folder != run_dir and args.resume and not folder.exists():
        check_same_config(utils.load_checkpoint(run_dir / 'checkpoint.pt'), config, run_dir)
        if first:
            print(f'{run_dir} is finished: nothing to resume')
        return None
    checkpoint = folder / 'checkpoint.pt'
    if checkpoint.exists():
        if not args.resume:
            raise utils.UserError(
                f'{folder} holds an unfinished run: go on with it by --resume, or delete that folder to '
                f'start afresh'
            )
        state = utils.load_checkpoint(checkpoint, device)
        check_same_config(state, config, folder)
    elif args.resume and first:
        print(f'no checkpoint in {folder} yet: starting from the beginning', file=sys.stderr)

    model = new_model(
        config, device
    )  # before there is a folder: if there is no such model, nothing is left behind
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        utils.write_json(
            folder / 'config.json', {**config, 'data': source, 'data_path': str(Path(data_path).resolve())}
        )
    return Run(config, run_dir, folder, state, model, train_set, test_set, source, classes, device)


@contextlib.contextmanager
def interruptible(run):
    """Ctrl-C inside ends the program with the command that goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if processes.rank():
            sys.exit(130)
        saved = (
            'the checkpoint is saved'
            if (run.folder / 'checkpoint.pt').exists()
            else 'nothing was trained yet'
        )
        again = [*(word for word in sys.argv if word != '--resume'), '--resume']
        launcher = (
            'python'
            if processes.expected() == 1
            else f'torchrun --nproc-per-node {os.environ["LOCAL_WORLD_SIZE"]}'
        )
        print(f'\ninterrupted; {saved}. Go on with: {launcher} {shlex.join(again)}', file=sys.stderr)
        sys.exit(130)


def close_run(run, results):
    """Write the report and results.json, put the run in its place, and print its results."""
    results = {
        **{k: v for k, v in run.config.items() if 'checksum' not in k},
        **results,
        'device': run.device.type,
        'data': run.source,
        'torch': torch.__version__,
    }
    pictures.write_report(run.folder, results, run.config)
    utils.write_json(run.folder / 'results.json', results)  # last: it says that the run is whole
    if run.folder != run.run_dir:
        utils.replace_folder(run.folder, run.run_dir)
    print_results([results], [str(run.run_dir)])
    print(f'pictures and figures: {run.run_dir / "report.html"}')


def train(system, args, **config):
    """Train, grade and draw one run of a decoder with latents: everything that its script does after reading its flags.

    config: more entries of the configuration. With `patience` among them the last tenth of the training images is held
    out, and their loss decides when to stop; else the curve of losses is that of the test images, and decides nothing.
    """
    if vars(args).get('grid') and args.latent_dim != 2:
        raise utils.UserError(
            f'expected --latent-dim 2 for --grid, whose codes lie in a plane, got {args.latent_dim}; '
            f'samples.png and the t-SNE maps show codes of any size'
        )
    processes.start(utils.pick_device(vars(args).get('device')))
    run = processes.in_turn(lambda: open_run(system, args, lr=networks.DECODERS[args.decoder].lr, **config))
    if run is None:
        return
    model, train_set, validation = run.model, run.train_set, run.test_set if run.model.encoder else None
    if 'patience' in run.config:
        train_set, validation = training.hold_out(run.train_set)
    with interruptible(run):
        if run.state and run.state['stage'] == 'trained':
            state, model = run.state, load_model(run.state, run.device)
            seconds = sum(m['seconds'] for m in training.read_metrics(run.folder))
        else:
            state, seconds = training.fit(
                model, train_set, run.config, run.folder, resume=run.state, validation=validation
            )
        if not processes.leave():  # the first process has everything
            return
        graded, test_latents = grading.grade(model, state, run.test_set)
        results = {
            **graded,
            **grading.grade_training(model, state, train_set),
            **grading.grade_samples(model, run.config, run.train_set, run.test_set),
            'train_seconds': round(seconds, 1),
            'parameters': sum(p.numel() for p in model.parameters()),
        }
        if 'patience' in run.config:
            results.update(n_held_out=len(validation), best_epoch=state['best_epoch'])
        if run.config.get('prune'):
            results['zero_weights'] = training.zero_weights(model)
        pictures.draw(run.folder, model, state, train_set, run.test_set, test_latents, run.classes)
        pictures.save_losses(training.read_metrics(run.folder), run.folder / 'loss.png')
        if system == 'vae':
            table = grading.amortisation(model, state, run.test_set)
            utils.write_json(run.folder / 'amortisation.json', table)
            pictures.save_amortisation(table, run.folder / 'amortisation.png')
            print_table(
                [
                    [str(v) if k in ('passes', 'start') else f'{v:.2f}' for k, v in row.items()]
                    for row in table
                ],
                {name: '<' if name == 'start' else '>' for name in table[0]},
            )
    close_run(run, results)


COLUMNS = {
    'run': '<',
    'system': '<',
    'dist': '<',
    'dataset': '<',
    'n_test': '>',
    'latent_dim': '>',
    'seed': '>',
    'train_loss': '>',
    'test_loss': '>',
    'test_loss_mean': '>',
    'kl': '>',
    'test_negative_elbo': '>',
    'knn_accuracy': '>',
    'frechet': '>',
    'frechet_floor': '>',
    'classes': '>',
    'test_seconds': '>',
}
ONE_DECIMAL = ('kl', 'test_negative_elbo', 'frechet', 'frechet_floor', 'test_seconds', 'train_seconds')


def print_table(rows, columns):
    """Aligned lines: rows, lists of texts, below the names in columns, name -> '<' (left) or '>' (right)."""
    lines = [list(columns), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print(
            '  '.join(
                f'{text:{align}{width}}' for text, align, width in zip(line, columns.values(), widths)
            ).rstrip()
        )


def cell(value, name):
    """The text of a result in a table's column of that name."""
    if value is None:
        return '-'
    if isinstance(value, float):
        return f'{value:.1f}' if name in ONE_DECIMAL else f'{value:.4f}'
    return str(value)


def print_results(results, names):
    """An aligned table, a row for each run."""
    print_table(
        [
            [cell({'run': name, **r}.get(column), column) for column in COLUMNS]
            for name, r in zip(names, results)
        ],
        COLUMNS,
    )
