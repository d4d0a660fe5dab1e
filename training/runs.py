"""Run folders: how a run begins, goes on after an interruption, replaces an older one, and is read again."""

import contextlib
import dataclasses
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from training.checkpoints import (
    load_checkpoint,
    read_json,
    read_metrics,
    remove_shares,
    save_checkpoint,
    write_json,
)
from training.command import pick_device
from training.config import Config, check_same, config_from_dict
from training.data import ImageDataset, default_data_path, load_images
from training.distributed import fail, is_main, launched, main_first
from training.errors import NoSuchModel, UserError
from training.randomness import GRADE, noise_key


def load_data(config: Config) -> tuple[Config, ImageDataset, ImageDataset]:
    """The run's configuration with what is known of its images, its training images, its test images.

    With several processes the main one goes first, and downloads what is missing. UserError: see load_images.
    """

    def load():
        train_set, test_set = load_images(config.data_path, config.dataset, config.n_train, config.n_test)
        return config.with_data(train_set, test_set), train_set, test_set

    return main_first(load)


def build_model(config: Config) -> nn.Module:
    """The model of a configuration, untrained; its weights follow from config.seed.

    NoSuchModel: its networks cannot take or make images of that shape.
    """
    torch.manual_seed(config.seed)
    grade = noise_key(config.seed, GRADE)
    try:
        if config.system == 'gan':
            return models.GAN(config.model, config.latent_dim, config.shape)
        size = config.latent_dim, config.decoder, config.shape
        if config.system == 'ad':
            model = models.AutoDecoder(*size)
        elif config.system == 'vad':
            model = models.VariationalAutoDecoder(config.dist, *size, seed=grade)
        elif config.system == 'ae':
            stack = dict(architecture=config.architecture, dropout=config.dropout)  # of conv3 and its mirror
            model = models.AutoEncoder(config.encoder, *size, **(stack if config.architecture else {}))
        else:
            model = models.VariationalAutoEncoder(config.encoder, config.dist, *size, seed=grade)
    except ValueError as error:
        fail(NoSuchModel(str(error)))
    model.bfloat16 = config.bfloat16
    return model


# ------------------------------------------------------------------------------------- a trained model


@dataclass
class TrainedRun:
    """What training leaves: a model and, if its images have latents, theirs."""

    config: Config
    model: nn.Module  # in eval mode, without gradients
    latents: Tensor | None = None  # [N, K], of the training images
    labels: Tensor | None = None  # int64 [N], of the training images
    warm_start: Tensor | None = None  # [784 + 1, K], from images to latents; of a model without an encoder
    best_epoch: int = 0  # whose weights these are, with early stopping
    frames: Tensor | None = None  # uint8 [F, 64, *shape], a GAN's samples over the epochs


def misfit(error: Exception) -> UserError:
    return UserError(
        f'the checkpoint does not fit this version of the program ({str(error).splitlines()[0]}); '
        f'train the run again'
    )


def load_trained(path: Path, device: torch.device) -> TrainedRun:
    """The final checkpoint in path. UserError: it is none, or does not fit this program's models."""
    state = load_checkpoint(path, device)
    if state.get('stage') != 'trained':
        raise UserError(
            f'expected a finished run in {path.parent}, got the checkpoint of an unfinished one; '
            f'train it again'
        )
    try:
        config = config_from_dict(state['config'])
        with torch.random.fork_rng(devices=[]):  # new weights do not change the caller's random numbers
            model = build_model(config).to(device)
        model.load_state_dict(state['model'])
    except (KeyError, TypeError, ValueError, RuntimeError, UserError) as error:
        raise misfit(error) from None
    others = {field.name for field in dataclasses.fields(TrainedRun)} - {'config', 'model'}
    model.eval().requires_grad_(False)
    return TrainedRun(config, model, **{name: value for name, value in state.items() if name in others})


