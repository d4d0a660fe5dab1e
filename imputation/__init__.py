"""Imputation: what the missing pixels of images are, as far as a trained model can tell from the others.

importance.py has the posterior draws and their weights, predictive.py the distribution of each pixel,
complete.py what is made of it: completed images, and grades where the truth is known. imputer.py is the same
for users of scikit-learn.
"""

import training  # before PyTorch, see training/startup.py
from imputation.complete import OF_INCOMPLETE, Imputation, grade_imputation, impute


def __getattr__(name):
    if name == 'VADImputer':  # here: scikit-learn takes a second to import, and the commands do without
        from imputation.imputer import VADImputer

        return VADImputer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
