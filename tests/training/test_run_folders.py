import json
import multiprocessing
import os
import shutil

import pytest

from evaluation.page import CAPTIONS, GAN_CAPTIONS
from training.errors import UserError
from training.run_folders import (
    FILES,
    SUCCESSOR,
    check_collection,
    check_run_dir,
    is_finished,
    lock_folder,
    replace_by_successor,
    settle,
)


def lock_and_wait(folder, pipe):
    with lock_folder(folder):
        pipe.send('locked')
        pipe.recv()


@pytest.fixture
def other(tmp_path):
    """A process that has tmp_path; a message ends it."""
    pipe, end = multiprocessing.Pipe()
    process = multiprocessing.get_context('fork').Process(
        target=lock_and_wait, args=(tmp_path, end), daemon=True
    )
    process.start()
    process.pipe = pipe
    assert pipe.recv() == 'locked'
    yield process
    process.kill()
    process.join()


def make_run(folder, seed):
    """The files of a finished run, all of which say its seed."""
    folder.mkdir()
    for name in ('config.json', 'checkpoint.pt', 'results.json', 'loss.png'):
        (folder / name).write_text(str(seed))
    return folder


def seeds(folder):
    return {path.read_text() for path in folder.iterdir() if path.is_file() and path.name[0] != '.'}


# ------------------------------------------------------------------------------------------------ locks


def test_a_folder_belongs_to_one_process_and_the_other_says_to_which(tmp_path, other):
    with pytest.raises(UserError, match=f'got {tmp_path}, which process {other.pid} on .* has since 20'):
        with lock_folder(tmp_path):
            pass


def test_a_folder_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path):
            pass
    assert os.listdir(tmp_path) == ['.lock']


def test_a_killed_process_has_no_folder(tmp_path, other):
    other.kill()
    other.join()
    with lock_folder(tmp_path):
        pass


def test_a_record_of_the_owner_that_is_broken_does_no_harm(tmp_path, other):
    (tmp_path / '.owner').write_text('[')
    with pytest.raises(UserError, match='which another process has; wait'):
        with lock_folder(tmp_path):
            pass


def test_a_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / '.lock').mkdir()
    with pytest.raises(UserError, match='cannot lock .*: [A-Z]'):
        with lock_folder(tmp_path):
            pass


# ------------------------------------------------------------------------------------------- successors


def test_a_finished_successor_takes_the_place_of_its_run(tmp_path):
    run = make_run(tmp_path / 'run', 1)
    make_run(run / SUCCESSOR, 2)
    (run / 'confusion.png').write_text('1')  # what only the old run had
    settle(run)
    assert seeds(run) == {'2'} and not (run / SUCCESSOR).exists() and not (run / 'confusion.png').exists()


def test_an_unfinished_successor_does_not(tmp_path):
    run = make_run(tmp_path / 'run', 1)
    (make_run(run / SUCCESSOR, 2) / 'results.json').unlink()
    settle(run)
    assert seeds(run) == {'1'} and (run / SUCCESSOR).exists()


def test_files_of_the_user_stay(tmp_path):
    run = make_run(tmp_path / 'run', 1)
    make_run(run / SUCCESSOR, 2)
    mine = 'notes.txt', 'my_figure.png', 'samples_mine.npy'
    for name in mine:
        (run / name).write_text('mine')
    settle(run)
    assert seeds(run) == {'2', 'mine'} and all((run / name).exists() for name in mine)


def test_pictures_of_the_report_are_a_runs_own():
    assert {*CAPTIONS, *GAN_CAPTIONS} <= {*FILES}


@pytest.mark.parametrize(
    'name', ['map.json', 'map.jpg', 'likelihood.png', 'samples_prior.npy', 'confusion.png']
)
def test_nothing_of_the_older_run_stays(tmp_path, name):
    run = make_run(tmp_path / 'run', 1)
    (run / name).write_text('1')
    make_run(run / SUCCESSOR, 2)
    settle(run)
    assert not (run / name).exists()


