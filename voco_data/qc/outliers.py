"""Which series a person should look at first, and why, in words.

A measure is an outlier where it lies more than 3.5 robust standard deviations from the median of
the run (modified z-score: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993). The
robust deviation is 1.4826 times the median absolute deviation, and at least the measure's floor,
so that a cohort of one protocol does not call a hundredth of a millimetre an outlier.
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
"""Most that one measure adds to a score: ten small oddities outweigh one huge one."""
FEWEST = 8
"""Below so many series a median says little; only what is odd by itself counts."""
SURE = 0.5
"""A box of lower confidence is a fallback."""
ORDINARY = frozenset({"mask", "multi_frame"})
"""Flags that tell where a series came from, and nothing odd."""
FALLBACK_SCORE, SKEWED_SCORE, FLAG_SCORE = 5.0, 2.0, 1.0
SKEWED = 0.01
"""Pixels whose sides differ by more than this share are not square."""
MAD_TO_SD = 1.4826


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a series that is compared with that of the others."""

    key: str
    words: str
    unit: str
    floor: float
    """Smallest spread that the cohort is taken to have."""
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
    """How odd a series is: 0 is unremarkable. `why` goes from the most to the least odd."""

    score: float
    why: tuple[str, ...]


Columns = Mapping[str, npt.NDArray[np.float64]]
"""Values of each measure, one a series; NaN where there is none."""
Spreads = Mapping[str, tuple[float, float] | None]
"""Median and robust deviation of each measure; None where too few series have it."""


def spreads(columns: Columns) -> Spreads:
    """What is usual among the series that were kept."""
    return {m.key: _spread(columns[m.key], m.floor) for m in MEASURES}


def _spread(values: npt.NDArray[np.float64], floor: float) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        return None
    median = float(np.median(known))
    return median, max(floor, MAD_TO_SD * float(np.median(np.abs(known - median))))


def verdict(series: Mapping[str, Any], usual: Spreads) -> Verdict:
    """How odd one series is; its measures may be None."""
    found: list[tuple[float, str]] = []
    for measure in MEASURES:
        value, spread = series[measure.key], usual[measure.key]
        if value is None or spread is None:
            continue
        median, deviation = spread
        z = abs(value - median) / deviation
        if z > LIMIT:
            said, others = (f"{v:.{measure.digits}f}" for v in (value, median))
            found.append((min(z, CAP), f"{measure.words} {said} {measure.unit} (median {others})"))
    found += _odd_by_itself(series)
    found.sort(key=lambda item: -item[0])
    return Verdict(round(sum(score for score, _ in found), 1), tuple(words for _, words in found))


def _odd_by_itself(series: Mapping[str, Any]) -> list[tuple[float, str]]:
    found = []
    confidence = series["box_confidence"]
    if confidence is not None and confidence < SURE:
        found.append((FALLBACK_SCORE, f"box is a fallback (confidence {confidence:.2f})"))
    x, y = series["spacing_x_mm"], series["spacing_y_mm"]
    if x and y and abs(y / x - 1) > SKEWED:
        found.append((SKEWED_SCORE, f"pixels are not square ({y:.3f} by {x:.3f} mm)"))
    flags = [flag for flag in (series["flags"] or "").split() if flag not in ORDINARY]
    return found + [(FLAG_SCORE, f"flag {flag}") for flag in flags]
