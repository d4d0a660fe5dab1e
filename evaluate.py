"""Grade trained runs; and the course's grading functions.

Usage:
    python evaluate.py                      all runs under runs/
    python evaluate.py runs/ad --n-test all --json grades.json
"""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from evaluation import (
    FURTHER,
    Sampler,
    describe_run,
    evaluate_model,
    grade_further,
    grade_samples,
    grade_test,
    grade_training,
    pca_loss,
    print_results,
    read_results,
    reconstruction_loss,
    update_index,
    write_report,
)
from imputation import OF_INCOMPLETE
from training import (
    DATASETS,
    SUCCESSOR,
    UserError,
    data_path_flag,
    device_flag,
    find_data,
    flag,
    infer_latents,
    load_run,
    load_split,
    lock_folder,
    parse_flags,
    run_command,
    settle,
    whole_number,
    write_array,
    write_json,
)
from training.command import count, describe_error, print_error

__all__ = ['evaluate_model', 'reconstruction_loss']  # the names that the course's scripts import from here


@dataclass(frozen=True, kw_only=True)
class Options:
    """Grade trained runs: fit latents to test images, the decoder frozen, and report the course's
    reconstruction loss (batches of 64), the KL, 5-nearest-neighbour accuracy, and of samples the Fréchet
    distance from test images, precision, recall, density, coverage and authenticity."""

    runs: list[Path] = flag(
        (), 'run folders; none: all under runs/', Path, positional=True, nargs='*', metavar='RUN'
    )
    data_path: str | None = data_path_flag(
        'where the run was trained from, or if that is gone the environment variable DATA_PATH'
    )
    device: str | None = device_flag()
    dataset: str | None = flag(
        None, "the data set, never replaced by another (default: the run's own)", choices=list(DATASETS)
    )
    n_test: int | str | None = flag(
        None, 'how many test images, a number or "all" (default: as in training)', count, metavar='N'
    )
    json: Path | None = flag(None, 'also write the results as a JSON list', Path, metavar='FILE')
    samples: int = flag(
        0,
        'also write N samples from the prior to samples_prior.npy in the run folder, uint8 [N, 28, 28], and '
        '(not of a GAN) from a second VAE and a Gaussian mixture, fitted to the training latents, to '
        'samples_two-stage.npy and samples_mixture.npy',
        whole_number,
        metavar='N',
    )
    refine: str | None = flag(
        None,
        "fit the test images' posteriors further, and report their refined_negative_elbo: those of the run's "
        'own family (of points: Gaussian), or Gaussians with a full covariance',
        choices=['own', 'full'],
    )
    likelihood: int = flag(
        0,
        'estimate log p of the test images by K importance samples of each: log_likelihood, and ess, the '
        'effective sample size; best with --refine full',
        whole_number,
        metavar='K',
    )


def find_runs(named: list[Path]) -> list[Path]:
    """Folders of the runs to grade: those named, or all under runs/. UserError: there are none."""
    # Of a sweep or a search one folder deeper. A successor has not taken its place if its program was killed.
    found = (path.parent for path in Path('runs').glob('**/results.json'))
    runs = named or sorted({path.parent if path.name == SUCCESSOR else path for path in found})
    if not runs:
        raise UserError('expected trained runs under runs/, got none; first run: python train_vad.py')
    return runs


