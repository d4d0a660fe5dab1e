"""Time one whole process, as its user meets it: start, training, fitting the test latents, pictures.

Usage:
    python -m benchmarks.whole_run                                     the default run
    python -m benchmarks.whole_run train_ad.py --decoder dcgan7x7      any other; flags go to the script
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    script, *flags = sys.argv[1:] or ['train_vad.py']
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / 'run'
        started = time.perf_counter()
        status = subprocess.call([sys.executable, script, *flags, '--run-dir', str(run_dir)])
        total = time.perf_counter() - started
        if status:
            sys.exit(status)
        results = json.loads((run_dir / 'results.json').read_text())
        import torch  # after the clock has stopped

        machine = f'{results["device"]}, {torch.get_num_threads()} threads, torch {torch.__version__}'
        print(f'{" ".join([script, *flags])} on {machine}')
        parts = {'training': results['train_seconds'], 'fitting test latents': results['test_seconds']}
        parts['start, grading, pictures'] = total - sum(parts.values())
        for name, seconds in {**parts, 'the whole process': total}.items():
            print(f'{name:26}{seconds:7.1f} s')


if __name__ == '__main__':
    main()
