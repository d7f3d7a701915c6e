"""The score that decides about a promotion: of a run and of the champion, with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voco_data.errors import InputError
from voco_models.evaluation import ORGAN_SCORE, Interval, metrics

SCORES = (ORGAN_SCORE, metrics.OFFICIAL_SCORE)
"""The first one that a run has counts. Both are losses: lower is better."""
METRICS = "metrics.json"
"""Numbers of an evaluation: `report.METRICS`, whose module needs torch. champion.json does not."""


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """The score of a run on test patients, and of the champion on the same ones, if there was one.

    The intervals are 95 % intervals over resamples of the patients.
    """

    score: str
    """Name of the score."""
    patients: int
    run: Interval
    champion: Interval | None = None
    difference: Interval | None = None
    """Run less champion, paired."""
    margin: float | None = None
    """How much worse than the champion the end of the interval was allowed to be."""

    @classmethod
    def of_comparison(cls, row: Mapping[str, Any], patients: int, margin: float) -> ScoredRun:
        """From a row of `ComparisonSummary.differences`."""
        return cls(
            score=row["score"],
            patients=patients,
            run=Interval(row["run"], row["run_low"], row["run_high"]),
            champion=Interval(row["against"], row["against_low"], row["against_high"]),
            difference=Interval(row["difference"], row["low"], row["high"]),
            margin=margin,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScoredRun:
        """From the values of `dataclasses.asdict`. Raises TypeError if they are others."""
        intervals = {
            name: None if values[name] is None else _interval(**values[name])
            for name in ("run", "champion", "difference")
        }
        return cls(**{**values, **intervals})


def _interval(value: float, low: float, high: float) -> Interval:
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in (value, low, high)):
        raise TypeError("expected finite numbers")
    return Interval(value, low, high)


def read_own_score(evaluation: Path) -> ScoredRun | None:
    """The score of a run alone, from the folder of its evaluation; None if there is none.

    Raises InputError if the file cannot be read.
    """
    path = evaluation / METRICS
    try:
        results = json.loads(path.read_text())
        found = next((name for name in SCORES if name in results["scores"]), None)
        if found is None:
            return None
        own = Interval(**results["scores"][found])
        return ScoredRun(found, int(results["test_patients"]), own)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the numbers of voco evaluate, cannot read them; make them again: "
            f"voco evaluate {evaluation.parent / 'finetune'} --out {evaluation} --again"
        ) from error
