"""The table of `voco bench localisers`: all localisers on the same test series."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from voco_data.store import MaskReader
from voco_models.bench.localiser_training import Localiser
from voco_models.localisation import (
    ABDOMEN,
    ALL,
    ScoredSeries,
    measure_errors,
    measure_kept,
    summarise_faces,
    summarise_kept,
    summarise_organs,
    with_regions,
)

PROFILE = "profile"
"""The localiser that finds the ends of the abdomen from HU, and no organ."""

Row = dict[str, Any]


def score_localisers(
    localisers: Sequence[Localiser],
    cases: Sequence[ScoredSeries],
    masks: MaskReader,
    margin_mm: float,
) -> dict[str, Any]:
    """`rows`, a row for each localiser over its seeds, and `by_organ` and `by_seed` of each."""
    by_key = {f"{number}": localiser for number, localiser in enumerate(localisers)}
    found = {key: with_regions(one.boxes, (ABDOMEN,)) for key, one in by_key.items()}
    errors = measure_errors(found, cases)
    kept = measure_kept(found, cases, masks.read([case.row for case in cases]), margin_mm)
    names = {key: localiser.name for key, localiser in by_key.items()}
    for table in (errors, kept):
        table.insert(0, "name", table["localiser"].map(names))
    rows, by_organ, by_seed = [], [], []
    for name in dict.fromkeys(names.values()):
        mine = {key: localiser for key, localiser in by_key.items() if localiser.name == name}
        own_errors, own_kept = errors[errors["name"] == name], kept[kept["name"] == name]
        if name == PROFILE:
            own_errors = own_errors[own_errors["organ"] == ABDOMEN]
            own_kept = own_kept[own_kept["organ"] == ABDOMEN]
        by_seed += _make_seed_rows(mine, own_errors)
        rows.append(_make_row(name, list(mine.values()), own_errors, own_kept))
        summary, shares = summarise_organs(own_errors), summarise_kept(own_kept)
        by_organ += [
            {"localiser": name, "organ": organ} | values | shares.get(organ, {})
            for organ, values in summary.items()
            if organ != ALL
        ]
    return {"rows": rows, "by_organ": by_organ, "by_seed": by_seed}


def _make_row(
    name: str, localisers: Sequence[Localiser], errors: pd.DataFrame, kept: pd.DataFrame
) -> Row:
    """Errors are pooled over the seeds; costs are medians over them."""
    organs, shares = summarise_organs(errors)[ALL], summarise_kept(kept)
    ends = {row["face"]: row for row in summarise_faces(errors[errors["organ"] == ABDOMEN])}
    abdomen = shares.get(ABDOMEN, {})
    row: Row = {
        "name": name,
        "median": organs["median_mm"],
        "unit": "mm",
        "low": organs["median_low_mm"],
        "high": organs["median_high_mm"],
        "p95_mm": organs["p95_mm"],
        "faces": organs["faces"],
        "missed": organs["missed"],
        "kept": shares[ALL]["kept"],
        "kept_lowest": shares[ALL]["kept_lowest"],
    }
    for end, face in (("top", "z_high"), ("bottom", "z_low")):
        for value in ("median_mm", "p95_mm", "bias_mm", "missed"):
            row[f"{end}_{value}"] = ends[face][value] if face in ends else None
    row["abdomen_kept"] = abdomen.get("kept")
    row["abdomen_kept_lowest"] = abdomen.get("kept_lowest")
    for cost in (
        "steps",
        "training_s",
        "inference_s",
        "parameters",
        "saved_bytes",
        "inference_bytes",
    ):
        values = [getattr(localiser, cost) for localiser in localisers]
        row[cost] = None if None in values else statistics.median(values)
    return row


def _make_seed_rows(localisers: Mapping[str, Localiser], errors: pd.DataFrame) -> list[Row]:
    """A row for each training of a localiser; `localisers` are by their keys in `errors`."""
    rows = []
    for key, localiser in localisers.items():
        organs = summarise_organs(errors[errors["localiser"] == key])[ALL]
        rows.append(
            {
                "localiser": localiser.name,
                "seed": localiser.seed,
                "median_mm": organs["median_mm"],
                "p95_mm": organs["p95_mm"],
                "missed": organs["missed"],
                "steps": localiser.steps,
                "training_s": localiser.training_s,
                "inference_s": localiser.inference_s,
            }
        )
    return rows
