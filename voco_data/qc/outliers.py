"""Outliers among the series of a run: a score for each series, and reasons in words.

A measure is an outlier where it lies more than 3.5 robust standard deviations from the median of
the run (modified z-score: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993). The
robust deviation is 1.4826 times the median absolute deviation, and at least the floor of the
measure: in a cohort of one protocol, a difference of a hundredth of a millimetre is no outlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

OUTLIER_Z = 3.5
"""A larger modified z-score is an outlier."""
MAX_MEASURE_SCORE = 10.0
"""Largest score that one measure adds."""
MIN_SERIES = 8
"""Least series with a measure to compare it; with fewer, only the fixed rules apply."""
FALLBACK_CONFIDENCE = 0.5
"""A box of lower confidence is a fallback."""
UNSCORED_FLAGS = frozenset({"mask", "multi_frame"})
"""Flags that state the origin of a series, and add nothing to its score."""
FALLBACK_SCORE, NON_SQUARE_SCORE, FLAG_SCORE = 5.0, 2.0, 1.0
NON_SQUARE_SHARE = 0.01
"""Pixels whose sides differ by more than this share are not square."""
MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of each series that is compared with its median over the run."""

    key: str
    """Name of the measure in the rows of the report."""
    label: str
    """Name of the measure in reasons."""
    unit: str
    """Unit of the values in reasons."""
    floor: float
    """Least robust deviation, in `unit`."""
    digits: int = 0
    """Decimals of values in reasons."""


MEASURES = (
    Measure("spacing_z_mm", "slice spacing", "mm", 0.25, 2),
    Measure("spacing_x_mm", "in-plane spacing", "mm", 0.05, 2),
    Measure("scan_mm", "scan length", "mm", 25),
    Measure("field_mm", "field of view", "mm", 25),
    Measure("box_mm", "box length", "mm", 20),
    Measure("box_above_mm", "box starts above the scan's end", "mm", 25),
    Measure("hu_p5", "HU, 5th percentile of tissue", "HU", 20),
    Measure("hu_median", "HU, median of tissue", "HU", 10),
    Measure("hu_p95", "HU, 95th percentile of tissue", "HU", 25),
)


@dataclass(frozen=True, slots=True)
class OutlierScore:
    """The outlier score of a series."""

    score: float
    """0 for a series that is no outlier."""
    why: tuple[str, ...]
    """Reasons, ordered by score, the largest first."""


Columns = Mapping[str, npt.NDArray[np.float64]]
"""Values of each measure, one for each series; NaN if it is missing."""
Spreads = Mapping[str, tuple[float, float] | None]
"""Median and robust deviation of each measure; None if fewer than MIN_SERIES series have it."""


def measure_spreads(columns: Columns) -> Spreads:
    """Median and robust deviation of every measure over the series of `columns`."""
    return {m.key: _spread(columns[m.key], m.floor) for m in MEASURES}


def _spread(values: npt.NDArray[np.float64], floor: float) -> tuple[float, float] | None:
    measured = values[~np.isnan(values)]
    if len(measured) < MIN_SERIES:
        return None
    median = float(np.median(measured))
    return median, max(floor, MAD_TO_SD * float(np.median(np.abs(measured - median))))


def score_series(series: Mapping[str, Any], spreads: Spreads) -> OutlierScore:
    """The score of one series, from its ledger row and its measures, which may be None."""
    reasons: list[tuple[float, str]] = []
    for measure in MEASURES:
        value, spread = series[measure.key], spreads[measure.key]
        if value is None or spread is None:
            continue
        median, deviation = spread
        z = abs(value - median) / deviation
        if z > OUTLIER_Z:
            own, usual = (f"{v:.{measure.digits}f}" for v in (value, median))
            words = f"{measure.label} {own} {measure.unit} (median {usual})"
            reasons.append((min(z, MAX_MEASURE_SCORE), words))
    reasons += _fixed_rules(series)
    reasons.sort(key=lambda reason: -reason[0])
    score = round(sum(score for score, _ in reasons), 1)
    return OutlierScore(score, tuple(words for _, words in reasons))


def _fixed_rules(series: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Scores and reasons that do not depend on the other series."""
    reasons = []
    confidence = series["box_confidence"]
    if confidence is not None and confidence < FALLBACK_CONFIDENCE:
        reasons.append((FALLBACK_SCORE, f"box is a fallback (confidence {confidence:.2f})"))
    x, y = series["spacing_x_mm"], series["spacing_y_mm"]
    if x and y and abs(y / x - 1) > NON_SQUARE_SHARE:
        reasons.append((NON_SQUARE_SCORE, f"pixels are not square ({y:.3f} by {x:.3f} mm)"))
    flags = [flag for flag in (series["flags"] or "").split() if flag not in UNSCORED_FLAGS]
    return reasons + [(FLAG_SCORE, f"flag {flag}") for flag in flags]
