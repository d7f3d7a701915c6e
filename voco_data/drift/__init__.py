"""What came in since a cohort was fixed, compared with this cohort.

Key functions
-------------
watch_drift : compare scans, refusals and scores; write a page, and name alarms.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
