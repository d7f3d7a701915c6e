"""Synthetic patients, scans and archives with known anatomy and injuries.

Key types
---------
PatientModel : the anatomy of one patient.
Scan : planes, pose and contrast phase of one scan.
cohort : whole archives in the layouts of RATIC and FLARE23.
domains : kinds of scanners and patients that the scans of a harder cohort come from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
