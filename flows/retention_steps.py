"""What is removed from the stores and from the folder of retrainings, for command and flow."""

from __future__ import annotations

from pathlib import Path

from voco_data import drift, maintenance
from voco_data.storage import existing_root
from voco_models import tracking

KEEP_RUNS = 30
"""Ledgers and reports of preprocess runs that stay."""


def remove_what_is_old(
    root: str | Path,
    runs: Path | None = None,
    *,
    keep_runs: int = KEEP_RUNS,
    days: float | None = None,
    yes: bool = False,
    wait: float = 0.0,
) -> dict[str, object]:
    """List what nothing needs under `root` and in `runs`; with `yes`, remove it.

    Of the ledgers, those that `voco drift` needs stay in any case. Raises as
    `voco_data.maintenance.collect_garbage` and `voco_models.tracking.remove_old_runs`.
    """
    storage = existing_root(root)
    if runs is not None and tracking.read_champions(runs).champion is not None:
        since = tracking.find_champion_cohort(runs).since
        keep_runs = max(keep_runs, drift.count_ledgers_to_keep(storage, since))
    old_runs = (
        []
        if runs is None
        else tracking.remove_old_runs(runs, days=tracking.DAYS if days is None else days, yes=False)
    )
    collected = maintenance.collect_garbage(storage, keep_runs=keep_runs, yes=yes, wait=wait)
    if runs is not None and yes:
        old_runs = tracking.remove_old_runs(
            runs, days=tracking.DAYS if days is None else days, yes=True
        )
    return {
        "removed": yes,
        "bytes": collected.bytes + sum(each.bytes for each in old_runs),
        "garbage": [
            *(item.to_json() for item in collected.garbage),
            *(each.to_json() for each in old_runs),
        ],
        "kept": list(collected.kept),
        "kept_ledgers": keep_runs,
    }
