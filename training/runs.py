"""Runs: how one begins, goes on after an interruption, ends, and is read again."""

import contextlib
import functools
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from training.checkpoints import load_checkpoint, read_metrics, remove_shares, save_checkpoint
from training.command import pick_device
from training.completion import ProbabilisticPCA
from training.config import Config
from training.data import DATASETS, ImageDataset, default_data_path
from training.distributed import fail, is_main, launched, main_first
from training.errors import NoSuchModel, UserError
from training.files import checksum, read_json, write_json
from training.initialization import decoded_completion, pool
from training.randomness import GRADE, noise_key
from training.regularisation import held_out
from training.run_folders import (
    SUCCESSOR,
    check_run_dir,
    is_finished,
    lock_folder,
    replace_by_successor,
    settle,
)
from training.saved_config import check_same, config_from_dict
from training.schema import TensorOf, check, refuse

HEAD = 'stage', 'config', 'model'  # entries of every final checkpoint; the others are parts of a TrainedRun
CHECKSUM = 'checkpoint_sha256'  # the entry of results.json that says which checkpoint the results are of


def build_model(config: Config, device: torch.device | str | None = None) -> nn.Module:
    """The model of a configuration, untrained; its weights follow from config.seed.

    device: where it is to be; None: on PyTorch's default device.
    NoSuchModel: its networks cannot take or make images of that shape.
    """
    torch.manual_seed(config.seed)
    device = device or torch.get_default_device()  # cpu, or within a `with` another
    grade = noise_key(config.seed, GRADE)
    try:
        if config.system == 'gan':
            return models.GAN(config.model, config.latent_dim, config.shape).to(device)
        size, learned = (config.latent_dim, config.decoder, config.shape), config.prior == 'learned'
        if config.system == 'ad':
            model = models.AutoDecoder(*size)
        elif config.system == 'vad':
            model = models.VariationalAutoDecoder(config.dist, *size, grade, learned)
        elif config.system == 'ae':
            stack = dict(architecture=config.architecture, dropout=config.dropout)  # of conv3 and its mirror
            stack = stack if config.architecture else {}
            model = models.AutoEncoder(config.encoder, *size, masked=config.incomplete, **stack)
        else:
            options = dict(seed=grade, masked=config.incomplete, learned_prior=learned)
            model = models.VariationalAutoEncoder(config.encoder, config.dist, *size, **options)
    except ValueError as error:
        fail(NoSuchModel(str(error)))
    model.bfloat16 = config.bfloat16
    model = model.to(device)
    if model.pixel_bias.is_cuda and any(isinstance(layer, nn.GroupNorm) for layer in model.modules()):
        # On a GPU, group normalisation gives channels first, and a convolution works in the layout of its
        # weights: channels last would be copied to and fro.
        model.to(memory_format=torch.contiguous_format)
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

    @functools.cached_property
    def completion(self) -> ProbabilisticPCA:
        """The linear completion of new images with missing pixels, made once: all training images are
        decoded."""
        return decoded_completion(self.model, self.latents, self.config.obs_std)


def trained_schema(config: Config, model: nn.Module) -> dict:
    """What the final checkpoint of a configuration holds, see schema.check."""
    parts = {'stage': str, 'config': dict, 'model': model.state_dict()}
    if config.system == 'gan':
        return {**parts, 'frames': TensorOf(torch.uint8, (None, None, *config.shape))}
    n = config.n_train - (held_out(config.n_train) if config.patience else 0)
    k = model.latent_size
    parts['latents'] = TensorOf(torch.float32, (n, k))
    n_classes = config.n_classes or len(DATASETS[config.dataset])
    parts['labels'] = TensorOf(torch.int64, (n,), below=n_classes)
    if config.system == 'ae':
        parts['best_epoch'] = range(config.epochs + 1)
    if not model.encoder:
        inputs = pool(torch.zeros(1, *config.shape)).shape[1]
        parts['warm_start'] = TensorOf(torch.float32, (inputs + 1, k))
    return parts


def saved_config(state: dict, path: Path) -> Config:
    """The configuration in the state of the checkpoint in path. UserError: it is not that of a run."""
    config, numbers = config_from_dict(state['config'], path), range(1, 2**63)
    for name in ('n_train', 'n_test'):  # with_data made numbers of them
        check(getattr(config, name), numbers, path, f'config.{name}')
    for size in (len(config.shape), *config.shape):
        check(size, numbers, path, 'config.shape')
    check(config.dataset, str, path, 'config.dataset')
    return config


