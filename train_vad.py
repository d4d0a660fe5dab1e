"""Train a variational auto-decoder: each image owns a distribution over latents, fitted with the decoder.

Usage:
    python train_vad.py --dist laplace
"""

from evaluation import Sampler, draw_losses, draw_pictures, evaluate, finish_run
from training import (
    Images,
    Trainer,
    VADConfig,
    build_model,
    distributed,
    fit,
    fit_warm_start,
    infer_latents,
    initialize_latents,
    load_data,
    open_run,
    parse_flags,
    refine_latents,
    run_command,
)


def main():
    config = parse_flags(VADConfig)  # --help lists them
    device = distributed.start(config.device)  # joins the other processes, if torchrun launched several
    config, train_set, test_set = load_data(config)  # images in 0-255; the config now says what they are
    model = build_model(config, device)  # a decoder, and the family of the posteriors

    # A run can be resumed, and replaces an older one only when it is finished.
    with open_run(config, device, train_set) as run:
        if run.is_done:
            return
        if not run.is_trained:  # else only grades and pictures are missing
            images = Images(train_set, device, distributed.share(len(train_set)))  # and their shifted copies
            latents = initialize_latents(model, images, config.obs_std)  # [5N, K], principal components
            trainer = Trainer(model, images, config, latents)
            fit(trainer, run.folder, run.checkpoint)  # decoder and latents, on the negative ELBO
            config = run.found(trainer.obs_std)  # with --obs-std auto another than before
            latents = refine_latents(model, latents, images, config)  # the decoder frozen
            warm_start = fit_warm_start(model, images, latents, config.obs_std)  # linear, of new images
            latents = distributed.all_gather(latents[: images.n].clone())  # [N, K], without the copies
            run.save_trained(model, latents=latents, warm_start=warm_start, labels=train_set.y)
            del trainer, latents  # frees the latents of the copies, and Adam's state
        is_main = distributed.is_main()
        distributed.shutdown()
        if not is_main:  # the main process goes on alone
            return

        trained = run.load_trained()
        test_latents, seconds = infer_latents(trained, test_set)  # [N, K], the decoder frozen
        sampler = Sampler(trained)  # of the prior, and of densities that are fitted to the latents
        results = evaluate(trained, train_set, test_set, test_latents, sampler)  # losses, neighbours, samples
        results['test_seconds'] = round(seconds, 1)
        draw_pictures(run.folder, trained, train_set, test_set, test_latents, sampler, config.interpolate)
        draw_losses(run.folder)
        finish_run(run, trained, results)  # results.json, report.html, the table on the terminal


if __name__ == '__main__':
    run_command(main)
