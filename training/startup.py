"""The first seconds of a command, while PyTorch and the others are imported. Only the standard library here.

Importing this file changes something only in a program that is one of this project's commands, not in one
that imports the project.
"""

import atexit
import gc
import os
import signal
import sys
import time
from pathlib import Path

from training import stand_ins

STARTED = time.perf_counter()  # of the program, for total_seconds in results.json
FOLDER = Path(__file__).resolve().parent.parent
NAMES = ('train_ad', 'train_vad', 'train_ae', 'train_vae', 'train_gan', 'evaluate', 'impute', 'explore')
SCRIPTS = {FOLDER / f'{name}.py' for name in NAMES}
MODULES = {
    'experiments.classify',
    'experiments.imputation',
    'experiments.likelihood',
    'experiments.reproduce',
    'experiments.sweep_decoders',
    'benchmarks.gpu',
    'benchmarks.page',
    'benchmarks.peer',
    'benchmarks.step',
    'benchmarks.whole_run',
}  # run by python -m


def is_command() -> bool:
    """Whether the program that runs is one of the project's."""
    if sys.argv[0] == '-m':  # what Python sets while it imports the package of a module that it will run
        return not MODULES.isdisjoint(sys.orig_argv)
    return Path(sys.argv[0]).resolve() in SCRIPTS


def end_at_once(*_):
    """The handler of Ctrl-C until run_command takes over, and again after it: there is nothing to save.

    KeyboardInterrupt would come in the midst of an import, with a traceback of other people's code.
    """
    print('\ninterrupted', file=sys.stderr, flush=True)
    os._exit(130)


if is_command():
    # Idle threads of PyTorch's OpenMP (GNU's) wait in a loop, 300,000 times by default, before they sleep.
    # Where another program has a core, they take the other one from the thread that they wait for: a training
    # step is then ten times slower than with a short loop. On a quiet machine it makes no difference.
    os.environ.setdefault('GOMP_SPINCOUNT', '1000')  # read when PyTorch is imported
    # Python searches for unreachable objects after every few hundred new ones, all of PyTorch's and of other
    # libraries' too: a fifth of the time of importing them. At the end it searches again, for a second.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)  # what is frozen is not searched
    os.environ['MPLBACKEND'] = 'Agg'  # pictures go to files: no window; matplotlib reads it when imported
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, end_at_once)
    # After -- it would be the name of a run.
    if not {'-h', '--help'}.isdisjoint(sys.argv[1:]) and '--' not in sys.argv:
        stand_ins.install()
