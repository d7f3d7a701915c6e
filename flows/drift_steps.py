"""The champion's cohort and the watch for drift, joined: for the command and for the flow `drift`.

The cohort is known to the retrainings, the comparison to the packages that need no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from voco_data import drift
from voco_models import tracking

FOLDER = "drift"
"""Folder of the page in the folder of the retrainings, if no other one is given."""


def watch_champion(
    runs: Path,
    out: Path | None = None,
    *,
    predictions: Sequence[Path] = (),
    alpha: float | None = None,
    min_patients: int | None = None,
    min_effects: Sequence[str] = (),
) -> dict[str, object]:
    """Compare what came in since the champion of `runs` was trained; returns the summary.

    Raises InputError as `voco_data.drift.watch_drift`, and without a champion.
    """
    cohort = drift.ReferenceCohort(**asdict(tracking.find_champion_cohort(runs)))
    return drift.watch_drift(
        cohort,
        out or runs / FOLDER,
        predictions=predictions,
        alpha=drift.ALPHA if alpha is None else alpha,
        min_patients=drift.MIN_PATIENTS if min_patients is None else min_patients,
        min_effects=min_effects,
    ).to_json()
