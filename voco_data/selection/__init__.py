"""Who may be learnt from: frozen splits by patient, and selections of a store's series.

Key types
---------
Split : a test set and folds by patient, which is only ever appended to.
Selection : which series of a store a stage uses, and how often it draws them.
SeenPatients : the patients that a run has learnt from, by which a later run finds its own.
Exposure : how many test patients a backbone saw in pretraining.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
