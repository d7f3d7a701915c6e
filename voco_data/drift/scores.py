"""Predicted probabilities of injury of patients, from tables of finetune and predict."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from voco_data.errors import InputError

TABLE, MARKER = "predictions.parquet", "predict.json"
ALL_MODELS = -1
"""`fold` of the mean over the models of all folds, in the table of a run."""


def scores_of_run(run: Path) -> pd.DataFrame:
    """Patient to P(injury) by group, of the test patients of a fine-tuning run.

    Those are predicted by the mean of all models, as new patients are. The out-of-fold predictions
    of the others are made by one model each and have another distribution. Raises InputError.
    """
    table = _read(run / TABLE)
    lines = table[(table["level"] == "patient") & (table["fold"] == ALL_MODELS)]
    groups = [name.removeprefix("y_") for name in table.columns if name.startswith("y_")]
    return _injuries(lines, groups, "p_")


def scores_of_prediction(folder: Path, run: Path) -> pd.DataFrame:
    """Patient to P(injury) by group, of a folder that `voco predict` made with `run`.

    Raises InputError if it was made with another run.
    """
    try:
        made_by = json.loads((folder / MARKER).read_text())["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: expected the folder of a voco predict") from error
    if Path(made_by).resolve() != run.resolve():
        raise InputError(
            f"{folder}: expected predictions of the champion {run}, they are of {made_by}"
        )
    table = _read(folder / TABLE)
    lines = table[(table["level"] == "patient") & (table["status"] == "predicted")]
    groups = [n.removeprefix("predicted_") for n in table.columns if n.startswith("predicted_")]
    return _injuries(lines, groups, "raw_")


def _injuries(lines: pd.DataFrame, groups: list[str], prefix: str) -> pd.DataFrame:
    """1 - P(first class) by group; the first class is the one without an injury."""
    found = pd.DataFrame(index=pd.Index(lines["patient_id"].astype(str), name="patient_id"))
    for group in groups:
        first = next(name for name in lines.columns if name.startswith(f"{prefix}{group}_"))
        found[group] = 1 - lines[first].to_numpy("float64")
    return found


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected predictions of voco, cannot read them") from error
