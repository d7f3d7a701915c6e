"""Erase a patient from everything under a root.

Key functions
-------------
forget_patient : list what names a patient, and remove it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
