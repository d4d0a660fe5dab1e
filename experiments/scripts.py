"""Running this project's scripts from a comparison, and reading what they left."""

import subprocess
import sys
from pathlib import Path

from training import UserError, read_json
from training.startup import FOLDER


def run_script(script: str, *arguments):
    """One of this project's scripts, in a process of its own. UserError: it failed."""
    command = [sys.executable, FOLDER / script, *arguments]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f'exit status {result.returncode}'])[-1]
        raise UserError(
            f'expected {script} to end without an error, got: {reason.removeprefix("error: ")}; mend that '
            f'and start the same command again, which goes on'
        )


def check_out(out: Path):
    """UserError: the folder of a comparison's results holds other things."""
    if out.exists() and any(path.name[0] != '.' for path in out.iterdir()) and not (out / 'cells').is_dir():
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
