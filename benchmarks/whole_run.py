"""Time one whole process, as its user meets it: start, training, fitting the test latents, pictures.

Usage:
    python -m benchmarks.whole_run                                     the default run
    python -m benchmarks.whole_run train_ad.py --decoder dcgan7x7      any other; flags go to the script
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import exit_on_sigterm
from training import UserError, read_json, run_command


def time_run(script: str, flags: list[str], run_dir: Path) -> tuple[dict, float]:
    """The results of a script's run in a folder that is not there yet, and the seconds of the whole process.

    CalledProcessError: it ended with an error, which it has said. UserError: it left no run.
    """
    command = [sys.executable, script, *flags, '--run-dir', str(run_dir)]
    started = time.perf_counter()
    process = subprocess.Popen(command, start_new_session=True)  # in which Ctrl-C does not reach it
    try:
        status = process.wait()
    finally:  # after Ctrl-C or SIGTERM it would still write to the folder
        process.kill()
        process.wait()
    total = time.perf_counter() - started
    if status > 0:
        raise subprocess.CalledProcessError(status, command)
    if status < 0:
        raise UserError(f'expected {script} to end by itself, got its end by signal {-status}')
    if not (run_dir / 'results.json').exists():
        raise UserError(f'expected {script} to train one run, got none; leave out --sweep and --tune')
    return read_json(run_dir / 'results.json'), total


def main():
    script, *flags = sys.argv[1:] or ['train_vad.py']
    if script in ('-h', '--help'):
        print(__doc__)
        return
    scripts = sorted(path.name for path in Path().glob('train_*.py'))
    if script not in scripts:
        raise UserError(f'expected one of {", ".join(scripts)}, got {script!r}; run this in their folder')
    if any(word.split('=')[0] == '--run-dir' for word in flags):
        raise UserError('expected no --run-dir (the run goes to a temporary folder), got one; leave it out')
    exit_on_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        try:
            results, total = time_run(script, flags, Path(folder) / 'run')
        except subprocess.CalledProcessError as error:  # the script has said why
            sys.exit(error.returncode)
    machine = f'{results["device"]}, {torch.get_num_threads()} threads, torch {torch.__version__}'
    print(f'{" ".join([script, *flags])} on {machine}')
    parts = {'training': results['train_seconds']}
    if 'test_seconds' in results:  # a GAN has no latents of test images
        parts['fitting test latents'] = results['test_seconds']
    parts['start, grading, pictures'] = total - sum(parts.values())
    for name, seconds in {**parts, 'the whole process': total}.items():
        print(f'{name:26}{seconds:7.1f} s')


if __name__ == '__main__':
    run_command(main)