@pytest.mark.parametrize('moment', range(9))
def test_taking_the_place_can_be_interrupted_anywhere(tmp_path, monkeypatch, moment):
    """Four files are removed and four moved, then a folder is removed: the program is killed before one of
    these, and starts again."""
    run = make_run(tmp_path / 'run', 1)
    make_run(run / SUCCESSOR, 2)
    operations = iter(range(100))

    class Killed(BaseException):
        pass

    def killed_at(operation):
        def run_operation(*args):
            if next(operations) == moment:
                raise Killed
            return operation(*args)

        return run_operation

    with monkeypatch.context() as patch:
        patch.setattr('pathlib.Path.unlink', killed_at(os.unlink))
        patch.setattr('os.replace', killed_at(os.replace))
        patch.setattr('pathlib.Path.rmdir', killed_at(os.rmdir))
        try:
            replace_by_successor(run)
        except Killed:
            # Either run is whole, or the folder says that it is not finished.
            assert not is_finished(run) or moment < 4 or seeds(run) == {'2'}
    replace_by_successor(run)
    assert seeds(run) == {'2'} and not (run / SUCCESSOR).exists()


@pytest.mark.parametrize('name', ['run.new', 'run.replaced', '.successor'])
def test_no_name_makes_another_run_a_successor(tmp_path, name):
    run = make_run(tmp_path / 'run', 1)
    other = make_run(tmp_path / name, 2)
    settle(run)
    assert seeds(run) == {'1'} and seeds(other) == {'2'}


def test_a_folder_of_another_process_is_left_alone(tmp_path, other):
    make_run(tmp_path / SUCCESSOR, 2)
    with pytest.raises(UserError, match='expected a folder that no other process works in'):
        settle(tmp_path)
    assert is_finished(tmp_path / SUCCESSOR)


# ----------------------------------------------------------------------------------------------- places


def test_new_folders_and_those_of_runs_can_be_run_folders(tmp_path):
    run = make_run(tmp_path / 'run', 1)
    (run / 'config.json').unlink()  # the checkpoint tells too
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to(run)
    make_run(shutil.copytree(tmp_path / 'empty', tmp_path / 'replaced') / SUCCESSOR, 2)
    (tmp_path / 'replaced' / 'loss.png').touch()  # the first file to be moved: a program was killed after it
    for name in ('run', 'empty', 'link', 'none', 'none/deeper', 'replaced'):
        check_run_dir(tmp_path / name)


@pytest.mark.parametrize(
    'name, message',
    [
        ('file', 'got .*file, where .*file is a file'),
        ('file/run', 'got .*run, where .*file is a file'),
        ('dangling', 'where .*dangling is a link to nowhere, which does not exist; make that, or remove'),
        ('dangling/run', 'where .*dangling is a link to nowhere'),
        ('notes', 'which holds other things; name another'),
        ('.', 'which holds other things; name another'),
    ],
)
def test_places_that_cannot_be_run_folders(tmp_path, name, message):
    (tmp_path / 'file').touch()
    (tmp_path / 'dangling').symlink_to('nowhere')
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'notes.txt').touch()
    make_run(tmp_path / 'run', 1)
    with pytest.raises(UserError, match='expected --run-dir to be .*' + message):
        check_run_dir(tmp_path / name)


def test_a_collection_holds_nothing_but_its_runs(tmp_path):
    check_collection(tmp_path / 'none', 'd*')
    make_run(tmp_path / 'd02', 1)
    check_collection(tmp_path, 'd*')
    shutil.copytree(tmp_path / 'd02', tmp_path / 'best')
    with pytest.raises(UserError, match='which holds best; name another'):
        check_collection(tmp_path, 'd*')


def test_the_owner_is_recorded(tmp_path):
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / '.owner').read_text())['process'] == os.getpid()
