"""Outliers among the series of a run: a score, and reasons in words.

A measure is an outlier where it lies more than 3.5 robust standard deviations from the median of
the run (modified z-score: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993). The
robust deviation is 1.4826 times the median absolute deviation, and at least the measure's floor:
in a cohort of one protocol, a hundredth of a millimetre does not make an outlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LIMIT = 3.5
"""A z-score beyond it is an outlier."""
CAP = 10.0
"""Most that one measure adds to a score."""
FEWEST = 8
"""With fewer series there are no medians; only outliers by fixed rules count."""
FALLBACK_CONFIDENCE = 0.5
"""A box of lower confidence is a fallback."""
ORDINARY = frozenset({"mask", "multi_frame"})
"""Flags that state the origin of a series and do not count."""
FALLBACK_SCORE, SKEWED_SCORE, FLAG_SCORE = 5.0, 2.0, 1.0
SKEWED_SHARE = 0.01
"""Pixels whose sides differ by more than this share are not square."""
MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of each series that is compared with its median over the run."""

    key: str
    words: str
    unit: str
    floor: float
    """Least robust deviation."""
    digits: int = 0


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
class Verdict:
    """The outlier score of a series."""

    score: float
    """0 for a series that is no outlier."""
    why: tuple[str, ...]
    """Reasons, that of the largest score first."""


Columns = Mapping[str, npt.NDArray[np.float64]]
"""Values of each measure, one a series; NaN where there is none."""
Spreads = Mapping[str, tuple[float, float] | None]
"""Median and robust deviation of each measure; None where fewer than FEWEST series have it."""


def measure_spreads(columns: Columns) -> Spreads:
    """Median and robust deviation of every measure over the kept series."""
    return {m.key: _spread(columns[m.key], m.floor) for m in MEASURES}


def _spread(values: npt.NDArray[np.float64], floor: float) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        return None
    median = float(np.median(known))
    return median, max(floor, MAD_TO_SD * float(np.median(np.abs(known - median))))


def judge(series: Mapping[str, Any], spreads: Spreads) -> Verdict:
    """The score of one series; its measures may be None."""
    reasons: list[tuple[float, str]] = []
    for measure in MEASURES:
        value, spread = series[measure.key], spreads[measure.key]
        if value is None or spread is None:
            continue
        median, deviation = spread
        z = abs(value - median) / deviation
        if z > LIMIT:
            own, usual = (f"{v:.{measure.digits}f}" for v in (value, median))
            words = f"{measure.words} {own} {measure.unit} (median {usual})"
            reasons.append((min(z, CAP), words))
    reasons += _fixed_rules(series)
    reasons.sort(key=lambda reason: -reason[0])
    score = round(sum(score for score, _ in reasons), 1)
    return Verdict(score, tuple(words for _, words in reasons))


def _fixed_rules(series: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Scores and reasons that do not depend on the other series."""
    reasons = []
    confidence = series["box_confidence"]
    if confidence is not None and confidence < FALLBACK_CONFIDENCE:
        reasons.append((FALLBACK_SCORE, f"box is a fallback (confidence {confidence:.2f})"))
    x, y = series["spacing_x_mm"], series["spacing_y_mm"]
    if x and y and abs(y / x - 1) > SKEWED_SHARE:
        reasons.append((SKEWED_SCORE, f"pixels are not square ({y:.3f} by {x:.3f} mm)"))
    flags = [flag for flag in (series["flags"] or "").split() if flag not in ORDINARY]
    return reasons + [(FLAG_SCORE, f"flag {flag}") for flag in flags]
