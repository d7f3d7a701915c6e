"""The series that pretraining learns from: the recipe's selection without the test patients."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.errors import InputError
from voco_data.selection import (
    Exposure,
    SeenPatients,
    Selection,
    Split,
    describe_series,
    held_out_mask,
    list_series,
    measure_exposure,
)
from voco_data.store import Store
from voco_models.stages.initial_weights import InitialWeights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PretrainingSeries:
    """Series to learn from, store by store, in row order."""

    series: pd.DataFrame
    """Columns as in `voco_data.selection.list_series`."""
    weights: npt.NDArray[np.float64] | None
    """How often each is drawn, (N,); None if equally often."""
    left_out: dict[str, int]
    """Volumes of the stores that are not among them, by reason."""
    split_digest: str | None
    """Digest of the split of the stores' patients; None without a split."""
    transductive: bool
    """Whether test patients of the split are kept in."""

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Position of the store and row of each series."""
        pairs = zip(self.series["store"].tolist(), self.series["row"].tolist(), strict=True)
        return [(int(store), int(row)) for store, row in pairs]

    def count_patients(self) -> int:
        """How many patients the series are of."""
        return int(self.series["patient_id"].nunique())

    def describe(self) -> dict[str, object]:
        """What a run records."""
        return describe_series(self.series) | {
            "left_out": self.left_out,
            "transductive": self.transductive,
        }


def select_pretraining_series(
    stores: Sequence[Store], selection: Selection, split: Split | None, *, transductive: bool
) -> PretrainingSeries:
    """Select series of `stores`, without the test patients of `split` unless `transductive`.

    Patients of a test patient's family, and volumes that others share with a test patient, are
    left out too (see `held_out_mask`). Raises InputError if the selection names test patients,
    or if no series is left.
    """
    if split is None and transductive:
        raise InputError("transductive: give --split; without a split there are no test patients")
    every = list_series(stores)
    selected = selection.mask(every)
    held = np.zeros(len(every), np.bool_)
    if split is not None and not transductive:
        _refuse_named_test_patients(selection, split)
        held = held_out_mask(every, split.test, split.groups)
    chosen = every[selected & ~held].reset_index(drop=True)
    left_out = {"not selected": int((~selected).sum()), "test": int((selected & held).sum())}
    if chosen.empty:
        raise InputError(
            f"selection: none of the {len(every)} volumes is left ({left_out['not selected']} are "
            f"not selected, {left_out['test']} are of test patients); select more of them"
        )
    if left_out["test"]:
        log.info("%d volumes of test patients are left out", left_out["test"])
    return PretrainingSeries(
        series=chosen,
        weights=selection.weights_of(chosen["layout"]),
        left_out={reason: count for reason, count in left_out.items() if count},
        split_digest=None if split is None else split.digest,
        transductive=split is not None and transductive,
    )


def check_initial_weights(
    initial: InitialWeights,
    init: str | Path,
    stores: Sequence[Store],
    split: Split | None,
    *,
    transductive: bool,
) -> None:
    """Raise InputError if a run that gave the first weights has seen test patients of `split`.

    With `transductive`, or if its patients are not known, it is a warning.
    """
    if split is None or not initial.pretrained:
        return
    exposure = measure_seen(initial.seen, stores, split.test)
    if exposure.seen and not transductive:
        raise InputError(
            f"init: {init} has learnt from {exposure.seen} of the split's {len(split.test)} test "
            "patients; give weights that have not, or --transductive"
        )
    if exposure.seen != 0:
        log.warning("init: %s", exposure.sentence)


def measure_seen(
    seen: SeenPatients | None, stores: Sequence[Store], patients: Collection[str]
) -> Exposure:
    """How many of `patients`, with their ids in `stores`, pretraining has seen.

    None are known to be seen, and none not to be, where a store cannot be compared.
    """
    ids = {patient: [patient] for patient in patients}
    series = list_series(stores)
    parts = [
        measure_exposure(seen, store, series[series["store"] == position], ids).seen
        for position, store in enumerate(stores)
    ]
    known = [part for part in parts if part is not None]
    count = min(sum(known), len(patients))
    unknown = not count and len(known) < len(parts)
    return Exposure(pretrained=True, test_patients=len(patients), seen=None if unknown else count)


def _refuse_named_test_patients(selection: Selection, split: Split) -> None:
    named = selection.patient_ids or frozenset()
    count = len(named & set(split.test))
    if count:
        raise InputError(
            f"selection: it names {count} of the split's {len(split.test)} test patients; leave "
            "them out, or give --transductive"
        )
