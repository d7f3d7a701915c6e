"""Metrics, intervals, calibration, thresholds and the report.

Key types
---------
metrics : the RSNA scores and the paper's metrics.
Interval : a value and its confidence interval.
Decision : calibration and thresholds, fitted on out-of-fold predictions.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
