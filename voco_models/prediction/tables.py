"""Tables of predictions for new patients.

One line per series, study and patient, and one per refused series or file. Columns: `KEYS`, and of
each group `raw_<group>_<class>` (of the model), `calibrated_<group>_<class>`, `predicted_<group>`
(name of the class), `margin_<group>`, and `abstained_<group>`, empty where it does not abstain.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.labels import RSNA_TARGETS, TargetTable
from voco_data.storage import atomic, parquet
from voco_models.evaluation import Decision, FloatArray, predictions
from voco_models.prediction.abstention import FALLBACK_CONFIDENCE, Abstention, margins_of

KEYS = (
    "level",
    "status",
    "reason",
    "detail",
    "patient_id",
    "study_uid",
    "series_uid",
    "source",
    "box_confidence",
    "flags",
    "n_series",
)
"""`level`: series, study, patient, or file. `status`: predicted or refused; a patient or study is
refused if all its series are. `source` is where a series or file lies, as in the ledger, and empty
on other lines. `box_confidence` is the lowest of the series. `n_series` are used."""
PREDICTED, REFUSED = "predicted", "refused"
NEAR_ANOTHER_CLASS = "near_another_class"
FALLBACK_BOX = "fallback_box"
"""Values of `abstained_<group>`."""

_SERIES_IDS = ["patient_id", "study_uid", "series_uid"]


def make_series_lines(
    series: pd.DataFrame, raw: Mapping[str, npt.NDArray[np.floating[Any]]], targets: TargetTable
) -> pd.DataFrame:
    """Lines of N series with the model's probabilities (N, C) by group, as `raw_...` columns.

    `series` has `patient_id`, `study_uid`, `series_uid`, `source`, `box_confidence` and `flags`.
    """
    lines = series[[*_SERIES_IDS, "source", "box_confidence", "flags"]].reset_index(drop=True)
    for group in targets:
        for c, column in enumerate(group.columns):
            lines[f"raw_{column}"] = np.asarray(raw[group.name], np.float64)[:, c]
    return lines.assign(level="series", n_series=1)


def make_table(
    series: pd.DataFrame,
    refused: pd.DataFrame,
    *,
    aggregate: str,
    decision: Decision,
    abstention: Abstention,
) -> pd.DataFrame:
    """All lines: of the `series` from `make_series_lines`, of their studies and patients, and of
    the `refused` rows of a ledger.

    `aggregate` is `mean` or `max`, as in `voco_models.evaluation.predictions.to_patients`.
    """
    targets = decision.thresholds.targets
    parts = []
    if len(series):
        units = [
            series,
            _aggregate(series, ["patient_id", "study_uid"], "study", aggregate, targets),
            _aggregate(series, ["patient_id"], "patient", aggregate, targets),
        ]
        predicted = pd.concat(units, ignore_index=True).assign(
            status=PREDICTED, reason="", detail=""
        )
        parts.append(_decide(predicted, decision, abstention))
    if len(refused):
        parts.append(_refused_lines(refused, series))
    columns = table_columns(targets)
    if not parts:
        return pd.DataFrame(columns=columns)
    # Objects of lists, so that pandas does not guess types of columns that one part lacks.
    rows = [row for part in parts for row in part.reindex(columns=columns).to_dict("records")]
    table = pd.DataFrame(rows, columns=columns)
    texts = [c for c in columns if c.startswith(("predicted_", "abstained_"))]
    table[texts] = table[texts].astype(object).fillna("")
    return table


def table_columns(targets: TargetTable) -> list[str]:
    """All columns of the table."""
    by_group = [
        column
        for group in targets
        for column in (
            *(f"raw_{name}" for name in group.columns),
            *(f"calibrated_{name}" for name in group.columns),
            f"predicted_{group.name}",
            f"margin_{group.name}",
            f"abstained_{group.name}",
        )
    ]
    return [*KEYS, *by_group]


def raw_probabilities(lines: pd.DataFrame, targets: TargetTable) -> dict[str, FloatArray]:
    """The model's probabilities (N, C) by group, of N lines."""
    return {
        group.name: lines[[f"raw_{name}" for name in group.columns]].to_numpy(np.float64)
        for group in targets
    }


