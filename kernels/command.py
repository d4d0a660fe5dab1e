"""What the commands of this folder need: Ctrl-C or an error of the operating system is one line.

The rest of the project has training/startup.py and training/command.py for this; this folder works without
them. Only the standard library here: `kernels` imports this file before PyTorch.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

COMMANDS = {'kernels.benchmark', 'kernels.compiled'}


def end_at_once(*_):
    """The handler of Ctrl-C until run_command takes over.

    KeyboardInterrupt would come in the midst of an import, with a traceback of other people's code.
    """
    print('\ninterrupted', file=sys.stderr, flush=True)
    os._exit(130)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of a file. The error of a full disk does not name the file by itself."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def run_command(main: Callable[[], None]):
    """Run main(). What the user can mend is one line on standard error, and exit status 2."""
    try:
        if signal.getsignal(signal.SIGINT) == end_at_once:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
        print(end='', flush=True)  # here, where an error is one line
    except KeyboardInterrupt:
        end_at_once()
    except OSError as error:
        # A broken pipe: whoever read standard output, `head` say, has seen enough.
        if not isinstance(error, BrokenPipeError):
            place = f'cannot use {error.filename}: ' if error.filename else ''
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = 'the disk is full; make room' if full else error.strerror
            print(f'error: {place}{reason}', file=sys.stderr, flush=True)
        os._exit(2)  # sys.exit would write the rest of the output, which would fail again, with a traceback


# Only in these commands, not in a program that imports kernels: sys.argv[0] is '-m' while Python imports the
# package of the module that it is to run.
if sys.argv[0] == '-m' and not COMMANDS.isdisjoint(sys.orig_argv):
    os.environ['MPLBACKEND'] = 'Agg'  # the plot goes to a file: no window; matplotlib reads it when imported
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, end_at_once)
