"""Injury labels of patients, and the table of targets.

Key types
---------
Labels : a label table as arrays, one row a patient.
TargetTable, TargetGroup : groups, classes and weights that heads, losses and metrics read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
