"""Train an auto-encoder: three convolutions to a small code, and their mirror image back to pixels.

Usage:
    python train_ae.py
    python train_ae.py --dropout 0.1 --patience 5 --prune 0.3      # the regularisers of the AE report
    python train_ae.py --sweep 2,4,6,8,10,12,14                    # one run for each size of the code
    python train_ae.py --tune 10                                   # search the architecture
"""

from evaluation import Sampler, draw_losses, draw_pictures, evaluate, finish_run
from experiments.sweep import sweep
from training import (
    AEConfig,
    Images,
    Trainer,
    build_model,
    distributed,
    encode,
    fit,
    hold_out,
    infer_latents,
    load_data,
    open_run,
    parse_flags,
    run_command,
)


def main():
    config = parse_flags(AEConfig)  # --help lists them
    if config.sweep:
        sweep(config, train)
    elif config.tune:
        from experiments.tune import tune  # here: it needs Optuna

        tune(config, train)
    else:
        train(config)


def train(config: AEConfig):
    """One run from its images to its report."""
    device = distributed.start(config.device, one_only=True)
    config, train_set, test_set = load_data(config)  # images in 0-255; the config now says what they are
    model = build_model(config, device)  # an encoder to codes [B, D], and a decoder
    # With early stopping the loss of held-out images decides; without it that of the test images is drawn.
    fit_set, validation_set = hold_out(train_set) if config.patience else (train_set, test_set)

    # A run can be resumed, and replaces an older one only when it is finished.
    with open_run(config, device, train_set) as run:
        if run.is_done:
            return
        if not run.is_trained:  # else only grades and pictures are missing
            images = Images(fit_set, device)  # and copies, shifted by a pixel
            trainer = Trainer(model, images, config, validation=Images(validation_set, device))
            fit(trainer, run.folder, run.checkpoint)  # encoder and decoder, on the squared error
            run.found(trainer.obs_std)  # with --obs-std auto another than before
            latents = encode(model, images)  # [N, D]
            run.save_trained(model, latents=latents, labels=fit_set.y, best_epoch=trainer.best_epoch)
            del trainer  # frees the state of its optimiser

        trained = run.load_trained()
        test_latents, seconds = infer_latents(trained, test_set)  # [N, D], by the encoder
        sampler = Sampler(trained)  # of the prior, and of densities that are fitted to the latents
        results = evaluate(trained, train_set, test_set, test_latents, sampler)  # losses, neighbours, samples
        results['test_seconds'] = round(seconds, 1)
        draw_pictures(run.folder, trained, fit_set, test_set, test_latents, sampler, config.interpolate)
        draw_losses(run.folder)
        finish_run(run, trained, results)  # results.json, report.html, the table on the terminal


if __name__ == '__main__':
    run_command(main)
