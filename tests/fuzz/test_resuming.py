"""Unfinished runs with one thing broken: each ends as the whole one does, or is refused in one line, and its
files stay as they are."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import train_vad
from training.batches import Images
from training.checkpoints import save_checkpoint
from training.data import ImageDataset
from training.errors import UserError
from training.loop import fit
from training.runs import build_model, load_resumable
from training.systems import AEConfig, VADConfig
from training.trainer import Trainer

COMMANDS = settings(max_examples=settings().max_examples // 10)
SMALL = dict(latent_dim=4, epochs=3, batch_size=128, decoder='mlp')
UNFINISHED = {
    'VAD': VADConfig(dist='laplace', prior='learned', **SMALL),
    'AE': AEConfig(encoder='mlp', patience=2, prune=0.5, **SMALL),
}


@pytest.fixture(scope='module', params=UNFINISHED)
def unfinished(request, digits):
    """unfinished(): a configuration, the state of its checkpoint after two epochs of three, a new Trainer."""
    train_set, test_set = (ImageDataset(x.X[:, ::4, ::4], x.y, 'digits') for x in digits)  # smaller, quicker
    config = UNFINISHED[request.param].with_data(train_set, test_set)

    def make_trainer():
        model, images = build_model(config), Images(train_set, 'cpu')
        latents = None if model.encoder else torch.zeros(len(images), 8)
        return Trainer(model, images, config, latents, Images(test_set, 'cpu') if model.encoder else None)

    trainer = make_trainer()
    for epoch in range(2):
        for index, size in trainer.images.epoch(config.seed, epoch, config.batch_size):
            trainer.step(index, size)
        trainer.end_epoch(epoch + 1, trainer.check_finite())
    state = {'stage': 'training', 'config': config.to_dict(), **trainer.state_dict()}
    return lambda: (config, state, make_trainer())  # a function: hypothesis would print the state


@given(data=st.data())
def test_what_training_goes_on_from_can_be_trained_to_the_end(unfinished, empty_folder, change_state, data):
    config, state, trainer = unfinished()
    folder = empty_folder()
    path = folder / 'checkpoint.pt'
    save_checkpoint(path, change_state(data, state))
    before = path.read_bytes()
    try:
        fit(trainer, folder, load_resumable(config, folder)[0])
    except UserError as error:
        assert '\n' not in str(error) and path.read_bytes() == before
    else:
        assert trainer.done()


@pytest.fixture
def resume(command, csv_dir, monkeypatch):
    """resume(folder, *flags) -> status, standard output, standard error of a small run without pictures."""
    for name in ('Sampler', 'draw_pictures', 'draw_losses', 'finish_run'):
        monkeypatch.setattr(train_vad, name, lambda *_: None)
    monkeypatch.setattr(train_vad, 'infer_latents', lambda *_: (None, 0))
    monkeypatch.setattr(train_vad, 'evaluate', lambda *_: {})
    flags = ['--data-path', csv_dir, '--epochs', 2, '--latent-dim', 4, '--decoder', 'mlp', '--device', 'cpu']
    return lambda folder, *others: command(train_vad, '--run-dir', folder, *flags, *others)


@COMMANDS
@given(data=st.data())
def test_a_broken_run_is_resumed_as_the_whole_one_or_not_at_all(
    resume, tmp_path, copy_run, break_run_file, stop_at, ctrl_c, contents, refused_in_one_line, data
):
    if not (tmp_path / 'whole').exists():  # in the first example
        undo = stop_at(4, ctrl_c)
        assert resume(tmp_path / 'unfinished')[0] == 130
        undo()
        shutil.copytree(tmp_path / 'unfinished', tmp_path / 'whole')
        assert resume(tmp_path / 'whole', '--resume')[0] == 0
    folder = copy_run(tmp_path / 'unfinished')
    break_run_file(data, folder / data.draw(st.sampled_from(sorted(contents(folder))), 'file'))
    before = contents(folder)
    status, _, err = resume(folder, '--resume')
    after = contents(folder)
    if status:
        assert refused_in_one_line(status, err), err
        after['config.json'] = before.get('config.json')
        assert {name: after[name] for name in after if after[name]} == before
    else:
        assert after['checkpoint.pt'] == (tmp_path / 'whole' / 'checkpoint.pt').read_bytes()
