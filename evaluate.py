"""Grade trained runs; and the course's grading functions.

    python evaluate.py                      all runs under runs/
    python evaluate.py runs/ad --n-test all --json grades.json
"""
from pathlib import Path

import commands
import grading
import utils
from grading import evaluate_model, reconstruction_loss   # noqa: F401, the course's names


def find_runs(named):
    """Folders of the runs to grade. UserError: none, or one that cannot be graded."""
    runs = named or sorted(path.parent for path in Path('runs').glob('*/results.json'))
    if not runs:
        raise utils.UserError('expected trained runs under runs/, got none; first run: python train_vad.py')
    for run in runs:
        if not run.is_dir():
            raise utils.UserError(f'expected a run folder, got {run}, which does not exist; first run: '
                                  f'python train_vad.py --run-dir {run}')
        if not utils.is_whole(run):
            raise utils.UserError(f'expected a finished run in {run}, got '
                                  + ('an unfinished one; finish it with --resume' if (run / 'checkpoint.pt').exists()
                                     else 'none; first run: python train_vad.py'))
    return runs


def grade_run(run, args):
    """The results of one run; on the run's own test data they also replace those in its folder."""
    given = vars(args)
    device = utils.pick_device(given.get('device'))
    state = utils.load_checkpoint(run / 'checkpoint.pt', device)
    config = state.get('config', {})
    if state.get('stage') != 'trained':
        raise utils.UserError(f'expected a finished run in {run}, got an unfinished one; finish it with --resume')
    model = commands.load_model(state, device)
    data_path = given.get('data_path', utils.read_json(run / 'config.json').get('data_path', 'dataset'))
    try:
        _, test, source = utils.load_data(data_path, given.get('dataset', config['dataset']), n_train=1,
                                          n_test=given.get('n_test', 'all'))
    except utils.UserError as error:
        raise utils.UserError(f'cannot grade {run}: {error}') from None
    if 'n_test' not in given:   # as many as the run was graded on, or what there is
        test = utils.ImageDataset(test.X[:config['n_test']], test.y[:config['n_test']], test.name)
    old = utils.read_json(run / 'results.json')
    graded, _ = grading.grade(model, state, test)
    results = {**old, **graded, 'device': device.type, 'data': source}
    if test.checksum() == config['test_checksum']:
        utils.write_json(run / 'results.json', results)
    if args.samples:
        for name, images in (('prior', grading.sample_prior(model, args.samples, config['seed'])),
                             ('mixture', grading.sample_mixture(model, state['latents'], args.samples, config['seed']))):
            array = images.clamp(0, 255).round().byte().cpu().numpy()              # [N, 28, 28]
            utils.write_atomically(run / f'samples_{name}.npy', lambda path: utils.save_array(path, array))
    return results


def main():
    parser = commands.Parser('Grade trained runs: fit latents to test images, the decoder frozen, and report the course\'s '
                             'reconstruction loss (batches of 64), the KL and 5-nearest-neighbour accuracy.')
    parser.add_argument('runs', nargs='*', type=Path, metavar='RUN', help='run folders; none: all under runs/')
    commands.add_data_flags(parser, 'the folder that the run was trained from')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results as a JSON list')
    parser.add_argument('--samples', type=commands.positive, metavar='N',
                        help='also write N samples each from the prior and from a Gaussian mixture fitted to the training '
                             'latents, samples_prior.npy and samples_mixture.npy in the run folder: uint8 [N, 28, 28]')
    args = parser.parse_args()
    if args.json and not args.json.resolve().parent.is_dir():
        raise utils.UserError(f'expected --json to name a file in an existing folder, got {args.json}')
    runs = find_runs(args.runs)
    results = [grade_run(run, args) for run in runs]
    commands.print_results(results, [str(run) for run in runs])
    if args.json:
        utils.write_json(args.json, [{'run': str(run), **result} for run, result in zip(runs, results)])


if __name__ == '__main__':
    utils.run_command(main)
