"""A page to look at a trained run: explorer.py computes the pictures, page.py lays them out with Gradio.

explore.py, the command, opens the page.
"""

import training  # before PyTorch, see training/startup.py
from exploration.explorer import Explorer
