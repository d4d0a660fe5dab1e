"""Our VAE and VAD beside the VAE of pythae, a library of VAEs (Chadebec et al., "Pythae", 2022).

Usage:
    pip install pythae
    python -m benchmarks.peer

Same images, same number of latent dimensions, our encoder and decoder in all. pythae's VAE is run as it comes
and as its BetaVAE, whose loss |x - decode(z)|^2 / 2 + beta KL with beta = obs_std^2 is ours, by the best of a
few learning rates.
"""

import contextlib
import datetime
import importlib.util
import io
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import exit_on_sigterm
from benchmarks.whole_run import time_run
from evaluation import BATCH_SIZE, reconstruction_loss
from experiments.scripts import markdown_table
from networks import DECODERS, ENCODERS
from training import (
    ImageDataset,
    UserError,
    data_path_flag,
    flag,
    load_images,
    parse_flags,
    run_command,
    whole_number,
    write_json,
)
from training.command import seed
from training.config import DEFAULTS

LATENT_DIM, OBS_STD = (DEFAULTS['complete'][name] for name in ('latent_dim', 'obs_std'))
RATES = 1e-4, 1e-3, 4e-3  # learning rates: pythae's default, the usual one, our decoder's


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train pythae's VAE, our VAE and our VAD on the same images, and compare time and quality."""

    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    epochs: int = flag(100, "of pythae's VAE, whose own default it is", whole_number, metavar='E')
    seed: int = flag(0, 'of all trainings (default: 0)', seed)
    dir: Path = flag(Path('runs/peer'), 'where peer.json goes', Path, metavar='DIR')


def build_peer(shape: tuple[int, ...], beta: float) -> nn.Module:
    """pythae's BetaVAE, which with beta = 1 is its VAE, with our encoder and decoder."""
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.network = ENCODERS['conv'](2 * LATENT_DIM, shape)

        def forward(self, x: Tensor) -> ModelOutput:
            mean, log_variance = self.network(x).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.network = DECODERS['groupnorm'](LATENT_DIM, shape)

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    config = BetaVAEConfig(input_dim=shape, latent_dim=LATENT_DIM, beta=beta)
    return BetaVAE(config, Encoder(), Decoder())


def train_peer(images: ImageDataset, options: Options, beta: float, rate: float) -> tuple[nn.Module, float]:
    """The trained model, and the seconds that it took."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    torch.manual_seed(options.seed)
    model = build_peer(images.shape, beta)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # a bar an epoch
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=options.epochs,
            learning_rate=rate,
            per_device_train_batch_size=BATCH_SIZE,
            seed=options.seed,
            no_cuda=True,
        )
        trainer = BaseTrainer(model, BaseDataset(images.X / 255, images.y), training_config=config)
        started = time.perf_counter()
        trainer.train()
        return model.eval(), time.perf_counter() - started


@torch.no_grad()
def grade_peer(model: nn.Module, images: ImageDataset) -> dict[str, float]:
    """The course's loss, and the negative ELBO for OBS_STD, of one sample an image."""
    torch.manual_seed(0)
    losses, elbos = [], []
    for x in images.X.split(BATCH_SIZE):  # [B, 28, 28] in 0-255
        code = model.encoder(x / 255)
        mean, log_variance = code.embedding, code.log_covariance  # [B, D]
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        decoded = model.decoder(z).reconstruction  # [B, 28, 28] in 0-1
        losses.append(reconstruction_loss(x, 255 * decoded))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        error = (x / 255 - decoded).flatten(1).square().sum(1)
        elbos.append(error / (2 * OBS_STD**2) + kl)
    return {'test_loss': float(torch.stack(losses).mean()), 'negative_elbo': float(torch.cat(elbos).mean())}


def our_run(script: str, options: Options) -> dict[str, float]:
    flags = ['--seed', str(options.seed), '--device', 'cpu']
    flags += ['--data-path', options.data_path] if options.data_path else []
    with tempfile.TemporaryDirectory() as folder:
        results, _ = time_run(script, flags, Path(folder) / 'run')
    return {
        'seconds': results['train_seconds'] + results['test_seconds'],
        'test_loss': results['test_loss'],
        'negative_elbo': results['test_negative_elbo'],
    }


def main():
    options = parse_flags(Options)
    exit_on_sigterm()
    if importlib.util.find_spec('pythae') is None:
        raise UserError('expected the package pythae, got none; install it by pip install pythae')
    logging.disable(logging.INFO)  # pythae reports each epoch
    options.dir.mkdir(parents=True, exist_ok=True)
    train_set, test_set = load_images(options.data_path)
    rows = {}

    def keep(name: str, row: dict):
        """Print a row, and write those that are there: an interrupted benchmark keeps them."""
        rows[name] = row
        print(f'{name}: {row["seconds"]:.1f} s, test loss {row["test_loss"]:.4f}', flush=True)
        content = {'date': datetime.date.today().isoformat(), 'torch': torch.__version__, 'rows': rows}
        content |= {'threads': torch.get_num_threads(), 'data': train_set.source, 'seed': options.seed}
        write_json(options.dir / 'peer.json', content)

    for name, beta in (('pythae, its VAE', 1.0), ('pythae, beta = obs_std^2', OBS_STD**2)):
        for rate in RATES:
            model, seconds = train_peer(train_set, options, beta, rate)
            keep(f'{name}, lr {rate:g}', {'seconds': seconds} | grade_peer(model, test_set))
    for script in ('train_vae.py', 'train_vad.py'):
        keep(script, our_run(script, options))
    columns = ['', 'seconds', 'test loss', 'negative ELBO']
    cells = [
        [name, f'{row["seconds"]:.1f}', f'{row["test_loss"]:.4f}', f'{row["negative_elbo"]:.1f}']
        for name, row in rows.items()
    ]
    print(f'\n{markdown_table(columns, cells)}')


if __name__ == '__main__':
    run_command(main)
