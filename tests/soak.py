"""A soak test: runs are killed and their disks filled at random moments, and nothing may be lost.

Usage, on Linux (pytest does not collect this file):
    python -m tests.soak --data-path DIR            100 kills and 30 full disks, in about a quarter of an hour
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from signal import SIG_BLOCK, SIG_UNBLOCK, SIGINT, SIGKILL, SIGTERM, pthread_sigmask

os.environ['OMP_NUM_THREADS'] = '1'  # before torch is imported: a process with OpenMP threads cannot fork

# The commands import these three late: imported here, they are in every fork.
import sklearn.manifold  # noqa: F401
import sklearn.mixture  # noqa: F401
import torchmetrics.image.fid  # noqa: F401

import evaluate
import train_ae
import train_vad
from evaluation import frechet
from experiments import classify
from training import SUCCESSOR, UserError, data_path_flag, flag, load_run, loop, parse_flags, run_command
from training.command import seed
from training.data import default_data_path
from training.run_folders import is_finished

SMALL = '--n-train 200 --n-test 100 --decoder mlp --latent-dim 8 --epochs 6 --device cpu'.split()
AE = [*SMALL, '--encoder', 'mlp', '--patience', '3', '--prune', '0.3']
COMMANDS = {'vad': (train_vad, SMALL), 'ae': (train_ae, AE)}
COMMANDS |= {'evaluate': (evaluate, ['--samples', '50']), 'classify': (classify, [])}  # of a finished AE
# What a command does when its disk becomes full; a training run does all but the last two.
PHASES = ('.lock', 'config.json', 'metrics.jsonl', 'checkpoint.pt', 'final checkpoint', 'picture')
PHASES += ('report.html', 'results.json', 'replacing', 'evaluate', 'classify')


@dataclass(frozen=True, kw_only=True)
class Options:
    """Kill runs and fill their disks at random moments, and check that they end as undisturbed ones."""

    data_path: str | None = data_path_flag('the environment variable DATA_PATH, or dataset')
    kills: int = flag(100, 'kills', int, metavar='N')
    disks: int = flag(30, 'full disks: small ones are mounted, which only root can', int, metavar='N')
    seed: int | None = flag(None, 'of the random moments (default: another each time)', seed)


def child(name, arguments, folder, before_change, err):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1), os.dup2(err, 2)
    sys.stdout, sys.stderr = (open(i, 'w', buffering=1, closefd=False) for i in (1, 2))
    module, flags = COMMANDS[name]
    sys.argv = [module.__file__, *map(str, [*arguments, *flags])]
    times = Counter()

    def hook(event, args):  # Python calls it before everything that it asks of the system
        writes = event == 'open' and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ('os.rename', 'os.remove', 'os.rmdir')) and str(folder) in str(args[0]):
            change = event, os.path.relpath(args[0], folder)
            times[change] += 1
            before_change((*change, times[change]))

    def main():  # Ctrl-C comes neither before run_command expects it nor when the command has ended
        pthread_sigmask(SIG_UNBLOCK, [SIGINT])
        module.main()
        pthread_sigmask(SIG_BLOCK, [SIGINT])

    loop.SAVE_EVERY = 0  # seconds: each epoch leaves a checkpoint, so that there is one to lose
    sys.addaudithook(hook)
    run_command(main)


def run(name, arguments, folder, before_change=lambda _: None, kill=None) -> tuple[int, str]:
    """Exit status and standard error of a command, in a fork of this process: it has imported everything.

    before_change(change): called there before each change of a file in the folder: (Python's audit event,
    path, how many times so far). kill: a signal, and how many seconds after the start it is sent.
    """
    with tempfile.TemporaryFile('w+') as err:
        given = name, arguments, folder, before_change, err.fileno()
        process = multiprocessing.get_context('fork').Process(target=child, args=given, daemon=True)
        pthread_sigmask(SIG_BLOCK, [SIGINT])
        process.start()
        pthread_sigmask(SIG_UNBLOCK, [SIGINT])
        if kill:
            process.join(kill[1])
            if process.is_alive():
                os.kill(process.pid, kill[0])
        process.join()
        err.seek(0)
        return process.exitcode, err.read()


def fill(disk: Path, free: int):
    """Leave about that many bytes free, in whole pages."""
    stat = os.statvfs(disk)
    with open(disk / 'filler', 'wb') as file:
        os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_bsize - free)


def phase(change: tuple[str, str, int], changes: list) -> str:
    event, path, times = change
    name = Path(path).name.removeprefix('.new-')
    if event != 'open':
        return 'finishing a file' if '.new-' in path else 'replacing'
    if name == 'checkpoint.pt' and (event, path, times + 1) not in changes:
        return 'final checkpoint'
    return 'picture' if name.endswith(('.png', '.gif')) else name


def contents(folder: Path) -> dict:
    """The files of a finished run, without times. KeyError: one is missing."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != '.'}
    files['report.html'] = len(files['report.html']) > 0  # it shows times
    for name in ('results.json', 'metrics.jsonl'):
        values = json.loads('[' + files[name].decode().strip().replace('}\n{', '},{') + ']')
        files[name] = [{key: x for key, x in each.items() if 'seconds' not in key} for each in values]
    return files


