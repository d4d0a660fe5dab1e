"""Grade trained runs; and the course's grading functions.

python evaluate.py                      all runs under runs/
python evaluate.py runs/ad --n-test all --json grades.json
"""

import argparse
import sys
from pathlib import Path

import commands
import grading
import utils
from grading import evaluate_model, reconstruction_loss  # noqa: F401, the course's names


def find_runs(named):
    """Folders of the runs to grade: those named, or all finished ones under runs/. UserError: there are none."""
    for new in Path('runs').glob('**/*.new'):
        utils.settle(new.with_suffix(''))
    found = (
        path.parent for path in Path('runs').glob('**/results.json')
    )  # a sweep's and a search's lie one folder deeper
    runs = named or sorted(
        run for run in found if not any(parent.suffix == '.replaced' for parent in (run, *run.parents))
    )
    if not runs:
        raise utils.UserError('expected trained runs under runs/, got none; first run: python train_vad.py')
    return runs


def grade_run(run, args):
    """The results of one run; on the run's own test data they also replace those in its folder.

    UserError: it cannot be graded.
    """
    given = vars(args)
    state, model = commands.open_finished(run, given)
    config = state['config']
    data_path = commands.find_data(run, given)
    try:
        name = given.get('dataset', config['dataset'])
        train, test, source = utils.load_data(
            data_path,
            name,
            n_train=config['n_train'] if name == config['dataset'] else 1,
            n_test=given.get('n_test', config['n_test']),
        )
    except utils.UserError as error:
        raise utils.UserError(f'cannot grade {run}: {error}') from None
    if tuple(test.X.shape[1:]) != model.shape:
        raise utils.UserError(
            f'cannot grade {run}: expected images of shape {model.shape}, got {tuple(test.X.shape[1:])} in '
            f'{data_path}; name other data with --dataset or --data-path'
        )
    old = utils.read_json(run / 'results.json')
    graded = {'dataset': test.name, 'n_test': len(test)}
    if config['system'] != 'gan':  # which has no latents of given images
        graded, _ = grading.grade(model, state, test)
    # The samples are compared with images of the run's own data set, by a classifier that learnt from its training images.
    own = name == config['dataset'] and train.checksum() == config['train_checksum']
    graded.update(
        grading.grade_samples(model, config, train, test)
        if own
        else dict.fromkeys(('frechet', 'frechet_floor', 'classes', 'smallest_class'))
    )
    if own and test.checksum() == config['test_checksum']:
        results = {**old, **graded}
        utils.write_json(run / 'results.json', results)
    else:
        results = {**old, **graded, 'data': source}
    if 'samples' in given:
        samples = {'prior': grading.sample_prior(model, args.samples, config['seed'])}
        if config['system'] != 'gan':
            samples['mixture'] = grading.sample_mixture(model, state['latents'], args.samples, config['seed'])
        for name, images in samples.items():
            array = images.clamp(0, 255).round().byte().cpu().numpy()  # [N, 28, 28]
            utils.write_atomically(run / f'samples_{name}.npy', lambda path: utils.save_array(path, array))
    return results


def main():
    parser = commands.Parser(
        "Grade trained runs: fit latents to test images, the decoder frozen, and report the course's "
        'reconstruction loss (batches of 64), the KL, 5-nearest-neighbour accuracy, and the Fréchet '
        'distance of samples from test images.'
    )
    parser.add_argument(
        'runs',
        nargs='*',
        type=Path,
        metavar='RUN',
        default=argparse.SUPPRESS,
        help='run folders; none: all under runs/',
    )
    commands.add_data_flags(parser, None, "the run's own", 'as in training')
    parser.add_argument(
        '--json',
        type=Path,
        metavar='FILE',
        default=argparse.SUPPRESS,
        help='also write the results as a JSON list',
    )
    parser.add_argument(
        '--samples',
        type=commands.positive,
        metavar='N',
        default=argparse.SUPPRESS,
        help='also write N samples each from the prior and (not of a GAN) from a Gaussian mixture fitted to the '
        'training latents, samples_prior.npy and samples_mixture.npy in the run folder: uint8 [N, 28, 28]',
    )
    args = parser.parse_args()
    json_file = vars(args).get('json')
    if json_file and not json_file.resolve().parent.is_dir():
        raise utils.UserError(f'expected --json to name a file in an existing folder, got {json_file}')
    graded, failed = {}, False
    for run in find_runs(vars(args).get('runs')):
        try:
            graded[str(run)] = grade_run(run, args)
        except utils.UserError as error:  # the other runs are graded all the same
            print(f'error: {error}', file=sys.stderr)
            failed = True
    if graded:
        commands.print_results(list(graded.values()), list(graded))
    if json_file:
        utils.write_json(json_file, [{'run': run, **results} for run, results in graded.items()])
    if failed:
        sys.exit(2)


if __name__ == '__main__':
    utils.run_command(main)
