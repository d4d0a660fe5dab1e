"""A search for an auto-encoder's architecture and training, by Optuna (Akiba et al., 2019): train_ae.py
--tune.

The space is that of the AE report. A configuration is judged by the loss of held-out training images, never
by test images.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from training import (
    SUCCESSOR,
    AEConfig,
    ImageDataset,
    Images,
    NoSuchModel,
    NotFinite,
    Trainer,
    UserError,
    build_model,
    check_collection,
    check_device,
    fit,
    fold,
    hold_out,
    is_finished,
    load_data,
    lock_folder,
    pick_device,
    read_json,
    read_metrics,
    settle,
    write_json,
)
from training.saved_config import check_same

try:
    import optuna
    import sqlalchemy.exc  # of Optuna's storage
except ModuleNotFoundError as error:
    raise UserError(f'expected Optuna for --tune, got {error}; first: pip install optuna') from None
except Exception as error:  # a broken installation can raise anything
    reason = f'{type(error).__name__}: {error}'.splitlines()[0]
    raise UserError(
        f'expected Optuna for --tune, got an installation that cannot be imported ({reason}); first: pip '
        f'install --force-reinstall optuna sqlalchemy'
    ) from None

SEARCHED = ('architecture', 'latent_dim', 'lr', 'weight_decay', 'batch_size', 'patience')


def suggest(trial: optuna.Trial) -> dict:
    """A configuration from the AE report's space: values for SEARCHED."""
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
    linears = range(1, trial.suggest_int('linears', 1, 3) + 1)
    linear = [trial.suggest_int(f'linear{j}', 8, 512 // 2**j) for j in linears]
    return {
        'architecture': {'convolutions': convolutions, 'linear': linear},
        'latent_dim': trial.suggest_int('latent_dim', 1, 16),
        'lr': trial.suggest_float('lr', 1e-5, 1e-1, log=True),
        'weight_decay': trial.suggest_float('weight_decay', 1e-7, 1e-1, log=True),
        'batch_size': trial.suggest_int('batch_size', 64, 512),
        'patience': trial.suggest_int('patience', 1, 10),
    }


def held_out_loss(
    config: AEConfig, train_set: ImageDataset, folder: Path, device: torch.device
) -> tuple[float, float]:
    """Train a configuration; the loss of the held-out images at its best epoch, in nats, and the seconds of
    training.

    NoSuchModel: the architecture does not fit the images. NotFinite: training diverged.
    """
    model = build_model(config).to(device)
    shutil.rmtree(folder, ignore_errors=True)  # of a trial that was interrupted
    folder.mkdir()
    part, held_out = hold_out(train_set)
    try:
        trainer = Trainer(model, Images(part, device), config, validation=Images(held_out, device))
        fit(trainer, folder)
        seconds = sum(line['seconds'] for line in read_metrics(folder))
        return trainer.early_stopping.best['loss'], seconds
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def study_errors(folder: Path):
    """UserError instead of the errors of a study's database."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f'expected a study of Optuna in {folder / "study.db"}, got: {reason}; make room if the disk is '
            f'full, else delete the file'
        ) from None


def open_study(folder: Path, config: AEConfig) -> optuna.Study:
    """The study in folder, of trials that have all of config but SEARCHED in common.

    UserError: it is a study of others.
    """
    common = {name: value for name, value in config.to_dict().items() if name not in (*SEARCHED, 'trial')}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f'sqlite:///{folder / "study.db"}'
    study = optuna.create_study(storage=storage, study_name='tune', load_if_exists=True)
    common = json.loads(json.dumps(common))  # as it comes back from the study
    saved = study.user_attrs['config'] if 'config' in study.user_attrs else {}
    check_same(common | saved, common, folder)  # what an older program did not save is taken as equal
    study.set_user_attr('config', common)
    return study


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that count: tried, or found impossible. One that was interrupted is tried again under
    another number."""
    return [trial for trial in study.trials if trial.state.name in ('COMPLETE', 'PRUNED')]


def tune(config: AEConfig, train: Callable[[AEConfig], None]):
    """config.tune trials in the study in the run folder, those already there included; then a run of the
    best, by train(config), in its folder `best`."""
    folder, device = config.run_dir or Path('runs/ae-tune'), pick_device(config.device)
    check_device(config, device)
    described, train_set, _ = load_data(config)
    check_collection(folder, 'study.db*', 'best', 'best.json', 'trial')
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        with study_errors(folder):
            study = open_study(folder, described)
            search(study, described, train_set, folder / 'trial', device)
            best = best_trial(study)
        record = {'trial': best.number, 'held_out_loss': best.value, **best.user_attrs['config']}
        write_json(folder / 'best.json', record)
        run_again(config, folder / 'best', best, train)


def search(
    study: optuna.Study, config: AEConfig, train_set: ImageDataset, folder: Path, device: torch.device
):
    """Trials, in folder one after the other, until the study has config.tune of them."""
    print('trial  held-out loss  seconds  configuration')
    for trial in finished(study):
        print_trial(trial)
    try:
        while len(finished(study)) < config.tune:
            # A seed for each trial: a study that is continued proposes what the undisturbed one would have.
            study.sampler = optuna.samplers.TPESampler(seed=fold(config.seed << 20 | len(finished(study))))
            trial = study.ask()
            chosen = suggest(trial)
            trial.set_user_attr('config', chosen)
            try:
                loss, seconds = held_out_loss(config.replace(**chosen), train_set, folder, device)
            except (NoSuchModel, NotFinite) as error:
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


def print_trial(trial: optuna.trial.FrozenTrial):
    if trial.state.name == 'PRUNED':
        print(f'{trial.number:5d}  {"-":>13s}  {"-":>7s}  {trial.user_attrs["reason"]}')
    else:
        chosen = json.dumps(trial.user_attrs['config'])
        print(f'{trial.number:5d}  {trial.value:13.2f}  {trial.user_attrs["seconds"]:7.1f}  {chosen}')


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """UserError: no trial came to an end."""
    try:
        return study.best_trial
    except ValueError:
        raise UserError(
            f'expected a configuration that can be trained, got none in {len(study.trials)} trials; go on '
            f'with a larger --tune'
        ) from None


def run_again(
    config: AEConfig, run_dir: Path, best: optuna.trial.FrozenTrial, train: Callable[[AEConfig], None]
):
    """A run of the best trial's configuration in run_dir; what is there of another trial's is replaced."""
    settle(run_dir)
    new = run_dir / SUCCESSOR
    folder, begun = new if new.exists() else run_dir, None
    with contextlib.suppress(UserError):
        begun = read_json(folder / 'config.json').get('trial')
    same = begun == best.number
    if not same and folder.exists() and not is_finished(folder):
        shutil.rmtree(folder)
    chosen = best.user_attrs['config']
    train(config.replace(**chosen, trial=best.number, run_dir=run_dir, resume=same, tune=0))
