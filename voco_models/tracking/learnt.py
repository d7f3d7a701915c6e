"""How much a retraining had to learn from, from its pins: patients, series, new series."""

from __future__ import annotations

from pathlib import PurePosixPath

from voco_data.errors import InputError
from voco_data.selection import PinnedRows
from voco_models.tracking.champions import Learnt, RetrainedRun
from voco_models.tracking.pins import ROWS, RetrainingPins


def describe_learnt(pins: RetrainingPins, before: RetrainedRun | None) -> Learnt | None:
    """Counts of a retraining; `before` is the one that finished last, in the same folder of runs.

    Series are those of the store for fine-tuning. Those of a patient with another id, and those
    whose source has changed, are new. None without pinned rows.
    """
    if not pins.rows.exists():
        return None
    stores = PinnedRows.read(pins.rows).stores
    series = set(stores[PurePosixPath(pins.stores["finetune"]).name].values())
    return Learnt(
        patients=pins.patients,
        unlabelled=pins.unlabelled,
        series=len(series),
        new_series=_count_new(series, pins, before),
        backbone=pins.backbone.reason,
    )


def _count_new(series: set[str], pins: RetrainingPins, before: RetrainedRun | None) -> int | None:
    if before is None:
        return len(series)
    try:
        earlier = PinnedRows.read(pins.folder.parent / before.run / ROWS).stores
    except InputError:  # its folder was removed: a count is not worth a failed retraining
        return None
    return len(series.difference(*(rows.values() for rows in earlier.values())))
