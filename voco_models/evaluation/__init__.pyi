from . import metrics as metrics, predictions as predictions, report as report
from .bootstrap import (
    CONFIDENCE_LEVEL as CONFIDENCE_LEVEL,
    RESAMPLES as RESAMPLES,
    Interval as Interval,
    bootstrap_interval as bootstrap_interval,
)
from .decision import (
    Decision as Decision,
    Thresholds as Thresholds,
    fit_decision as fit_decision,
    read_decision as read_decision,
    write_decision as write_decision,
)
from .markup import Line as Line, line_chart as line_chart
from .metrics import ORGAN_SCORE as ORGAN_SCORE, FloatArray as FloatArray, IntArray as IntArray
