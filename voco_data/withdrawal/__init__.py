"""Forget a patient who withdrew consent: under a root, and in the folders of training runs.

Key functions
-------------
forget_everywhere : list what names a patient, remove it, and write a receipt.
is_tainted : whether a run has learnt from a patient who was forgotten since.

Key types
---------
Withdrawals : the record of a run of files that were rewritten without a patient.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