def load_run(folder: str | Path, device: str | None = None, script: str = 'train_vad.py') -> TrainedRun:
    """The finished run in a folder: its configuration, model, latents.

    device: as --device. script: the one that makes such runs. UserError: there is no finished run.
    """
    folder = Path(folder)
    first = f'first run: python {script} --run-dir {folder}'
    if not folder.is_dir():
        what = 'is a file' if folder.exists() else 'does not exist'
        raise UserError(f'expected a run folder, got {folder}, which {what}; {first}')
    if not is_finished(folder):
        unfinished = (folder / 'checkpoint.pt').exists()
        got = 'an unfinished one; finish it with --resume' if unfinished else f'none; {first}'
        raise UserError(f'expected a finished run in {folder}, got {got}')
    return load_trained(folder / 'checkpoint.pt', pick_device(device))


def find_data(folder: Path, given: str | None) -> str:
    """Where a finished run's data are: `given`, or where it was trained from, or if that is gone
    DATA_PATH."""
    recorded = read_json(folder / 'config.json').get('data_path', 'dataset')
    return given or (recorded if Path(recorded).exists() else os.environ.get('DATA_PATH') or recorded)


# ------------------------------------------------------------------------------------------ run folders


def is_finished(folder: Path) -> bool:
    """results.json is written last."""
    return (Path(folder) / 'results.json').exists()


def replace_folder(new: Path, old: Path):
    """Put the folder `new` in the place of `old`."""
    aside = old.with_name(old.name + '.replaced')
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside, ignore_errors=True)


def successor_of(run_dir: Path) -> Path:
    """The folder in which a successor of run_dir grows, <run_dir>.new.

    A finished one, whose program was killed just before it replaced run_dir, does so now.
    """
    new = run_dir.with_name(run_dir.name + '.new')
    if is_finished(new):
        replace_folder(new, run_dir)
    return new


def choose_folder(run_dir: Path) -> Path:
    """The folder to work in. A finished run stays in its place until its successor is finished too."""
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f'expected --run-dir to be a folder, got the file {run_dir}')
    inside = list(run_dir.iterdir()) if run_dir.exists() else []
    others = any(path.is_dir() and not path.name.startswith('shares-') for path in inside)
    if inside and (not (run_dir / 'config.json').exists() or others):
        raise UserError(
            f'expected --run-dir to be a new folder or that of a run, got {run_dir}, which holds other '
            f'things; name another'
        )
    new = successor_of(run_dir)
    return new if is_finished(run_dir) else run_dir


