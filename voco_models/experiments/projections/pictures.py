"""True and predicted maps of a few test patients, for the page of an experiment.

The patients are chosen before anything is predicted: those whose masks know the most organs, in the
order of their ids. Maps are those of the first seed with the fewest masks, where arms differ most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voco_data.store import OrganMaps, Store, read_record
from voco_models.experiments.projections.jobs import ProjectionTrial
from voco_models.stages import NETWORKS, OrganColumn, draw_organs, load_networks, predict_maps
from voco_models.training import choose_device

PATIENTS = 3
THRESHOLD = 0.5
TRUTH = "mask"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Picture:
    """The maps of one series."""

    title: str
    svg: str


def draw_pictures(
    trials: Sequence[ProjectionTrial], *, device: str | torch.device | None = None
) -> list[Picture]:
    """The maps of both planes of a few test patients: the truth, then every arm."""
    masks, seed = min(trial.masks for trial in trials), trials[0].seed
    shown = [trial for trial in trials if (trial.masks, trial.seed) == (masks, seed)]
    store = Store.open(shown[0].job.store)
    organs = shown[0].job.recipe.organs
    rows = _choose_rows(shown[0], store, organs)
    truths = store.read_organ_maps(rows, organs)
    predicted = []
    for trial in shown:
        objective, _ = load_networks(trial.job.folder / NETWORKS, store)
        predicted.append(predict_maps(objective, store, rows, choose_device(device)))
    return [
        _draw(
            store,
            row,
            truths,
            position,
            {trial.arm: maps[position] for trial, maps in zip(shown, predicted, strict=True)},
        )
        for position, row in enumerate(rows)
    ]


def _choose_rows(trial: ProjectionTrial, store: Store, organs: Sequence[str]) -> list[int]:
    """A series of each of `PATIENTS` patients."""
    series = trial.series
    known = store.read_organ_maps(series.test_rows, organs).is_known.sum(axis=1)
    best = sorted(
        zip(-known, series.test_patients, series.test_series, series.test_rows, strict=True)
    )
    rows: dict[str, int] = {}
    for _, patient, _, row in best:
        rows.setdefault(patient, row)
    return list(rows.values())[:PATIENTS]


def _draw(
    store: Store,
    row: int,
    truths: OrganMaps,
    position: int,
    predicted: dict[str, tuple[FloatArray, FloatArray]],
) -> Picture:
    record = read_record(store.storage, row)
    assert record is not None  # its maps were read
    true = (truths.coronal[position], truths.sagittal[position])
    columns = [OrganColumn(TRUTH, true)] + [
        OrganColumn(arm, [plane > THRESHOLD for plane in maps], true)
        for arm, maps in predicted.items()
    ]
    title = f"Patient {record.patient_id}, series {record.series_uid}"
    return Picture(title, draw_organs(store, record, truths.organs, columns, title=title))
