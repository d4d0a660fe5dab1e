"""The loop that all systems share: epochs of steps, a line of metrics and a checkpoint after each, Ctrl-C."""

import json
import signal
import time
from pathlib import Path

from tqdm import tqdm

from training.checkpoints import load_shares, read_metrics, save_shared_checkpoint
from training.distributed import any_process, barrier, fail, is_main, world_size
from training.errors import UserError
from training.files import append_line, write_atomically
from training.trainer import BaseTrainer

CHECK_EVERY = 50  # steps between readings of the loss, each of which synchronises host and GPU
# Seconds, at least, between checkpoints, and so about what a killed run loses. On a GPU an epoch of a
# thousand images takes less time than its checkpoint.
SAVE_EVERY = 5


class InterruptFlag:
    """While active, Ctrl-C sets a flag: the step in progress ends whole. A second Ctrl-C interrupts."""

    def __enter__(self):
        self.raised = False
        self.previous = signal.signal(signal.SIGINT, self.on_signal)
        return self

    def on_signal(self, *_):
        self.raised = True
        if world_size() == 1:  # with torchrun the terminal's Ctrl-C comes twice: it passes it on
            signal.signal(signal.SIGINT, self.previous)

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self.previous)


def fit(trainer: BaseTrainer, folder: Path, checkpoint: dict | None = None):
    """Take steps until the trainer is done. After every epoch write a line of folder/metrics.jsonl, and
    folder/checkpoint.pt if the last one is SAVE_EVERY seconds old.

    checkpoint: the state to go on from. On Ctrl-C the step in progress ends, a checkpoint is written, and
    KeyboardInterrupt is raised. NotFinite: the loss was not finite; the last checkpoint is left as it is.
    """
    started = saved = time.perf_counter()
    images, config = trainer.images, trainer.config
    metrics_path, checkpoint_path = folder / 'metrics.jsonl', folder / 'checkpoint.pt'
    metrics = []
    if checkpoint:
        try:
            trainer.load_state_dict(checkpoint, checkpoint_path)
            if 'shares' in checkpoint:
                load_shares(checkpoint_path, checkpoint['shares'], trainer.shares(), images)
        except UserError as error:
            fail(error)
        # A run killed between the two writes left a line for an epoch that comes again.
        done = trainer.step_number // trainer.steps_per_epoch
        metrics = [line for line in read_metrics(folder) if line['epoch'] <= done]
    if is_main():
        lines = ''.join(json.dumps(line) + '\n' for line in metrics)
        write_atomically(metrics_path, lambda path: path.write_text(lines))
    barrier()  # where the others end, without a message, if the main process could not write
    trainer.model.train()
    bar = tqdm(
        total=trainer.total_steps,
        initial=trainer.step_number,
        desc='training',
        disable=None if is_main() else True,
        leave=False,
        unit='step',
    )
    # Reading the loss synchronises host and GPU: within an epoch only if somebody sees it, or processes
    # agree.
    reads_loss = images.device.type == 'cpu' or world_size() > 1 or not bar.disable
    with bar as progress, InterruptFlag() as interrupt:
        while not trainer.done():
            epoch, position = divmod(trainer.step_number, trainer.steps_per_epoch)
            for index, batch_size in images.epoch(config.seed, epoch, config.batch_size)[position:]:
                trainer.step(index, batch_size)
                progress.update()
                check = reads_loss and trainer.step_number % CHECK_EVERY == 0
                if check:
                    text = trainer.describe(trainer.check_finite())
                    progress.set_postfix_str(f'epoch {epoch + 1}, {text}')
                stop = interrupt.raised
                if world_size() > 1:  # all processes stop at the same step, one at which they check
                    stop = check and any_process(stop)
                if stop:
                    break
            means = trainer.check_finite()
            if trainer.step_number % trainer.steps_per_epoch == 0:
                stop = any_process(interrupt.raised)
                line = trainer.end_epoch(epoch + 1, means)
                line['seconds'] = round(time.perf_counter() - started, 3)
                if is_main():
                    append_line(metrics_path, json.dumps(line))
                barrier()
                started = time.perf_counter()
            if any_process(stop or trainer.done() or time.perf_counter() - saved > SAVE_EVERY):
                trainer.check_weights(index)  # on the last batch
                state = {'stage': 'training', 'config': config.to_dict(), **trainer.state_dict()}
                save_shared_checkpoint(checkpoint_path, state, images.total)
                saved = time.perf_counter()
            if stop:
                raise KeyboardInterrupt
    trainer.finish()
