from . import (
    comparison_page as comparison_page,
    looks as looks,
    metrics as metrics,
    predictions as predictions,
    report as report,
)
from .bootstrap import (
    CONFIDENCE_LEVEL as CONFIDENCE_LEVEL,
    RESAMPLES as RESAMPLES,
    Interval as Interval,
    bootstrap_interval as bootstrap_interval,
)
from .calibration import fit_calibration as fit_calibration
from .comparison import (
    POWER_FACTOR as POWER_FACTOR,
    POWER_FORMULA as POWER_FORMULA,
    Scored as Scored,
    compare as compare,
)
from .decision import (
    Decision as Decision,
    Thresholds as Thresholds,
    fit_decision as fit_decision,
    read_decision as read_decision,
    write_decision as write_decision,
)
from .discrimination import auroc as auroc
from .measures import compute_measures as compute_measures
from .metrics import ORGAN_SCORE as ORGAN_SCORE, FloatArray as FloatArray, IntArray as IntArray
from .overlap import (
    ScoreSummary as ScoreSummary,
    dice_scores as dice_scores,
    hd95_scores_mm as hd95_scores_mm,
    summarise_scores as summarise_scores,
)
from .plots import (
    Line as Line,
    MapPanel as MapPanel,
    check_matplotlib as check_matplotlib,
    difference_plot as difference_plot,
    line_plot as line_plot,
    map_plot as map_plot,
)
