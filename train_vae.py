"""Train a variational auto-encoder: each image gets its distribution over latents from an encoder.

Usage:
    python train_vae.py --encoder lstm --likelihood bernoulli --dataset mnist --n-train all --n-test all
"""

from evaluation import (
    Sampler,
    amortisation,
    draw_losses,
    draw_pictures,
    evaluate,
    finish_run,
    report_amortisation,
)
from training import (
    Images,
    Trainer,
    VAEConfig,
    build_model,
    distributed,
    encode,
    fit,
    infer_latents,
    load_data,
    open_run,
    parse_flags,
    run_command,
)


def main():
    config = parse_flags(VAEConfig)  # --help lists them
    device = distributed.start(config.device, one_only=True)
    config, train_set, test_set = load_data(config)  # images in 0-255; the config now says what they are
    model = build_model(config, device)  # an encoder, the family of the posteriors, a decoder

    # A run can be resumed, and replaces an older one only when it is finished.
    with open_run(config, device, train_set) as run:
        if run.is_done:
            return
        if not run.is_trained:  # else only grades and pictures are missing
            images = Images(train_set, device)  # and copies, shifted by a pixel
            validation = Images(test_set, device)  # for the curve of losses; they decide nothing
            trainer = Trainer(model, images, config, validation=validation)
            fit(trainer, run.folder, run.checkpoint)  # encoder and decoder, on the negative ELBO
            run.found(trainer.obs_std)  # with --obs-std auto another than before
            run.save_trained(model, latents=encode(model, images), labels=train_set.y)
            del trainer  # frees the state of its optimiser

        trained = run.load_trained()
        test_latents, seconds = infer_latents(trained, test_set)  # [N, K], by the encoder
        sampler = Sampler(trained)  # of the prior, and of densities that are fitted to the latents
        results = evaluate(trained, train_set, test_set, test_latents, sampler)  # losses, neighbours, samples
        results['test_seconds'] = round(seconds, 1)
        draw_pictures(run.folder, trained, train_set, test_set, test_latents, sampler, config.interpolate)
        draw_losses(run.folder)
        report_amortisation(run.folder, amortisation(trained, test_set))  # what fitting latents further gains
        finish_run(run, trained, results)  # results.json, report.html, the table on the terminal


if __name__ == '__main__':
    run_command(main)
