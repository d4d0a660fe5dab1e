import pytest
import torch

from evaluation.grades import grade_test
from evaluation.losses import course_loss
from training import load_run
from training.data import load_images
from training.inference import infer_latents


@pytest.fixture
def graded(run_dir, csv_dir):
    """A trained VAD, and test images."""
    _, test_set = load_images(csv_dir)
    return load_run(run_dir, 'cpu'), test_set


def test_grades_repeat(graded):
    trained, test_set = graded
    (latents, _), (again, _) = infer_latents(trained, test_set), infer_latents(trained, test_set)
    assert torch.equal(latents, again) and latents.shape == (40, 12)
    assert grade_test(trained, test_set, latents) == grade_test(trained, test_set, again)


def test_grades_are_those_of_a_model_that_has_learned(graded):
    trained, test_set = graded
    latents, _ = infer_latents(trained, test_set)
    grades = grade_test(trained, test_set, latents)
    assert grades['knn_accuracy'] > 0.3 and grades['test_loss_mean'] < grades['test_loss']
    start, _ = infer_latents(trained, test_set, passes=0)
    assert grades['test_loss'] < course_loss(trained.model, test_set, start)
