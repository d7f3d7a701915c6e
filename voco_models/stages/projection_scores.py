"""Scores of a run of `voco project` on series with masks: overlap of maps, and faces of boxes.

Two tables in the folder of the run. `organ_scores.parquet` has a line for each organ whose place
the mask of a series tells:

    patient_id, series_uid, organ
    dice_coronal, dice_sagittal             at a probability of 0.5; NaN if both maps are empty
    hd95_coronal_mm, hd95_sagittal_mm       infinite if one of the maps is empty
    worst_coronal_mm, worst_sagittal_mm     diagonals of the maps
    is_found                                whether the maps give a box of the organ
    has_extent                              whether the organ is in the volume: it has a true box

`face_errors.parquet` has a line for each true face of an organ, as `boundary_errors`:

    patient_id, series_uid, organ, face
    error_mm    NaN if the organ was not found
    worst_mm    length of the volume along the axis of the face
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from voco_data.batching import batched
from voco_data.cohort import PLACED_MASK
from voco_data.errors import translate_unwritable
from voco_data.selection import Split, list_series
from voco_data.storage import atomic, parquet
from voco_data.store import OrganMaps, Record, Store
from voco_models.evaluation import dice_scores, hd95_scores_mm
from voco_models.localisation import (
    Extent,
    OrganBox,
    boundary_errors,
    find_box,
    read_truth,
)
from voco_models.stages.localisation import load_networks
from voco_models.stages.organ_map_prediction import predict_maps
from voco_models.stages.pretrain_series import select_pretraining_series
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.stages.projection_weights import NETWORKS
from voco_models.stages.series_geometry import read_records
from voco_models.training import choose_device

ORGAN_SCORES, FACE_ERRORS = "organ_scores.parquet", "face_errors.parquet"
SERIES_PER_STEP = 32
"""Series whose maps are in memory at a time."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MaskedSeries:
    """Who has masks in a store: patients to learn from, and series to test on."""

    learnt: tuple[str, ...]
    """Patients outside the test set, sorted."""
    test_rows: tuple[int, ...]
    """Rows of the series of test patients."""
    test_patients: tuple[str, ...]
    """The patient of each of these series."""
    test_series: tuple[str, ...]
    """Their series UIDs."""


@dataclass(frozen=True, slots=True)
class ProjectionScores:
    """The two tables of a run; see the module."""

    organs: pd.DataFrame
    faces: pd.DataFrame


def find_masked_series(store: Store, recipe: ProjectionRecipe, split: Split) -> MaskedSeries:
    """The series of `store`, of the recipe's selection, whose masks know an organ of the recipe.

    Of the test patients, those series whose masks show one. Patients that the selection names are
    those to learn from. Raises InputError for a selection that leaves no series.
    """
    learnt = select_pretraining_series([store], recipe.selection, split, transductive=False).series
    every = list_series([store])
    selected = replace(recipe.selection, patients=(), patients_file=None).mask(every)
    held = every["patient_id"].astype(str).isin(set(split.test)).to_numpy(np.bool_)
    organs = set(recipe.organs)
    known = {
        record.patient_id
        for record in _read_masked(store, learnt)
        if organs & record.organ_maps.keys()
    }
    tested = [
        record
        for record in _read_masked(store, every[selected & held])
        if organs & record.organ_maps.keys() & record.organs.keys()
    ]
    return MaskedSeries(
        learnt=tuple(sorted(known)),
        test_rows=tuple(record.row for record in tested),
        test_patients=tuple(record.patient_id for record in tested),
        test_series=tuple(record.series_uid for record in tested),
    )


def _read_masked(store: Store, series: pd.DataFrame) -> list[Record]:
    """The records of those series that have a mask."""
    masked = [PLACED_MASK in flags.split() for flags in series["flags"]]
    return read_records(store, series["row"][masked].tolist())


