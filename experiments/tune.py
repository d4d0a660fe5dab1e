"""A search for an auto-encoder's architecture and training, by Optuna (Akiba et al., 2019): train_ae.py
--tune.

The space is that of the AE report, widened to hold the default configuration, which is tried first. A
configuration is judged by the loss of held-out training images, never by test images. A trial ends early when
it is worse than half of the trials before it were in the same epoch.
"""

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import networks
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

SEARCHED = ('architecture', 'latent_dim', 'lr', 'weight_decay', 'batch_size')
PRUNE_AFTER = 0.2  # of the epochs: in the first ones the learning rate rises, and losses do not compare
RANDOM_TRIALS = 4  # after which new trials resemble the best ones
MOST_COST = 4  # times the multiplications of the default architecture: others would take too long


def suggest(trial: optuna.Trial) -> dict:
    """A configuration from the space: values for SEARCHED."""
    convolutions = []
    for j in range(1, trial.suggest_int('convolutions', 2, 4) + 1):
        kernel = trial.suggest_int(f'kernel{j}', 2, 6)
        convolutions.append(
            {
                'channels': trial.suggest_int(f'channels{j}', 4, 16 * 2**j),
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
    }


def as_suggested(chosen: dict) -> dict:
    """What a trial would have to suggest for that configuration: the inverse of `suggest`."""
    convolutions, linear = chosen['architecture']['convolutions'], chosen['architecture']['linear']
    params = {name: chosen[name] for name in ('latent_dim', 'lr', 'batch_size')}
    params |= {'convolutions': len(convolutions), 'linears': len(linear)}
    params['weight_decay'] = max(chosen['weight_decay'], 1e-7)  # the space has a logarithm of it
    for j, layer in enumerate(convolutions, 1):
        params |= {f'{name}{j}': value for name, value in layer.items()}
    return params | {f'linear{j}': width for j, width in enumerate(linear, 1)}


def multiplications(architecture: dict, shape: tuple[int, ...]) -> int:
    """Of an encoder for images of that shape, an image. ValueError: see networks.map_sizes."""
    sizes, total = networks.map_sizes(architecture, shape), 0
    for (c_in, *_), size, layer in zip(sizes, sizes[1:], architecture['convolutions']):
        total += c_in * layer['kernel'] ** 2 * math.prod(size)
    widths = [math.prod(sizes[-1]), *architecture['linear']]
    return total + sum(a * b for a, b in zip(widths, widths[1:]))


def check_cost(architecture: dict, shape: tuple[int, ...]):
    """NoSuchModel: the architecture takes too long, or does not fit the images."""
    try:
        factor = multiplications(architecture, shape) / multiplications(networks.ARCHITECTURE, shape)
    except ValueError as error:
        raise NoSuchModel(str(error)) from None
    if factor > MOST_COST:
        raise NoSuchModel(
            f'expected at most {MOST_COST} times the multiplications of the default, got {factor:.0f} times'
        )


class TrialTrainer(Trainer):
    """A trainer that tells the trial the loss of the held-out images after each epoch, and may be stopped by
    it."""

    trial = None

    def end_epoch(self, epoch: int, means: list[float]) -> dict[str, float]:
        line = super().end_epoch(epoch, means)
        self.trial.report(line['validation_loss'], epoch)
        if epoch < self.config.epochs and self.trial.should_prune():
            raise optuna.TrialPruned(f'stopped after epoch {epoch}, loss {line["validation_loss"]:.2f}')
        return line


def held_out_loss(
    trial: optuna.Trial, config: AEConfig, train_set: ImageDataset, folder: Path, device: torch.device
) -> tuple[float, float]:
    """Train a configuration; the loss of the held-out images in nats, after the last epoch or with --patience
    at the best one, and the seconds of training.

    NoSuchModel: the architecture does not fit the images, or takes too long. NotFinite: training diverged.
    optuna.TrialPruned: it was stopped, being worse than others.
    """
    check_cost(config.architecture, train_set.shape)
    model = build_model(config, device)
    shutil.rmtree(folder, ignore_errors=True)  # of a trial that was interrupted
    folder.mkdir()
    part, held_out = hold_out(train_set)
    try:
        trainer = TrialTrainer(model, Images(part, device), config, validation=Images(held_out, device))
        trainer.trial = trial
        fit(trainer, folder)
        metrics = read_metrics(folder)
        loss = trainer.early_stopping.best['loss'] if config.patience else metrics[-1]['validation_loss']
        return loss, sum(line['seconds'] for line in metrics)
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
    pruner = optuna.pruners.MedianPruner(1, n_warmup_steps=max(1, int(PRUNE_AFTER * config.epochs)))
    study = optuna.create_study(storage=storage, study_name='tune', pruner=pruner, load_if_exists=True)
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
    default = {name: getattr(config, name) for name in SEARCHED}
    try:
        while len(finished(study)) < config.tune:
            # A seed for each trial: a study that is continued proposes what the undisturbed one would have.
            study.sampler = optuna.samplers.TPESampler(
                seed=fold(config.seed << 20 | len(finished(study))), n_startup_trials=RANDOM_TRIALS
            )
            chosen = None
            if not any(trial.user_attrs['config'] == default for trial in finished(study)):
                if not any(trial.state.name == 'WAITING' for trial in study.trials):
                    study.enqueue_trial(as_suggested(default))
                chosen = default
            trial = study.ask()
            suggested = suggest(trial)
            chosen = chosen or suggested
            trial.set_user_attr('config', chosen)
            try:
                replaced = config.replace(**chosen)
                loss, seconds = held_out_loss(trial, replaced, train_set, folder, device)
            except (NoSuchModel, NotFinite, optuna.TrialPruned) as error:
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