def choose_collection(folder: Path, *patterns: str):
    """Make the folder of several runs, or go on in it. UserError: something in it matches no pattern."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f'expected --run-dir to be a folder, got the file {folder}')
    inside = folder.iterdir() if folder.exists() else []
    others = [path.name for path in inside if not any(map(path.match, patterns))]
    if others:
        raise UserError(
            f'expected --run-dir to be a new folder or one of the same command, got {folder}, which holds '
            f'{min(others)}; name another'
        )
    folder.mkdir(parents=True, exist_ok=True)


# ------------------------------------------------------------------------------------- a run in progress


@dataclass
class Run:
    """A run that is to be trained, or goes on, or is finished."""

    config: Config
    device: torch.device
    run_dir: Path  # where the run will be when it is finished
    folder: Path  # where it grows
    source: str  # where its images come from
    checkpoint: dict | None = None  # the state to go on from
    is_done: bool = False  # finished already: nothing to resume
    train_seconds: float = 0.0

    def __post_init__(self):
        self.opened = time.perf_counter()
        if self.checkpoint:
            self.train_seconds = sum(line['seconds'] for line in read_metrics(self.folder))

    @property
    def is_trained(self) -> bool:
        """Only the grades and the pictures are missing."""
        return self.checkpoint is not None and self.checkpoint['stage'] == 'trained'

    def save_trained(self, model: nn.Module, **parts: Any):
        """Write the final checkpoint: the weights, and parts of a TrainedRun."""
        if is_main():
            path = self.folder / 'checkpoint.pt'
            head = {'stage': 'trained', 'config': self.config.to_dict(), 'model': model.state_dict()}
            save_checkpoint(path, head | parts)
            remove_shares(path)
        self.train_seconds += time.perf_counter() - self.opened

    def load_trained(self) -> TrainedRun:
        """What save_trained wrote."""
        self.checkpoint = None  # frees what was loaded to resume from
        return load_trained(self.folder / 'checkpoint.pt', self.device)

    def finish(self, results: dict):
        """Write results.json, and put the run in its place."""
        write_json(self.folder / 'results.json', results)  # last: it tells that the run is finished
        if self.folder != self.run_dir:
            replace_folder(self.folder, self.run_dir)


def load_resumable(config: Config, folder: Path, device: torch.device | str = 'cpu') -> dict:
    """The state of the checkpoint in folder. UserError: it is of another configuration."""
    state = load_checkpoint(folder / 'checkpoint.pt', device)
    try:
        saved = config_from_dict(state['config'])
    except (KeyError, TypeError) as error:
        raise misfit(error) from None
    check_same(saved.to_dict(), config.to_dict(), folder)
    return state


def prepare_run(config: Config, device: torch.device, source: str) -> Run:
    """The run of a configuration, its folder made and config.json in it. UserError: see open_run."""
    if config.cuda_graph and (device.type != 'cuda' or config.dropout or config.prune):
        raise UserError(
            f'expected a GPU, and neither --dropout nor --prune, for --cuda-graph, got device {device.type}; '
            f'leave it out'
        )
    run_dir = config.run_dir or Path('runs') / config.name
    run_dir = run_dir if run_dir.name else run_dir.resolve()  # '.' has no name to derive others from
    folder, checkpoint = choose_folder(run_dir), None
    if folder != run_dir and config.resume and not folder.exists():
        load_resumable(config, run_dir)
        if is_main():
            print(f'{run_dir} is finished: nothing to resume')
        return Run(config, device, run_dir, run_dir, source, is_done=True)
    path = folder / 'checkpoint.pt'
    if path.exists():
        if not config.resume:
            raise UserError(
                f'{folder} holds an unfinished run: go on with it by --resume, or delete that folder to '
                f'start afresh'
            )
        checkpoint = load_resumable(config, folder, device)
    elif config.resume and is_main():
        print(f'no checkpoint in {folder} yet: starting from the beginning', file=sys.stderr)
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        place = {'data': source, 'data_path': str(Path(config.data_path or default_data_path()).resolve())}
        write_json(folder / 'config.json', {**config.to_dict(), **place})
    return Run(config, device, run_dir, folder, source, checkpoint)


@contextlib.contextmanager
def open_run(config: Config, device: torch.device, train_set: ImageDataset) -> Iterator[Run]:
    """The run of a configuration: new, or with config.resume the one in its folder, which goes on.

    Ctrl-C inside ends the program and prints the command that goes on. UserError: the folder holds other
    things, or a run that is of another configuration, or unfinished and not to be resumed.
    """
    run = main_first(lambda: prepare_run(config, device, train_set.source))
    try:
        yield run
    except KeyboardInterrupt:
        if not run.folder.exists():  # the run is finished, and in its place
            raise
        if not is_main():
            sys.exit(130)
        has_checkpoint = (run.folder / 'checkpoint.pt').exists()
        saved = 'the checkpoint is saved' if has_checkpoint else 'nothing was trained yet'
        again = shlex.join([*(word for word in sys.argv if word != '--resume'), '--resume'])
        per_node = os.environ.get('LOCAL_WORLD_SIZE')
        launcher = 'python' if launched() == 1 else f'torchrun --nproc-per-node {per_node}'
        print(f'\ninterrupted; {saved}. Go on with: {launcher} {again}', file=sys.stderr)
        sys.exit(130)
