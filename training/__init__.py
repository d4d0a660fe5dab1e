"""Training: from a configuration and images to a trained model in a run folder.

    from training import load_run
    run = load_run('runs/vad-laplace')  # .config, .model, .latents [N, K], .labels

Read config.py, batches.py, objective.py, trainer.py and loop.py for what happens in a run; the rest is called
by them.
"""

from training.runs import load_run

__all__ = ['load_run']
