"""Scores of the boxes of `voco localise` against masks, on patients the run has not learnt from.

Two tables beside the boxes, of which `boxes.csv` is the name here:

boxes-scores.json   who was scored, and the scores by organ and by face
boxes-errors.csv    a line for each series, organ and face
boxes-kept.csv      a line for each series and organ, if masks were read again
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voco_data.errors import InputError, translate_unwritable
from voco_data.selection import SeenPatients, find_seen, list_series
from voco_data.storage import atomic
from voco_data.store import MaskReader, Record, Store
from voco_models.localisation import (
    NOTHING_KEPT,
    REGIONS,
    Boxes,
    OrganBox,
    ScoredSeries,
    Truth,
    count_false_boxes,
    mean_boxes,
    measure_errors,
    measure_kept,
    place_in,
    read_truth,
    summarise_faces,
    summarise_kept,
    summarise_organs,
    with_regions,
)
from voco_models.stages.series_geometry import read_records

log = logging.getLogger(__name__)

RUN, MEAN_BOX = "run", "mean_box"
"""Localisers in the tables: the run, and the mean place of each organ in the run's training."""
NO_MEAN_BOX = "no patient that the run has learnt from has a mask here; name its store"


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """Which series are scored, and the baseline."""

    cases: list[ScoredSeries]
    positions: list[int]
    """Of the cases among the records that were given."""
    regions: tuple[str, ...]
    mean_boxes: list[Boxes] | None
    """Of each case; None if no training series with masks is at hand."""
    facts: dict[str, Any]
    """Who is scored and who is not, as plain values."""


def plan_scores(
    run: Path,
    store: Store,
    records: Sequence[Record],
    organs: Sequence[str],
    box: str,
    trained_on: Sequence[Store] = (),
) -> ScorePlan:
    """Choose the series that are scored: those with masks of patients the run has not learnt from.

    `records` are those of `store`. The mean boxes are over the series with masks, in `trained_on`
    or else in `store`, of patients that the run has learnt from. Raises InputError if it is not
    known whom the run has learnt from, and if no series is left.
    """
    seen = SeenPatients.read(run)
    if seen is None:
        raise InputError(
            f"score: {run} has no patients.json, so that it is not known whom it has learnt from; "
            "train it anew with voco project"
        )
    learnt = find_seen(seen, store, list_series([store]))
    regions = (box,) if box in REGIONS else ()
    truths = [read_truth(record, organs) for record in records]
    positions = [
        number
        for number, (record, truth) in enumerate(zip(records, truths, strict=True))
        if truth.is_known and record.patient_id not in learnt.patients
    ]
    masked = [r for r, truth in zip(records, truths, strict=True) if truth.is_known]
    if not positions:
        raise InputError(
            f"score: of the {len(records)} series, {len(masked)} have masks of the run's organs, "
            "none of a patient that the run has not learnt from; train with --split, or give "
            "another store"
        )
    cases = [
        ScoredSeries(
            row=records[number].row,
            series_uid=records[number].series_uid,
            patient_id=records[number].patient_id,
            truth=truths[number].with_regions(regions),
        )
        for number in positions
    ]
    training = _find_training(seen, trained_on or [store], organs)
    left_out = [record for record in masked if record.patient_id in learnt.patients]
    return ScorePlan(
        cases=cases,
        positions=positions,
        regions=regions,
        mean_boxes=_place_mean_boxes(training, cases, regions) if training else None,
        facts={
            "patients": len({case.patient_id for case in cases}),
            "series": len(cases),
            "left_out_learnt_from": {
                "patients": len({record.patient_id for record in left_out}),
                "series": len(left_out),
            },
            "left_out_without_mask": len(records) - len(masked),
            "learnt_from_known_by": "ids and volumes" if learnt.compares_ids else "volumes alone",
            "mean_box": f"{len(training)} series" if training else NO_MEAN_BOX,
        },
    )