def score_projection(
    run: str | Path,
    store: Store,
    rows: Sequence[int],
    *,
    device: str | torch.device | None = None,
) -> ProjectionScores:
    """Score the maps of a run with the target `organs` on `rows` of `store`; write both tables.

    Raises InputError for a folder that is no such run, and for a store of another spec.
    """
    folder = Path(run)
    objective, recipe = load_networks(folder / NETWORKS, store)
    organs: list[pd.DataFrame] = []
    faces: list[pd.DataFrame] = []
    for part in batched(rows, SERIES_PER_STEP):
        records = read_records(store, part)
        predicted = predict_maps(objective, store, part, choose_device(device))
        coronal, sagittal = (np.stack(maps) for maps in zip(*predicted, strict=True))
        truths = store.read_organ_maps(part, recipe.organs)
        boxes = [
            {
                organ: box
                for i, organ in enumerate(recipe.organs)
                if (box := find_box(front[i], side[i], record.box_low_mm, record.box_high_mm))
            }
            for record, (front, side) in zip(records, predicted, strict=True)
        ]
        extents = [
            _true_extents(record, truths, position) for position, record in enumerate(records)
        ]
        organs.append(_organ_lines(records, truths, (coronal, sagittal), boxes, extents))
        faces.append(_face_lines(records, boxes, extents))
    scores = ProjectionScores(
        pd.concat(organs, ignore_index=True), pd.concat(faces, ignore_index=True)
    )
    for name, table in ((ORGAN_SCORES, scores.organs), (FACE_ERRORS, scores.faces)):
        with translate_unwritable(folder), atomic.replacing(folder / name) as temporary:
            table.to_parquet(temporary, index=False)
    return scores


def read_projection_scores(run: Path) -> ProjectionScores:
    """The tables of a run that was scored. Raises InputError if one cannot be read."""
    tables = []
    for name in (ORGAN_SCORES, FACE_ERRORS):
        advice = f"remove {run}, so that the run is made again"
        tables.append(parquet.read_frame(run / name, "scores of a projection", advice))
    return ProjectionScores(*tables)


def _true_extents(record: Record, truths: OrganMaps, position: int) -> dict[str, Extent]:
    """The true boxes of those organs of a series that are in its volume."""
    found = read_truth(record, truths.organs).organs
    shown = truths.coronal[position].any(axis=(1, 2))
    return {
        organ: found[organ]
        for organ, is_shown in zip(truths.organs, shown, strict=True)
        if is_shown and organ in found
    }


def _organ_lines(
    records: Sequence[Record],
    truths: OrganMaps,
    predicted: tuple[FloatArray, FloatArray],
    boxes: Sequence[dict[str, OrganBox]],
    extents: Sequence[dict[str, Extent]],
) -> pd.DataFrame:
    """Lines of `organ_scores.parquet` for maps (N, C, Z, X) and (N, C, Z, Y)."""
    known = truths.is_known
    places = np.argwhere(known)
    series, channels = places[:, 0].tolist(), places[:, 1].tolist()
    names = [truths.organs[channel] for channel in channels]
    columns: dict[str, object] = {
        "patient_id": [records[i].patient_id for i in series],
        "series_uid": [records[i].series_uid for i in series],
        "organ": names,
    }
    lengths = np.array([np.subtract(r.box_high_mm, r.box_low_mm) for r in records])
    for plane, maps, true, axes in (
        ("coronal", predicted[0], truths.coronal, (0, 2)),
        ("sagittal", predicted[1], truths.sagittal, (0, 1)),
    ):
        sides = lengths[:, axes]
        spacings = sides / maps.shape[2:]
        columns[f"dice_{plane}"] = dice_scores(maps, true, known)[series, channels]
        distances = hd95_scores_mm(maps, true, spacings, known)
        columns[f"hd95_{plane}_mm"] = distances[series, channels]
        columns[f"worst_{plane}_mm"] = np.hypot(*sides.T)[series]
    columns["is_found"] = [name in boxes[i] for i, name in zip(series, names, strict=True)]
    columns["has_extent"] = [name in extents[i] for i, name in zip(series, names, strict=True)]
    return pd.DataFrame(columns)


def _face_lines(
    records: Sequence[Record],
    boxes: Sequence[dict[str, OrganBox]],
    extents: Sequence[dict[str, Extent]],
) -> pd.DataFrame:
    """Lines of `face_errors.parquet`."""
    volumes = [Extent(record.box_low_mm, record.box_high_mm) for record in records]
    errors = boundary_errors(boxes, extents, volumes).astype({"error_mm": np.float64})
    series = [int(i) for i in errors.pop("series")]
    errors.insert(0, "patient_id", [records[i].patient_id for i in series])
    errors.insert(1, "series_uid", [records[i].series_uid for i in series])
    lengths = np.array([np.subtract(r.box_high_mm, r.box_low_mm) for r in records])
    axes = ["zyx".index(face[0]) for face in errors["face"]]
    return errors.assign(worst_mm=lengths[series, axes])
