import pytest
import torch

import imputation
import training.inference
from imputation import grade_imputation, impute
from training import infer_latents
from training.inference import Schedule

SYSTEMS = [('vad', 'gaussian'), ('vad', 'laplace'), ('vad', 'exponential'), ('ad', None), ('vae', 'gaussian')]
SYSTEMS += [('ae', None)]


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    monkeypatch.setattr(training.inference, 'NEW_IMAGES', Schedule(passes=8, lr=0.15))
    monkeypatch.setattr(imputation.complete, 'DRAWS', 20)


@pytest.mark.parametrize('system, dist', SYSTEMS)
def test_observed_pixels_come_back_as_they_are(incomplete_run, test_set, system, dist):
    completed = impute(incomplete_run(system, dist), test_set, m=3)
    observed = test_set.observed[torch.arange(40)]
    assert completed.mean.shape == completed.std.shape == (40, 28, 28) and completed.draws.shape == (
        3,
        40,
        28,
        28,
    )
    assert torch.equal(completed.mean[observed], test_set.X[observed])
    assert (completed.draws[:, observed] == test_set.X[observed].byte()).all()
    assert (completed.std[observed] == 0).all() and (completed.std[~observed] > 0).float().mean() > 0.5


@pytest.mark.parametrize('system, dist', SYSTEMS)
def test_hidden_values_are_never_read(incomplete_run, digits, system, dist):
    completed = []
    for garbage in (0.0, 255.0):
        images = digits[1].part(slice(10)).hide_pixels('pixels', 0.5, seed=0, part=1)
        images.X = torch.where(images.observed[torch.arange(10)], images.X, garbage)
        completed.append(impute(incomplete_run(system, dist), images, m=2))
    for name in ('mean', 'std', 'draws'):
        assert torch.equal(getattr(completed[0], name), getattr(completed[1], name))


def test_imputations_differ_where_pixels_are_missing(incomplete_run, test_set):
    draws = impute(incomplete_run('vad', 'gaussian'), test_set, m=2).draws.float()
    observed = test_set.observed[torch.arange(40)]
    assert (draws[0] != draws[1])[~observed].float().mean() > 0.2


def test_the_conditional_mean_beats_one_draw_and_the_decoded_posterior_mean(incomplete_run, test_set):
    trained = incomplete_run('vad', 'gaussian')
    model, missing = trained.model, ~test_set.observed[torch.arange(40)]
    latents, _ = infer_latents(trained, test_set)
    z, _ = model.sample(model.params(latents), seed=7, step=0, index=torch.arange(40))

    def error(images):
        return (images - test_set.X)[missing].square().mean()

    ours = error(impute(trained, test_set).mean)
    assert ours < error(model.decode(z)) and ours < error(model.decode(model.mean(latents)))


def test_an_image_with_nothing_observed_gets_the_priors_mean(incomplete_run, digits):
    trained = incomplete_run('vad', 'gaussian')
    images = digits[1].part(slice(12)).hide_pixels('pixels', 0.5, seed=0, part=1)
    images.observed = images.observed[torch.arange(12)]
    images.observed[3] = False
    prior = trained.model.decode(trained.model.sample_prior(2000, seed=1)).mean(0)
    completed = impute(trained, images, m=2)
    assert (completed.mean[3] - prior).abs().mean() < 15  # of 50 draws
    latents, _ = infer_latents(trained, images)
    assert (latents[3] == 0).all() and (latents[2] != 0).any()


@pytest.mark.parametrize('kind, rate', [('pixels', 0.1), ('pixels', 0.8), ('blocks', 0.25)])
def test_masks_of_another_kind_than_in_training_are_completed(incomplete_run, digits, kind, rate):
    images = digits[1].hide_pixels(kind, rate, seed=5, part=1)
    completed = impute(incomplete_run('vad', 'gaussian'), images)
    missing = ~images.observed[torch.arange(40)]
    of_mean = (digits[0].X.mean(0) - images.X)[missing].square().mean()
    assert (completed.mean - images.X)[missing].square().mean() < of_mean


@pytest.mark.parametrize('system, dist', SYSTEMS)
def test_grades_are_those_of_the_completed_images(incomplete_run, test_set, system, dist):
    completed = impute(incomplete_run(system, dist), test_set)
    missing, grades = ~test_set.observed[torch.arange(40)], completed.grades
    error = ((completed.mean - test_set.X) / 255)[missing].square().mean().sqrt()
    assert grades['test_rmse_missing'] == pytest.approx(error.item(), rel=1e-5)
    assert 0.75 < grades['coverage_90'] < 0.99 and 0 < grades['test_crps'] < error


def test_what_is_not_known_is_not_graded(incomplete_run, digits):
    images = digits[1].part(slice(5)).hide_pixels('pixels', 0.5, seed=0, part=1)
    images.known = False
    grades = grade_imputation(incomplete_run('vad', 'gaussian'), images)
    assert grades['test_rmse_missing'] is grades['coverage_90'] is grades['test_crps'] is None
    assert 0 < grades['test_rmse_observed'] < 1 and grades['n_imputed'] == 5
