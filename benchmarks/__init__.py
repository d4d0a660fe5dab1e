"""Benchmarks. Each compares two things in one run, and prints their ratio:

python -m benchmarks.step         a step and the time to a test loss, against a plain program
python -m benchmarks.whole_run    the time of a whole process
python -m benchmarks.peer         our VAE and VAD beside the VAE of a library
python -m benchmarks.gpu          all of this on a GPU, the kernels' tests and 60,000 images too
python -m kernels.benchmark       the kernels
"""

import training  # before PyTorch and the others, see training/startup.py
