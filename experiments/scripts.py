"""Running this project's scripts from a comparison, and reading what they left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from training import UserError, is_finished, read_json
from training.startup import FOLDER


def run_script(script: str, *arguments):
    """One of this project's scripts, or with '-m' and a name one of its modules, in a process of its own.
    UserError: it failed."""
    command = [sys.executable, script if script == '-m' else FOLDER / script, *arguments]
    # Modules are found from any folder.
    paths = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get('PYTHONPATH'))))
    environment = {**os.environ, 'PYTHONPATH': paths}
    # Whoever ends this program ends the script: subprocess.run kills it when an exception comes. It would
    # train on, and keep its folder from the command that goes on.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    finally:
        signal.signal(signal.SIGTERM, before)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f'exit status {result.returncode}'])[-1]
        name = arguments[0] if script == '-m' else script
        raise UserError(
            f'expected {name} to end without an error, got: {reason.removeprefix("error: ")}; mend that '
            f'and start the same command again, which goes on'
        )


def train_run(run_dir: Path, script: str, *arguments):
    """The run of a system in run_dir, by a script and its flags, unless it is finished."""
    if not is_finished(run_dir):
        run_script(script, *arguments, '--run-dir', run_dir, *(['--resume'] if run_dir.exists() else []))


def check_out(out: Path, part: str = 'cells'):
    """UserError: the folder of a comparison's results holds other things. part: a folder that is in it."""
    if out.exists() and any(path.name[0] != '.' for path in out.iterdir()) and not (out / part).is_dir():
        raise UserError(
            f'expected --out to be a new folder or one of this command, got {out}, which holds other things; '
            f'name another'
        )


def read_entries(path: Path, names: tuple[str, ...]) -> dict:
    """The object in a JSON file. UserError: it lacks one of the names."""
    values = read_json(path)
    lacking = [name for name in names if name not in values]
    if lacking:
        raise UserError(
            f'expected an entry {lacking[0]} in {path}, got none; delete that file and start again'
        )
    return values


def check_setting(path: Path, setting: dict):
    """UserError: the result in path is of another setting."""
    saved = read_entries(path, tuple(setting))
    for name, value in setting.items():
        if saved[name] != value:
            raise UserError(
                f'expected {name} {saved[name]} as in {path}, got {value}; name another folder with --out, '
                f'or use the flags and data of before'
            )


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [f'| {" | ".join(cells)} |' for cells in (columns, *rows)]
    lines.insert(1, '| --- ' * len(columns) + '|')
    return '\n'.join(lines)
