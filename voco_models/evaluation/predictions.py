"""Tables of predictions: one line per series and one per patient, out-of-fold and test.

Columns: `level` (series, patient), `split` (oof, test), `fold` (the model; -1 for the mean of all),
`patient_id`, `series_uid` (empty on patient lines), `p_<group>_<class>` and `y_<group>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS, TargetGroup, TargetTable
from voco_data.storage import atomic, parquet
from voco_models.evaluation.metrics import FloatArray, IntArray

FILE = "predictions.parquet"
ALL_MODELS = -1
"""`fold` of the mean over the models of all folds."""

KEYS = ("level", "split", "fold", "patient_id", "series_uid")


def group_columns(group: TargetGroup) -> list[str]:
    """Columns of a group's probabilities, in the order of its classes."""
    return [f"p_{column}" for column in group.columns]


def probability_columns(targets: TargetTable = ORGAN_TARGETS) -> list[str]:
    """Columns of all probabilities, group by group."""
    return [column for group in targets for column in group_columns(group)]


def truth_columns(targets: TargetTable = ORGAN_TARGETS) -> list[str]:
    """Columns of the true classes, one per group."""
    return [f"y_{name}" for name in targets.names]


def table_columns(targets: TargetTable = ORGAN_TARGETS) -> list[str]:
    """All columns of a table of predictions."""
    return [*KEYS, *probability_columns(targets), *truth_columns(targets)]


def make_series_table(
    *,
    split: str,
    fold: int,
    patients: Sequence[str],
    series: Sequence[str],
    probabilities: Mapping[str, npt.NDArray[np.floating]],
    truths: Mapping[str, npt.NDArray[np.integer]],
    targets: TargetTable = ORGAN_TARGETS,
) -> pd.DataFrame:
    """Lines of N series, with `probabilities` (N, C) and `truths` (N,) by group."""
    keys = pd.DataFrame(
        {
            "level": "series",
            "split": split,
            "fold": fold,
            "patient_id": list(patients),
            "series_uid": list(series),
        }
    )
    p = np.concatenate([np.asarray(probabilities[g], np.float64) for g in targets.names], axis=1)
    y = np.stack([np.asarray(truths[g], np.int64) for g in targets.names], axis=1)
    return pd.concat(
        [
            keys,
            pd.DataFrame(p, columns=probability_columns(targets)),
            pd.DataFrame(y, columns=truth_columns(targets)),
        ],
        axis=1,
    )


def average_folds(
    tables: Sequence[pd.DataFrame], targets: TargetTable = ORGAN_TARGETS
) -> pd.DataFrame:
    """The mean of the predictions of several models.

    Raises ValueError unless all tables have the same series in the same order.
    """
    columns = probability_columns(targets)
    first = tables[0]
    for other in tables[1:]:
        if not first["series_uid"].equals(other["series_uid"]):
            raise ValueError("tables must list the same series in the same order")
    mean = np.mean([table[columns].to_numpy() for table in tables], axis=0)
    merged = first.assign(fold=ALL_MODELS)
    merged[columns] = mean
    return merged


def to_patients(
    series: pd.DataFrame, aggregate: str, targets: TargetTable = ORGAN_TARGETS
) -> pd.DataFrame:
    """One line per patient, from the lines of its series.

    `aggregate` is `mean`, or `max`: for each group the series with most injury, which has the
    lowest probability of class 0.
    """
    truths = truth_columns(targets)
    mean = series.groupby(["split", "fold", "patient_id"], as_index=False, sort=True)[
        [*probability_columns(targets), *truths]
    ].mean()
    patients = mean.assign(level="patient", series_uid="")
    patients[truths] = patients[truths].astype(np.int64)
    if aggregate == "max":
        keys = ["split", "fold", "patient_id"]
        for group in targets:
            columns = group_columns(group)
            most_injured = series.sort_values([*keys, columns[0]]).groupby(keys, sort=True).head(1)
            patients[columns] = most_injured[columns].to_numpy()
    return patients[table_columns(targets)]


def write_predictions(
    path: Path, table: pd.DataFrame, targets: TargetTable = ORGAN_TARGETS
) -> None:
    """Write a table of predictions, completely or not at all."""
    with atomic.replacing(path) as temporary:
        table[table_columns(targets)].to_parquet(temporary, index=False)


def read_predictions(path: Path, targets: TargetTable = ORGAN_TARGETS) -> pd.DataFrame:
    """Read a table of predictions. Raises InputError if it is none, or lacks a group."""
    table = parquet.read_frame(path, "predictions of voco finetune")
    try:
        return table[table_columns(targets)]
    except KeyError as error:
        raise InputError(f"{path}: expected predictions of voco finetune; {error}") from error


def patient_lines(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """The patient lines of one split, sorted by patient."""
    selected = table[(table["level"] == "patient") & (table["split"] == split)]
    return selected.sort_values("patient_id", ignore_index=True)


def group_probabilities(
    table: pd.DataFrame, targets: TargetTable = ORGAN_TARGETS
) -> dict[str, FloatArray]:
    """Probabilities (N, C) by group."""
    return {group.name: table[group_columns(group)].to_numpy(np.float64) for group in targets}


def group_truths(table: pd.DataFrame, targets: TargetTable = ORGAN_TARGETS) -> dict[str, IntArray]:
    """True classes (N,) by group."""
    return {name: table[f"y_{name}"].to_numpy(np.int64) for name in targets.names}
