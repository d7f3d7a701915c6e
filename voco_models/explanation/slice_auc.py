"""How well a curve over slices finds the slices that show something."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from voco_data.store import Record
from voco_models.data import VolumeView
from voco_models.evaluation import Interval, auroc
from voco_models.explanation.intervals import FloatArray, mean_intervals

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SliceCase:
    """A curve over the slices of one series, and the slices that it should find."""

    patient_id: str
    series_uid: str
    name: str
    """Group or region."""
    auc: float


def slice_auc(curve: FloatArray, positive: BoolArray) -> float:
    """Probability that a positive slice has a larger value than another one; ties count half.

    `curve` and `positive` are (Z,). NaN if all slices are positive, or none.
    """
    return float(auroc(curve, positive, np.ones((1, len(curve))))[0])


def summarise_slices(cases: Sequence[SliceCase]) -> dict[str, dict[str, object]]:
    """The mean AUC over the series of each name, with an interval by patient.

    Several cases of one series, such as those of random draws, count as one series.
    """
    found: dict[str, dict[str, object]] = {}
    for name in dict.fromkeys(case.name for case in cases):
        chosen = [case for case in cases if case.name == name]
        values = np.array([case.auc for case in chosen], np.float64)
        interval: Interval = mean_intervals({"auc": values}, [case.patient_id for case in chosen])[
            "auc"
        ]
        series = {case.series_uid for case in chosen}
        found[name] = {**interval.to_json(), "series": len(series)}
    return found


def view_edges_mm(record: Record, view: VolumeView, stored: int) -> FloatArray:
    """LPS z of the edges of the view's slices, (Z + 1,), inferior first.

    `stored` is the number of slices of the volume.
    """
    low, high = record.box_low_mm[0], record.box_high_mm[0]
    start, stop = view.shown_range(stored)
    places = start + (stop - start) * np.arange(view.slices + 1) / view.slices
    return np.asarray(low + (high - low) * places)


def slices_with_organ(boxes: Tensor, depths_mm: Tensor) -> BoolArray:
    """Slices, (Z,), whose middle is between the ends of any of the boxes (R, 2, 3).

    `boxes` and `depths_mm` (Z,) as in `SeriesGeometry`; unknown boxes (NaN) have no slices.
    """
    low, high = boxes[:, 0, :1], boxes[:, 1, :1]
    within: BoolArray = ((depths_mm >= low) & (depths_mm <= high)).any(dim=0).numpy()
    return within


def slices_with_images(
    record: Record, view: VolumeView, stored: int, instance_numbers: Collection[int]
) -> BoolArray:
    """Slices of the view, (Z,), that show a DICOM image of these numbers.

    `stored` is the number of slices of the volume.
    A slice shows an image if it contains the centre of the image, or if the image, with half the
    distance to its neighbours on both sides, contains the middle of the slice. The images lie at
    their positions before the crop and the resampling. Those outside the view have no slice.
    """
    first, spacing = record.canonical_first_mm[0], record.spacing_mm[0]
    chosen = [i for i, n in enumerate(record.instance_numbers) if n in instance_numbers]
    z_mm = first + spacing * np.array(chosen, np.float64)
    edges = view_edges_mm(record, view, stored)
    counts, _ = np.histogram(z_mm, bins=edges)
    middles = (edges[:-1] + edges[1:]) / 2
    above = (middles[:, None] - z_mm) / abs(spacing)  # (Z, images)
    nearby = (above > -0.5) & (above <= 0.5)
    return np.asarray((counts > 0) | nearby.any(axis=1))
