"""Scripts that a comparison runs."""

import os
import signal
import subprocess
import sys
import time

from training.startup import FOLDER

SLEEPER = 'import os, pathlib, time\npathlib.Path("pid").write_text(f"{os.getpid()}\\n")\ntime.sleep(600)\n'
START = 'from experiments.scripts import run_script; run_script("-m", "sleeper")'


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_comparison_that_is_ended_ends_its_script(tmp_path):
    (tmp_path / 'sleeper.py').write_text(SLEEPER)
    environment = {**os.environ, 'PYTHONPATH': f'{FOLDER}{os.pathsep}{tmp_path}'}
    process = subprocess.Popen([sys.executable, '-c', START], cwd=tmp_path, env=environment)
    file, end = tmp_path / 'pid', time.monotonic() + 60
    while not (file.exists() and file.read_text().endswith('\n')) and time.monotonic() < end:
        time.sleep(0.1)
    pid = int(file.read_text())
    try:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert not is_alive(pid)
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
