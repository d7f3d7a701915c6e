"""What `voco predict` writes about new patients: tables, a submission, pages.

Key functions
-------------
fit_abstention : when a prediction is too near to another class, from out-of-fold predictions.
make_submission : the columns of RSNA 2023 Abdominal Trauma Detection.
write_patient, write_index : the page of a patient, and the list of all.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
