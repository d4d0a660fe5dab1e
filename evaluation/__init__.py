"""Evaluation: grades, samples and pictures of a trained run.

losses.py has the course's loss, grades.py what results.json says, samples.py and second_stage.py the ways to
sample, sample_grades.py the table of samples, made of the measures in frechet.py and fidelity.py, and
drawing.py, maps.py, pictures.py, curves.py, page.py and report.py what one looks at.
"""

import training  # before PyTorch, see training/startup.py
from evaluation.losses import BATCH_SIZE, course_loss, evaluate_model, pca_loss, reconstruction_loss
from evaluation.samples import Sampler
from evaluation.grades import NEIGHBOURS, evaluate
from evaluation.grades import grade_test, grade_training
from evaluation.sample_grades import grade_samples
from evaluation.pictures import draw_gan_pictures, draw_imputed, draw_pictures
from evaluation.maps import plot_tsne
from evaluation.drawing import image_grid, real_tensor, save_figure, save_grid
from evaluation.curves import draw_gan_losses, draw_losses
from evaluation.page import write_report
from evaluation.report import cell, describe_run, finish_run, print_results, print_table, read_results
from evaluation.report import update_index
from evaluation.amortisation import amortisation, report_amortisation
from evaluation.likelihood import FURTHER, estimate_likelihood, grade_further