def _aggregate(
    series: pd.DataFrame, keys: list[str], level: str, aggregate: str, targets: TargetTable
) -> pd.DataFrame:
    """One line per study or patient, by the rule with which the run was evaluated."""
    unit = series.groupby(keys, sort=True).ngroup()
    raw = raw_probabilities(series, targets)
    lines = predictions.make_series_table(
        split="new",
        fold=predictions.ALL_MODELS,
        patients=[f"{number:08d}" for number in unit],
        series=series["series_uid"].tolist(),
        probabilities=raw,
        truths={name: np.full(len(series), -1, np.int64) for name in targets.names},
        targets=targets,
    )
    merged = predictions.to_patients(lines, aggregate, targets)  # sorted by the unit's number
    grouped = series.groupby(keys, sort=True)
    result = grouped.agg(
        box_confidence=("box_confidence", "min"),
        flags=("flags", lambda flags: " ".join(sorted(set(" ".join(flags).split())))),
        n_series=("series_uid", "size"),
    ).reset_index()
    for group in targets:
        for name in group.columns:
            result[f"raw_{name}"] = merged[f"p_{name}"].to_numpy()
    empty = {key: "" for key in (*_SERIES_IDS, "source") if key not in keys}
    return result.assign(level=level, **empty)


def _decide(lines: pd.DataFrame, decision: Decision, abstention: Abstention) -> pd.DataFrame:
    """The lines with calibrated probabilities, predicted classes, margins and abstention."""
    targets = decision.thresholds.targets
    raw = raw_probabilities(lines, targets)
    calibrated, classes = decision.calibrate(raw), decision.classify(raw)
    margins = margins_of(decision, raw)
    near = abstention.decide(margins)
    fallback = lines["box_confidence"].to_numpy(np.float64) < FALLBACK_CONFIDENCE
    lines = lines.copy()
    for group in targets:
        for c, column in enumerate(group.columns):
            lines[f"calibrated_{column}"] = calibrated[group.name][:, c]
        lines[f"predicted_{group.name}"] = [group.classes[c] for c in classes[group.name]]
        lines[f"margin_{group.name}"] = margins[group.name]
        reasons = np.where(near[group.name], NEAR_ANOTHER_CLASS, "")
        lines[f"abstained_{group.name}"] = np.where(fallback, FALLBACK_BOX, reasons)
    return lines


def _refused_lines(refused: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Lines of refused series and files, and of the patients and studies without another series."""
    rows = refused.assign(level=refused["kind"], status=REFUSED, flags="", n_series=0)
    shown = ["level", "status", "reason", "detail", *_SERIES_IDS, "source", "flags", "n_series"]
    parts = [rows[shown]]
    for level, keys in (("study", ["patient_id", "study_uid"]), ("patient", ["patient_id"])):
        known = set(series[keys].itertuples(index=False, name=None)) if len(series) else set()
        of_series = rows[(rows["level"] == "series") & (rows["patient_id"] != "")]
        for ids, lines in of_series.groupby(keys, sort=True):
            if ids in known:
                continue
            reasons = " ".join(sorted(set(lines["reason"])))
            detail = f"all its {len(lines)} series are refused"
            line = dict.fromkeys([*_SERIES_IDS, "source"], "") | dict(zip(keys, ids, strict=True))
            line |= {"level": level, "status": REFUSED, "reason": reasons, "detail": detail}
            parts.append(pd.DataFrame([line | {"flags": "", "n_series": 0}]))
    return pd.concat(parts, ignore_index=True)


def make_submission(
    table: pd.DataFrame, priors: Mapping[str, FloatArray], targets: TargetTable
) -> pd.DataFrame:
    """A line per patient in the columns of RSNA 2023 Abdominal Trauma Detection.

    Calibrated probabilities; the `priors` (C,) for groups that the model does not grade, and for
    all groups of refused patients. Empty for a group without a prior.
    """
    patients = table[table["level"] == "patient"].sort_values("patient_id", ignore_index=True)
    lines = patients[["patient_id"]].copy()
    graded = (patients["status"] == PREDICTED).to_numpy()
    for group in RSNA_TARGETS:
        constant = priors.get(group.name, np.full(len(group.classes), np.nan))
        for c, column in enumerate(group.columns):
            lines[column] = float(constant[c])
            if group.name in targets:
                own = patients[f"calibrated_{column}"].to_numpy(np.float64)
                lines[column] = np.where(graded, own, constant[c])
    return lines


def read_patients(path: Path) -> list[dict[str, Any]]:
    """The lines of patients of a written table (Parquet), each by column, ordered by id."""
    table = parquet.read_frame(path, "predictions of voco predict")
    patients = table[table["level"] == "patient"].sort_values("patient_id")
    return [
        {str(name): value for name, value in line.items()} for line in patients.to_dict("records")
    ]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet or CSV, by its suffix, completely or not at all."""
    with atomic.replacing(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
