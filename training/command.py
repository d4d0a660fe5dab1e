"""What every command needs: flags from a dataclass, errors in one line, memory, the device."""

import argparse
import ctypes
import dataclasses
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from training.errors import UserError
from training.files import describe_failure

# ------------------------------------------------------------------------------------ types of values


def whole_number(text: str) -> int:
    value = int(text)
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f'expected a whole number from 1 to 2^31 - 1, got {text}')
    return value


def number(low: float, high: float, allowed: str, with_low: bool = True) -> Callable[[str], float]:
    """The type of numbers from low (with it or without it) to below high."""

    def parse(text):
        value = float(text)
        if not low <= value < high or value == low and not with_low:
            raise argparse.ArgumentTypeError(f'expected a number {allowed}, got {text}')
        return value

    parse.__name__ = 'number'
    return parse


positive = number(0, 1e18, 'above 0 and below 1e18', with_low=False)  # the square of one is still a float32


def number_or_auto(text: str) -> float | str:
    return 'auto' if text == 'auto' else positive(text)


weight = number(0, 1e18, 'of at least 0 and below 1e18')
fraction = number(0, 1, 'of at least 0 and below 1')
share = number(0, 1, 'above 0 and below 1', with_low=False)


def count(text: str) -> int | str:
    return 'all' if text == 'all' else whole_number(text)


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f'expected a whole number from 0 to 2^32 - 1, got {text}')
    return value


def sizes(text: str) -> tuple[int, ...]:
    values = [whole_number(word) for word in text.split(',')]
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f'expected different latent sizes, got {text}')
    return tuple(sorted(values))


# argparse names a type in 'invalid ... value' by its function
whole_number.__name__ = 'whole number'
count.__name__ = 'count (a whole number or "all")'
sizes.__name__ = 'list of latent sizes (as in 2,4,8)'


# ------------------------------------------------------------------------------------------- the flags


def flag(
    default: Any, help: str, type: Callable | None = None, compare: bool = True, **argparse_options: Any
) -> Any:
    """A dataclass field that is also a flag of the command line, --its-name.

    default: None or 0 or False where the feature is off or the value follows from something else; then `help`
    says what is done. compare: see training.config.Config. argparse_options: of argparse's add_argument.
    """
    metadata = dict(help=help, type=type, **argparse_options)
    return dataclasses.field(default=default, compare=compare, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line (--help has the usage), and a flag must be written out."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        print_error(f'{message}; see --help')
        sys.exit(2)


def parse_flags(options_class: type) -> Any:
    """The dataclass, filled in from the command line: the fields made by `flag` are the flags.

    The first lines of --help are its docstring. A wrong flag is said in one line, and exit status is 2.
    """
    parser = Parser(options_class.__doc__)
    alternatives = None  # a group of flags of which one may be given; argparse does not allow an empty one
    for field in dataclasses.fields(options_class):
        options = dict(field.metadata)
        if not options:  # not a flag
            continue
        target = parser
        if options.pop('exclusive', False):
            target = alternatives = alternatives or parser.add_mutually_exclusive_group()
        name = '--' + field.name.replace('_', '-')
        if options.pop('positional', False):
            name = field.name
        elif field.default is False:
            options |= dict(action='store_true')
            options.pop('type')
        # argparse gets a default only to show it in --help; all others come from the dataclass.
        has_default = field.default and '(default: ' not in options['help']
        target.add_argument(name, default=field.default if has_default else argparse.SUPPRESS, **options)
    for word in sys.argv[1:]:
        if re.fullmatch('(--[a-z-]+=)?', word):  # of a shell's variable that is not set, say
            parser.error(f'expected a value, got an empty one: {word!r}')
    return options_class(**vars(parser.parse_args()))


# -------------------------------------------------------------------------------- running the command


def run_command(main: Callable[[], None]):
    """Run a script's main(). What the user can mend is one line on standard error, and exit status 2."""
    keep_freed_memory()
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed by the shell's >&-
            setattr(sys, name, open(os.devnull, 'w'))
        # A file may have a name that the terminal's encoding has not.
        getattr(sys, name).reconfigure(errors='backslashreplace')
    before = signal.getsignal(signal.SIGINT)  # of training/startup.py; or Ctrl-C is ignored, as under nohup
    interrupts = []

    def interrupt(*args):
        interrupts.append(args)
        signal.default_int_handler(*args)

    try:
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupt)
        main()
        sys.stdout.flush()  # here, where an error is one line
    except BrokenPipeError:  # whoever read standard output, `head` say, has seen enough
        sys.exit(1)
    except Exception as error:
        if interrupts:  # C++ code that KeyboardInterrupt went through can make another error of it
            print('\ninterrupted', file=sys.stderr)
            sys.exit(130)
        line = describe_error(error)
        if line is None:
            raise
        print_error(line)
        sys.exit(2)
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)
        try:
            sys.stdout.flush()
        except OSError:  # what could not be written would fail again, with a traceback, when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(message: str):
    """In one line, whatever line ends a file's name has."""
    print('error: ' + message.replace('\n', '\\n'), file=sys.stderr)


def describe_error(error: Exception) -> str | None:
    """An error that the user can mend, in one line; None: it is a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):  # no permission, say
        place = f'cannot use {error.filename}: ' if error.filename else ''
        return place + describe_failure(error)
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and 'memory' in str(error).lower():
        return 'not enough memory; ask for fewer images or draws, smaller batches or latents'
    return None


def keep_freed_memory():
    """Let the C library keep up to 2 GB of freed memory for the next allocation, if it is glibc.

    By default glibc returns large freed blocks to the system. Every step would then wait for fresh pages, 4
    KB at a time, each filled with zeros: with the reports' decoders that is a quarter of a step and more.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no large block by a system call of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def pick_device(name: str | None) -> torch.device:
    """The device that --device names; None: CUDA if there is a GPU. With several processes each has its own
    GPU.

    UserError: there is no such device here.
    """
    if name is None:
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    if name == 'cuda' and 'LOCAL_RANK' in os.environ:  # torchrun's number of the process on this machine
        name = f'cuda:{os.environ["LOCAL_RANK"]}'
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        raise UserError(f'expected --device to be cpu, cuda or cuda:N, got {name!r}')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"expected --device to be one of this machine's {torch.cuda.device_count()} CUDA devices or cpu, "
            f'got {name!r}'
        )
    return device