def grade_run(folder: Path, options: Options, writable: bool) -> dict:
    """The results of one run; on the run's own test data they also replace those in its folder, if that is
    writable.

    UserError: it cannot be graded.
    """
    trained = load_run(folder, options.device)
    config, data_path = trained.config, find_data(folder, options.data_path)
    name = options.dataset or config.dataset
    n_train = config.n_train if name == config.dataset else 1
    try:
        wanted = dict(data_path=data_path, dataset=name, n_train=n_train)
        train_set, test_set = load_split(config.replace(n_test=options.n_test or config.n_test, **wanted))
    except UserError as error:
        raise UserError(f'cannot grade {folder}: {error}') from None
    if test_set.shape != trained.model.shape:
        raise UserError(
            f'cannot grade {folder}: expected images of shape {trained.model.shape}, got {test_set.shape} in '
            f'{data_path}; name other data with --dataset or --data-path'
        )
    # Samples compare with images of the run's own data set, by a classifier trained on its training images.
    own = name == config.dataset and train_set.checksum() == config.train_checksum
    own_test = own and test_set.checksum() == config.test_checksum
    saved = read_results(folder, trained)
    if options.refine or options.likelihood or not own_test:  # else those of an earlier call hold
        saved = {name: value for name, value in saved.items() if name not in FURTHER}
        if own_test and writable:
            (folder / 'likelihood.png').unlink(missing_ok=True)
    if not own_test:  # what was said of the run's own test images does not hold for others
        saved = {name: value for name, value in saved.items() if name not in OF_INCOMPLETE}
    results = saved | describe_run(trained) | {'dataset': test_set.name, 'n_test': len(test_set)}
    test_latents = None
    if config.system != 'gan':  # which has no latents of given images
        if own and 'train_loss' not in saved:
            results |= grade_training(trained, train_set)
        test_latents, seconds = infer_latents(trained, test_set)
        results |= grade_test(trained, test_set, test_latents)
        results['test_seconds'] = round(seconds, 1)
        results['pca_loss'] = pca_loss(train_set, test_set, config.latent_dim) if own else None
        if options.refine or options.likelihood:
            further = options.refine, options.likelihood
            picture = folder if writable and own_test else None
            results |= grade_further(trained, test_set, test_latents, *further, picture)
    elif options.refine or options.likelihood:
        raise UserError(
            f'cannot grade {folder}: expected a run with posteriors for --refine and --likelihood, got a '
            'GAN, which has no density'
        )
    sampler = Sampler(trained) if own or options.samples else None
    if own:
        results |= grade_samples(sampler, train_set, test_set, test_latents)
    else:
        results |= dict.fromkeys(('frechet', 'frechet_floor', 'classes', 'smallest_class', 'samples'))
    if own_test:
        if writable:
            write_json(folder / 'results.json', results)
            if (folder / 'report.html').exists():
                write_report(folder, results, config.to_dict())
        else:
            print(f'warning: {folder} is not writable: results.json stays as it is', file=sys.stderr)
    else:
        results['data'] = test_set.source
    if options.samples:
        for kind, images in sampler.sample(options.samples).items():
            array = images.clamp(0, 255).round().byte().cpu().numpy()  # [N, 28, 28]
            write_array(folder / f'samples_{kind}.npy', array)
    return results


def main():
    options = parse_flags(Options)
    if options.json and (options.json.is_dir() or not options.json.resolve().parent.is_dir()):
        raise UserError(f'expected --json to name a file in an existing folder, got {options.json}')
    graded, failed, runs = {}, False, find_runs(options.runs)
    if options.json and options.json.resolve().parent in [folder.resolve() for folder in runs]:
        raise UserError(
            f'expected --json to name a file outside of the runs, whose own files it could replace, got '
            f'{options.json}; name another folder'
        )
    for folder in runs:
        try:
            settle(folder)
            # A run that may only be read is graded without a lock, and what is no run gets none.
            writable = os.access(folder, os.W_OK) and (folder / 'checkpoint.pt').exists()
            with lock_folder(folder) if writable else contextlib.nullcontext():
                graded[str(folder)] = grade_run(folder, options, writable)
        except Exception as error:  # the others are graded all the same
            line = describe_error(error) or f'cannot grade {folder}: {type(error).__name__}: {error}'
            print_error(line)
            failed = True
    if graded:
        update_index(*map(Path, graded))
        print_results(list(graded.values()), list(graded))
    if options.json and graded:  # else an older file stays as it is
        write_json(options.json, [{'run': run, **results} for run, results in graded.items()])
    if failed:
        sys.exit(2)


if __name__ == '__main__':
    run_command(main)
