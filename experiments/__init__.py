"""Experiments: what the reports did with the systems. sweep.py and tune.py belong to train_ae.py; the others
run by python -m."""

import training  # before PyTorch and the others, see training/startup.py
