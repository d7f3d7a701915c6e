"""Tables of predictions: a line a series and a line a patient, out-of-fold and test.

Columns: `level` (series, patient), `split` (oof, test), `fold` (the model; -1 is the mean of all),
`patient_id`, `series_uid` (empty on patient lines), `p_<organ>_<grade>` and `y_<organ>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.errors import InputError
from voco_data.labels.table import GRADES, ORGANS
from voco_data.storage import atomic
from voco_models.evaluation.metrics import Float, Int

FILE = "predictions.parquet"
ALL_MODELS = -1
"""`fold` of predictions averaged over the models of all folds."""

CHANCES = tuple(f"p_{organ}_{grade}" for organ in ORGANS for grade in GRADES)
TRUTHS = tuple(f"y_{organ}" for organ in ORGANS)
KEYS = ("level", "split", "fold", "patient_id", "series_uid")
COLUMNS = (*KEYS, *CHANCES, *TRUTHS)


def series_table(
    *,
    split: str,
    fold: int,
    patients: Sequence[str],
    series: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    grades: npt.NDArray[np.integer],
) -> pd.DataFrame:
    """Lines of N series: `probabilities` (N, 3, 3), `grades` (N, 3) of their patients."""
    chances = np.asarray(probabilities, np.float64).reshape(len(series), len(CHANCES))
    keys = pd.DataFrame(
        {
            "level": "series",
            "split": split,
            "fold": fold,
            "patient_id": list(patients),
            "series_uid": list(series),
        }
    )
    p = pd.DataFrame(chances, columns=list(CHANCES))
    y = pd.DataFrame(np.asarray(grades, np.int64), columns=list(TRUTHS))
    return pd.concat([keys, p, y], axis=1)


def mean_over_folds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of the same series in the same order, predicted by several models: their mean."""
    first = tables[0]
    for other in tables[1:]:
        if not first["series_uid"].equals(other["series_uid"]):
            raise ValueError("tables must list the same series in the same order")
    chances = np.mean([table[list(CHANCES)].to_numpy() for table in tables], axis=0)
    merged = first.assign(fold=ALL_MODELS)
    merged[list(CHANCES)] = chances
    return merged


def to_patients(series: pd.DataFrame, how: str) -> pd.DataFrame:
    """A line a patient: the mean of its series, or for each organ the series with most injury."""
    mean = series.groupby(["split", "fold", "patient_id"], as_index=False, sort=True)[
        [*CHANCES, *TRUTHS]
    ].mean()
    patients = mean.assign(level="patient", series_uid="")
    patients[list(TRUTHS)] = patients[list(TRUTHS)].astype(np.int64)
    if how == "max":
        order = ["split", "fold", "patient_id"]
        for organ in ORGANS:
            columns = [f"p_{organ}_{grade}" for grade in GRADES]
            worst = series.sort_values([*order, columns[0]]).groupby(order, sort=True).head(1)
            patients[columns] = worst[columns].to_numpy()
    return patients[list(COLUMNS)]


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write a table of predictions, whole or not at all."""
    with atomic.replacing(path) as temporary:
        table[list(COLUMNS)].to_parquet(temporary, index=False)


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a table of predictions. InputError if it is none."""
    try:
        return pd.read_parquet(path)[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected predictions of voco finetune, cannot read") from error


def patient_lines(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """The patient lines of one split, sorted by patient."""
    chosen = table[(table["level"] == "patient") & (table["split"] == split)]
    return chosen.sort_values("patient_id", ignore_index=True)


def organ_probabilities(table: pd.DataFrame) -> dict[str, Float]:
    """(N, 3) for each organ."""
    return {
        organ: table[[f"p_{organ}_{grade}" for grade in GRADES]].to_numpy(np.float64)
        for organ in ORGANS
    }


def organ_truths(table: pd.DataFrame) -> dict[str, Int]:
    """(N,) for each organ."""
    return {organ: table[f"y_{organ}"].to_numpy(np.int64) for organ in ORGANS}