def load_trained(path: Path, device: torch.device) -> TrainedRun:
    """The final checkpoint in path. UserError: it is none, or not what its configuration makes."""
    state = load_checkpoint(path, device)
    if state['stage'] != 'trained':
        raise UserError(f'expected a trained model in {path}, got an unfinished one; finish it with --resume')
    config = saved_config(state, path)
    try:
        with torch.device('meta'):  # only shapes: a damaged size takes no memory
            expected = trained_schema(config, build_model(config))
    except (UserError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        refuse('a configuration whose model can be built', str(error).splitlines()[0], path)
    check(state, expected, path)
    with torch.random.fork_rng(devices=[]):  # new weights do not change the caller's random numbers
        model = build_model(config, device)
    model.load_state_dict(state['model'])
    model.eval().requires_grad_(False)
    return TrainedRun(config, model, **{name: state[name] for name in expected if name not in HEAD})


def load_run(folder: str | Path, device: str | None = None, script: str = 'train_vad.py') -> TrainedRun:
    """The finished run in a folder: its configuration, model, latents.

    device: as --device. script: the one that makes such runs. UserError: there is no finished run.
    """
    folder = Path(folder)
    first = f'first run: python {script} --run-dir {folder}'
    if not folder.is_dir():
        what = 'is a file' if folder.exists() else 'does not exist'
        raise UserError(f'expected a run folder, got {folder}, which {what}; {first}')
    settle(folder)
    if not (folder / 'checkpoint.pt').exists():
        inside = sorted(path.parent.name for path in folder.glob('*/results.json'))
        hint = f'name one of the runs in it, {inside[0]} say' if inside else first
        raise UserError(f'expected a finished run in {folder}, got none; {hint}')
    return load_trained(folder / 'checkpoint.pt', pick_device(device))


# ------------------------------------------------------------------------------------- a run in progress


@dataclass
class Run:
    """A run that is to be trained, or goes on, or is finished."""

    config: Config
    device: torch.device
    run_dir: Path  # where the run will be when it is finished
    folder: Path  # where it grows: there, or as the successor of a finished one
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

    def found(self, obs_std: float) -> Config:
        """The configuration with the obs_std that training found, which is that of the run from now on."""
        self.config = self.config.replace(obs_std=obs_std)
        if is_main():
            path = self.folder / 'config.json'
            write_json(path, {**read_json(path), 'obs_std': obs_std})
        return self.config

    def save_trained(self, model: nn.Module, **parts: Any):
        """Write the final checkpoint: the weights, and parts of a TrainedRun."""
        if is_main():
            head = {'stage': 'trained', 'config': self.config.to_dict(), 'model': model.state_dict()}
            save_checkpoint(self.folder / 'checkpoint.pt', head | parts)
        self.train_seconds += time.perf_counter() - self.opened

    def load_trained(self) -> TrainedRun:
        """What save_trained wrote."""
        self.checkpoint = None  # frees what was loaded to resume from
        return load_trained(self.folder / 'checkpoint.pt', self.device)

    def finish(self, results: dict):
        """Write results.json, and put the run in its place."""
        path = self.folder / 'checkpoint.pt'
        remove_shares(path)  # here: save_trained does not come again if the program is killed after it
        record = {**results, CHECKSUM: checksum(path)}
        write_json(self.folder / 'results.json', record)  # last: it tells that the run is finished
        replace_by_successor(self.run_dir)  # if this is one


def load_resumable(config: Config, folder: Path, device: torch.device | str = 'cpu') -> tuple[dict, Config]:
    """The state of the checkpoint in folder, and the configuration with the obs_std that training found.
    UserError: it is of another configuration."""
    path = folder / 'checkpoint.pt'
    state = load_checkpoint(path, device)
    saved = saved_config(state, path)
    if saved.learn_obs_std and config.learn_obs_std:  # what training found is no flag
        config = config.replace(obs_std=saved.obs_std)
    check_same(saved.to_dict(), config.to_dict(), folder)
    return state, config


def prepare_run(config: Config, device: torch.device, source: str, run_dir: Path) -> Run:
    """The run of a configuration in run_dir, which belongs to this process, and config.json in it. UserError:
    see open_run."""
    if is_main():
        replace_by_successor(run_dir)  # if a program was killed just before it did
    folder, checkpoint = run_dir / SUCCESSOR if is_finished(run_dir) else run_dir, None
    if folder != run_dir and config.resume and not folder.exists():
        load_resumable(config, run_dir)
        if is_main():
            print(f'{run_dir} is finished: nothing to resume')
        return Run(config, device, run_dir, run_dir, source, is_done=True)
    path = folder / 'checkpoint.pt'
    if os.path.lexists(path):  # also a link to a file that is gone: an error when it is read
        if not config.resume:
            raise UserError(
                f'{folder} holds an unfinished run: go on with it by --resume, or delete that folder to '
                f'start afresh'
            )
        checkpoint, config = load_resumable(config, folder, device)
    elif config.resume and is_main():
        print(f'no checkpoint in {folder} yet: starting from the beginning', file=sys.stderr)
    if is_main():
        folder.mkdir(exist_ok=True)
        place = {'data': source, 'data_path': str(Path(config.data_path or default_data_path()).resolve())}
        write_json(folder / 'config.json', {**config.to_dict(), **place})
    return Run(config, device, run_dir, folder, source, checkpoint)


@contextlib.contextmanager
def open_run(config: Config, device: torch.device, train_set: ImageDataset) -> Iterator[Run]:
    """The run of a configuration: new, or with config.resume the one in its folder, which goes on.

    The folder belongs to this process until the end. Ctrl-C inside ends the program and prints the command
    that goes on. UserError: the folder belongs to another process, holds other things, or a run that is of
    another configuration, or unfinished and not to be resumed.
    """
    run_dir = config.run_dir or Path('runs') / config.name
    with contextlib.ExitStack() as stack:

        def prepare():
            check_run_dir(run_dir)
            if is_main():
                run_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock_folder(run_dir))
            return prepare_run(config, device, train_set.source, run_dir)

        run = main_first(prepare)
        try:
            yield run
        except KeyboardInterrupt:
            if not run.folder.exists():  # the run is finished, and in its place
                raise
            if is_main():
                has_checkpoint = (run.folder / 'checkpoint.pt').exists()
                print_how_to_go_on('the checkpoint is saved' if has_checkpoint else 'nothing was trained yet')
            sys.exit(130)


def print_how_to_go_on(saved: str):
    again = shlex.join([*(word for word in sys.argv if word != '--resume'), '--resume'])
    per_node = os.environ.get('LOCAL_WORLD_SIZE', launched())
    launcher = 'python' if launched() == 1 else f'torchrun --nproc-per-node {per_node}'
    print(f'\ninterrupted; {saved}. Go on with: {launcher} {again}', file=sys.stderr)
