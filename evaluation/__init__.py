"""Evaluation: grades, samples and pictures of a trained run.

losses.py has the course's loss, grades.py what results.json says, samples.py the two ways to sample,
frechet.py the distance of samples from real images, pictures.py and report.py what one looks at.
"""