class Soak:
    """Undisturbed commands, and disturbed ones that must end like them."""

    def __init__(self, options: Options, place: Path):
        self.data = ['--data-path', options.data_path or default_data_path()]
        self.place, self.moments = place, random.Random(options.seed)
        self.counts, self.faults, self.seconds, self.changes = Counter(), 0, {}, {}
        training = itertools.product(('vad', 'ae'), ('old', 'new', 'replacing'))
        for name, kind in (*training, ('evaluate', 'new'), ('classify', 'new')):
            folder, changes = place / name / kind, multiprocessing.SimpleQueue()
            started, arguments = time.time(), self.begin(name, kind, folder)
            status, err = run(name, arguments, folder, changes.put)
            assert status == 0 and not err, err
            self.seconds[name, kind] = time.time() - started
            self.changes[name, kind] = [changes.get() for _ in iter(changes.empty, True)]

    def begin(self, name: str, kind: str, folder: Path) -> list:
        """The arguments of a command, and in folder what is there before it: if it is replacing an old run,
        that."""
        shutil.rmtree(folder, ignore_errors=True)
        if name in ('evaluate', 'classify'):
            shutil.copytree(self.place / 'ae' / 'new', folder)
            return [folder, *(['--json', folder / 'grades.json'] if name == 'evaluate' else [])]
        if kind == 'replacing':
            shutil.copytree(self.place / name / 'old', folder)
        return [*self.data, '--run-dir', folder, '--seed', '0' if kind == 'old' else '1']

    def state(self, system: str, folder: Path) -> str:
        """Which finished run folder holds."""
        copy = self.place / 'copy'  # the next command is to find the folder as it is
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        being_replaced = is_finished(copy / SUCCESSOR)
        try:
            load_run(copy)
            found = contents(copy)
        except (UserError, KeyError) as error:
            return f'damaged: {error}' if is_finished(copy) else 'none'
        for run in ('old', 'new'):
            if contents(self.place / system / run).items() <= found.items():
                return 'new, which was taking its place' if being_replaced else run
        return 'neither'

    def check(self, right: bool, what: str):
        if not right:
            self.faults += 1
            print(f'FAULT: {what}', flush=True)

    def check_stopped(self, system: str, kind: str, folder: Path, after: str):
        state = self.state(system, folder)
        right = state.startswith(('new', 'old' if kind == 'replacing' else 'none'))
        self.check(right, f'{after}: {state}')
        self.counts[f'{kind} run stopped, the finished run there: {state}'] += 1

    def check_end(self, system: str, folder: Path, after: str):
        hidden = {path.name for path in folder.iterdir() if path.name[0] == '.'}
        found = self.state(system, folder), hidden, run('evaluate', [folder], folder)
        self.check(found == ('new', {'.lock'}, (0, '')), f'{after}: run, hidden files, evaluate.py: {found}')

    def go_on(self, name: str, kind: str, folder: Path, arguments: list, **how) -> tuple[int, str]:
        """The command again; with --resume, unless nothing of the new run is there yet."""
        begun = kind == 'new' or any(folder.glob(f'{SUCCESSOR}/*')) or self.state(name, folder) == 'new'
        resume = ['--resume'] if begun and name in ('vad', 'ae') else []
        return run(name, [*arguments, *resume], folder, **how)

    def kill_until_it_ends(self, most: int) -> int:
        """Kill a run, at most so many times, until it ends by itself. Returns how often it was killed."""
        choice, folder = self.moments.choice, self.place / 'killed'
        system, kind = choice(['vad', 'ae']), choice(['new', 'replacing'])
        arguments, changes = self.begin(system, kind, folder), self.changes[system, kind]
        for kills in range(most + 1):
            signal = choice([SIGKILL, SIGKILL, SIGKILL, SIGINT, SIGTERM])
            file = choice(sorted({change[:2] for change in changes}))  # each as likely as checkpoint.pt
            at = choice([change for change in changes if change[:2] == file])
            how = {'before_change': lambda change: change == at and os.kill(os.getpid(), signal)}
            if choice([True, False]):
                at = self.moments.uniform(0, self.seconds[system, kind])
                how = {'kill': (signal, at)}
            status, err = self.go_on(system, kind, folder, arguments, **(how if kills < most else {}))
            after = f'{system}, {kind}, start {kills + 1}, {signal.name} at {at}'
            if status == 0:
                self.check_end(system, folder, after)
                self.counts[f'{system}, {kind} run ended by itself'] += 1
                return kills
            right = status in (-SIGKILL, -SIGTERM, 130) and 'Traceback' not in err
            self.check(right, f'{after}: exit status {status}, {err}')
            self.check_stopped(system, kind, folder, after)
            if not right:
                return kills + 1
            self.counts[f'{signal.name} {"after seconds" if "kill" in how else "before a change"}'] += 1

    def fill_the_disk(self, when: str, disk: Path):
        """A disk that becomes full is said to be full; with room again the command ends well."""
        name, kind = self.moments.choice(['vad', 'ae']), self.moments.choice(['new', 'replacing'])
        name, kind = (
            (when, 'new') if when in COMMANDS else (name, 'replacing' if when == 'replacing' else kind)
        )
        folder, system = disk / 'run', name if name == 'vad' else 'ae'
        arguments, changes = self.begin(name, kind, folder), self.changes[name, kind]
        at = self.moments.choice([c for c in changes if when in (name, phase(c, changes))])
        free = int(10 ** self.moments.uniform(3, 7))
        status, err = run(name, arguments, folder, lambda change: change == at and fill(disk, free))
        (disk / 'filler').unlink()
        after = f'{name}, {kind}, full disk at {at}, {free} bytes free'
        said = err.startswith('error: cannot ') and f' {disk}' in err and 'the disk is full' in err
        right = status == 2 and said and err.count('\n') == 1 or status == 0 and not err
        self.check(right, f'{after}: exit status {status}, {err}')
        self.counts[f'full disk, {when}: {"said" if status else "enough room"}'] += 1
        self.check_stopped(system, kind, folder, after)
        status, err = self.go_on(name, kind, folder, arguments)
        self.check(status == 0, f'{after}, then with room: exit status {status}, {err}')
        self.check_end(system, folder, after)


def main():
    options = parse_flags(Options)
    if options.seed is None:
        options = dataclasses.replace(options, seed=random.randrange(10**6))
    print(f'--seed {options.seed}', flush=True)
    frechet.STEPS, frechet.SAMPLES = 3, 100  # Frechet distances take a moment, and mean nothing
    with tempfile.TemporaryDirectory() as place:
        soak, disk, kills, disks = Soak(options, Path(place)), Path(place) / 'disk', 0, 0
        while kills < options.kills:
            kills += soak.kill_until_it_ends(min(6, options.kills - kills))
        disk.mkdir()
        for when in itertools.islice(itertools.cycle(PHASES), options.disks):
            if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', disk]).returncode:
                print('no full disks: a small disk cannot be mounted here')
                break
            try:
                soak.fill_the_disk(when, disk)
            finally:
                subprocess.run(['umount', disk], check=True)
            disks += 1
    for what, count in sorted(soak.counts.items()):
        print(f'{count:4d}  {what}')
    lost = f'{soak.faults} faults, see above' if soak.faults else 'nothing lost'
    print(f'{kills} kills, {disks} full disks: {lost} (--seed {options.seed})')
    sys.exit(bool(soak.faults))


if __name__ == '__main__':
    main()
