"""Injury labels of patients, the table of targets, and splits by patient.

Key types
---------
Labels : a label table as arrays, one row a patient.
TargetTable, TargetGroup : groups, classes and weights that heads, losses and metrics read.
Split : a held-out test set, and folds over the other patients.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
