"""The rule of promotion: a new run becomes champion unless it may be worse by more than a margin.

The score of both on the same test patients gives a paired difference d with a 95 % interval. The
run is promoted if the worse end of the interval is at most the margin away from 0: a test of
non-inferiority at 2.5 %, one-sided (Piaggio et al., CONSORT 2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from voco_data.errors import InputError
from voco_models.tracking.scores import SCORES, ScoredRun

MARGIN = 0.05
"""In units of the score, a weighted log loss."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run becomes champion, and why."""

    promoted: bool
    reason: str
    scored: ScoredRun | None = None
    """What was compared, if both could be scored."""


def judge(
    differences: Sequence[dict[str, Any]], patients: int, champion: str, margin: float = MARGIN
) -> Verdict:
    """Judge a run by the rows of a comparison with the champion, `ComparisonSummary.differences`.

    The score is `rsna_organ_3`; `rsna_official_6` of runs that grade no solid organ. Without a
    finite interval the run is not promoted.
    """
    rows = {row["score"]: row for row in differences}
    row = next((rows[name] for name in SCORES if name in rows), None)
    if row is None or not all(math.isfinite(row[name]) for name in ("low", "high")):
        return Verdict(False, f"no score has an interval on the {patients} shared test patients")
    worst = row["high"] if row["better"] == "lower" else -row["low"]
    found = (
        f"{row['score']} {row['run']:.4f}, champion {champion} {row['against']:.4f}, difference "
        f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] on {patients} patients"
    )
    scored = ScoredRun.of_comparison(row, patients, margin)
    if worst <= margin:
        return Verdict(True, f"not worse by more than the margin {margin:g}: {found}", scored)
    reason = f"may be worse by {worst:.4f}, more than the margin {margin:g}: {found}"
    return Verdict(False, reason, scored)


def check_margin(margin: float) -> None:
    """Raise InputError unless the margin is a finite number of at least 0."""
    if not 0 <= margin < math.inf:
        raise InputError(f"margin: expected a number of at least 0, got {margin}")