def _find_training(
    seen: SeenPatients, stores: Sequence[Store], organs: Sequence[str]
) -> list[Truth]:
    """The truths of the series with masks whose patients a run has learnt from."""
    truths = []
    for store in stores:
        learnt = find_seen(seen, store, list_series([store])).patients
        table = store.catalogue
        rows = table["row"][table["patient_id"].astype(str).isin(learnt)]
        records = read_records(store, [int(row) for row in rows])
        truths += [read_truth(record, organs) for record in records]
    return [truth for truth in truths if truth.organs]


def _place_mean_boxes(
    training: Sequence[Truth], cases: Sequence[ScoredSeries], regions: Sequence[str]
) -> list[Boxes]:
    means = mean_boxes([truth.organs for truth in training], [truth.volume for truth in training])
    placed = [
        {organ: place_in(case.truth.volume, mean) for organ, mean in means.items()}
        for case in cases
    ]
    return list(with_regions(placed, regions))


def score_boxes(
    plan: ScorePlan,
    found: Sequence[Mapping[str, OrganBox]],
    out: Path,
    *,
    margin_mm: float,
    masks: MaskReader | None = None,
) -> dict[str, Any]:
    """Score the boxes of the run, and write the tables beside `out`; returns them as plain values.

    `found` are the boxes of all records that the plan was made for. Kept voxels are counted if
    `masks` can be read.
    """
    by_name: dict[str, list[Boxes]] = {
        RUN: list(with_regions([found[number] for number in plan.positions], plan.regions))
    }
    if plan.mean_boxes is not None:
        by_name[MEAN_BOX] = plan.mean_boxes
    errors = measure_errors(by_name, plan.cases)
    kept = None
    if masks is not None:
        read = masks.read([case.row for case in plan.cases])
        kept = measure_kept(by_name, plan.cases, read, margin_mm)
    scores = plan.facts | {
        "margin_mm": margin_mm,
        "masks_read": 0 if kept is None else int(kept["series"].nunique()),
        "organs": _make_rows(errors, kept, count_false_boxes(by_name[RUN], plan.cases)),
        "faces": summarise_faces(errors[errors["localiser"] == RUN]),
    }
    files = [_write_json(out, scores), _write_table(out, "errors", errors, plan.cases)]
    if kept is not None:
        files.append(_write_table(out, "kept", kept, plan.cases))
    return scores | {"files": [str(file) for file in files]}


def _make_rows(
    errors: pd.DataFrame, kept: pd.DataFrame | None, false_boxes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """A row for each organ and region, and for all organs: the run beside the mean box."""
    columns: dict[str, dict[str, dict[str, Any]]] = {}
    for name, part in errors.groupby("localiser", sort=False):
        columns[str(name)] = summarise_organs(part)
        if kept is not None:
            shares = summarise_kept(kept[kept["localiser"] == name])
            for organ, values in columns[str(name)].items():
                values |= shares.get(organ, NOTHING_KEPT)
    rows = []
    for organ, values in columns[RUN].items():
        row = {"organ": organ} | values | {"false_boxes": false_boxes.get(organ, 0)}
        for name in ("median_mm", "p95_mm", "kept", "kept_lowest"):
            if MEAN_BOX in columns and name in values:
                row[f"mean_box_{name}"] = columns[MEAN_BOX][organ][name]
        rows.append(row)
    return rows


def _write_json(out: Path, scores: Mapping[str, Any]) -> Path:
    path = out.with_name(f"{out.stem}-scores.json")
    with translate_unwritable(path):
        atomic.write_text(path, json.dumps(_without_nan(scores), indent=1) + "\n")
    return path


def _write_table(out: Path, name: str, table: pd.DataFrame, cases: Sequence[ScoredSeries]) -> Path:
    """Write a table with the ids of the series in place of their numbers."""
    path = out.with_name(f"{out.stem}-{name}.csv")
    numbers = table["series"].to_numpy(int)
    named = table.drop(columns=["series", "patient_id"], errors="ignore")
    named.insert(0, "series_uid", [cases[number].series_uid for number in numbers])
    named.insert(1, "patient_id", [cases[number].patient_id for number in numbers])
    with translate_unwritable(path), atomic.replacing(path) as temporary:
        named.to_csv(temporary, index=False)
    return path


def _without_nan(value: Any) -> Any:
    """The value with None for numbers that are not: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
