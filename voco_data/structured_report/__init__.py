"""Predictions as DICOM Structured Reports, one for each study.

Key functions
-------------
write_structured_reports : a report of each predicted study of an archive.
check_installed : whether highdicom is there, before a long run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
