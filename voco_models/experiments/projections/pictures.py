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

from voco_data.store import OrganMaps, Record, Store, read_record
from voco_models.evaluation import MapPanel, map_plot
from voco_models.experiments.projections.jobs import ProjectionTrial
from voco_models.stages import NETWORKS, load_networks, predict_maps
from voco_models.training import choose_device

PATIENTS = 3
THRESHOLD = 0.5
TRUTH = "mask"
X_LABELS = ("x, mm (to the left)", "y, mm (to the back)")
"""Of the axes along W of both planes: LPS."""

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
    volume = store.read(row).astype(np.float64)
    rows = {}
    for plane, label in enumerate(X_LABELS):
        true = (truths.coronal, truths.sagittal)[plane][position]
        picture = _to_grey(volume.mean(axis=1 + plane))
        extent = _extent_mm(record, plane)
        rows[label] = [MapPanel(TRUTH, picture, true, None, extent)] + [
            MapPanel(arm, picture, maps[plane] > THRESHOLD, true, extent)
            for arm, maps in predicted.items()
        ]
    title = f"Patient {record.patient_id}, series {record.series_uid}"
    names = [organ.replace("_", " ") for organ in truths.organs]
    return Picture(title, map_plot(rows, names, title=title, y_label="z, mm (to the head)"))


def _extent_mm(record: Record, plane: int) -> tuple[float, float, float, float]:
    """Left, right, lower and upper end of the coronal (0) or the sagittal (1) plane."""
    (z_low, y_low, x_low), (z_high, y_high, x_high) = record.box_low_mm, record.box_high_mm
    left, right = ((x_low, x_high), (y_low, y_high))[plane]
    return left, right, z_low, z_high


def _to_grey(image: FloatArray) -> npt.NDArray[np.uint8]:
    """Grey values of an image: its range from black to white."""
    low, high = image.min(), image.max()
    grey: npt.NDArray[np.uint8] = np.rint(255 * (image - low) / max(high - low, 1e-9)).astype(
        np.uint8
    )
    return grey
