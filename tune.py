"""A search for an auto-encoder's architecture and training, by Optuna (Akiba et al., 2019): train_ae.py --tune.

The space is that of document 002. A configuration is judged by the loss of held-out training images, never by test images.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import optuna
import sqlalchemy.exc  # of Optuna's storage
import torch

import commands
import training
import utils


def suggest(trial):
    """A configuration from document 002's space, entries of a run's config."""
    convolutions = []
    for j in range(1, trial.suggest_int('convolutions', 2, 4) + 1):
        kernel = trial.suggest_int(f'kernel{j}', 2, 6)
        convolutions.append(
            {
                'channels': trial.suggest_int(f'channels{j}', 4, 4 * 2**j),
                'kernel': kernel,
                'stride': trial.suggest_int(f'stride{j}', 1, 4),
                'padding': trial.suggest_int(f'padding{j}', 0, kernel // 2),
            }
        )
    linear = [
        trial.suggest_int(f'linear{j}', 8, 512 // 2**j)
        for j in range(1, trial.suggest_int('linears', 1, 3) + 1)
    ]
    return {
        'architecture': {'convolutions': convolutions, 'linear': linear},
        'latent_dim': trial.suggest_int('latent_dim', 1, 16),
        'lr': trial.suggest_float('lr', 1e-5, 1e-1, log=True),
        'weight_decay': trial.suggest_float('weight_decay', 1e-7, 1e-1, log=True),
        'batch_size': trial.suggest_int('batch_size', 64, 512),
        'patience': trial.suggest_int('patience', 1, 10),
    }


def held_out_loss(config, train_set, folder, device):
    """Train a configuration; the loss of the held-out images at its best epoch, in nats, and the seconds of training.

    ValueError: there is no such architecture. NotFinite: training diverged.
    """
    torch.manual_seed(config['seed'])
    model = commands.build_model(config).to(device)
    shutil.rmtree(folder, ignore_errors=True)  # of a trial that was interrupted
    folder.mkdir()
    part, held_out = training.hold_out(train_set)
    try:
        state, seconds = training.fit(model, part, config, folder, validation=held_out)
        return training.read_metrics(folder)[state['best_epoch'] - 1]['validation_loss'], seconds
    finally:
        shutil.rmtree(folder)


def open_study(folder, config):
    """The study in folder, of trials that have config in common. UserError: of others, or not a study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=f'sqlite:///{folder / "study.db"}', study_name='tune', load_if_exists=True
        )
        commands.check_same_config({'config': study.user_attrs.get('config', config)}, config, folder)
        study.set_user_attr('config', config)
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise utils.UserError(
            f'expected a study of Optuna in {folder / "study.db"}, got: {reason}; delete the file'
        ) from None
    return study


def finished(study):
    """The trials that count: tried, or found impossible. One that was interrupted is tried again under another number."""
    return [trial for trial in study.trials if trial.state.name in ('COMPLETE', 'PRUNED')]


def run(args, config):
    """args.tune trials in the study in args.run_dir, those already there included; then a run of the best, in its folder
    `best`. config: entries of the runs' configuration besides the flags."""
    given = vars(args)
    folder, device = given.get('run_dir', Path('runs/ae-tune')), utils.pick_device(given.get('device'))
    train_set, test_set, _ = utils.load_data(
        given.get('data_path', 'dataset'), given.get('dataset'), given.get('n_train'), given.get('n_test')
    )
    commands.choose_collection(
        folder, 'study.db*', 'best', 'best.new', 'best.replaced', 'best.json', 'best.json.tmp', 'trial'
    )
    config = {
        'system': 'ae',
        'dist': None,
        'dataset': train_set.name,
        'train_checksum': train_set.checksum(),
        'test_checksum': test_set.checksum(),
        'shape': list(train_set.X.shape[1:]),
        **config,
        **{name: given[name] for name in ('encoder', 'decoder', 'epochs', 'beta', 'obs_std', 'seed')},
    }
    searched = ('architecture', 'weight_decay', 'patience')
    config = {name: value for name, value in config.items() if name not in searched}
    study = open_study(folder, config)
    print('trial  held-out loss  seconds  configuration')
    for trial in finished(study):
        print_trial(trial)
    try:
        while len(finished(study)) < args.tune:
            # A seed for each trial: a study that goes on proposes what the undisturbed one would have.
            study.sampler = optuna.samplers.TPESampler(
                seed=training.fold(args.seed << 20 | len(finished(study)))
            )
            trial = study.ask()
            chosen = suggest(trial)
            trial.set_user_attr('config', chosen)
            try:
                loss, seconds = held_out_loss({**config, **chosen}, train_set, folder / 'trial', device)
            except (ValueError, training.NotFinite) as error:
                trial.set_user_attr('reason', str(error))
                trial = study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                trial.set_user_attr('seconds', round(seconds, 1))
                trial = study.tell(trial, loss)
            print_trial(trial)
    except KeyboardInterrupt:
        print(
            f'\ninterrupted; {len(finished(study))} trials are saved. Go on with the same command',
            file=sys.stderr,
        )
        sys.exit(130)
    best = best_trial(study)
    utils.write_json(
        folder / 'best.json', {'trial': best.number, 'held_out_loss': best.value, **best.user_attrs['config']}
    )
    run_again(args, config, folder / 'best', best)


def print_trial(trial):
    if trial.state.name == 'PRUNED':
        print(f'{trial.number:5d}  {"-":>13s}  {"-":>7s}  {trial.user_attrs["reason"]}')
    else:
        print(
            f'{trial.number:5d}  {trial.value:13.2f}  {trial.user_attrs["seconds"]:7.1f}  '
            f'{json.dumps(trial.user_attrs["config"])}'
        )


def best_trial(study):
    """UserError: no trial came to an end."""
    try:
        return study.best_trial
    except ValueError:
        raise utils.UserError(
            f'expected a configuration that can be trained, got none in {len(study.trials)} trials; go on '
            f'with a larger --tune'
        ) from None


def run_again(args, config, run_dir, best):
    """A run of the best trial's configuration in run_dir; what is there of another trial's is replaced."""
    new = utils.settle(run_dir)
    for unfinished in (new, run_dir):
        if (unfinished / 'config.json').exists() and not utils.is_whole(unfinished):
            if utils.read_json(unfinished / 'config.json').get('trial') != best.number:
                shutil.rmtree(unfinished)
    growing = new if new.exists() else run_dir
    begun = growing / 'config.json'
    resume = begun.exists() and utils.read_json(begun).get('trial') == best.number
    chosen = best.user_attrs['config']
    flags = {name: chosen[name] for name in ('latent_dim', 'lr', 'batch_size')}
    entries = {
        name: value
        for name, value in {**config, **chosen}.items()
        if name in ('architecture', 'dropout', 'prune', 'weight_decay', 'patience', 'min_delta')
    }
    commands.train(
        'ae',
        argparse.Namespace(**{**vars(args), **flags, 'run_dir': run_dir, 'resume': resume}),
        trial=best.number,
        **entries,
    )
