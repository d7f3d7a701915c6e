"""The pointing game: is the largest value of a map inside the organ? (Zhang et al., IJCV 2018)

A map is compared with chance, the share of the places that are inside the organ's box, and with the
maps of a classifier of random weights (Adebayo et al., NeurIPS 2018). A map that points as well
without anything learnt explains nothing that was learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from voco_models.explanation.intervals import mean_intervals
from voco_models.networks import box_masks

ALL = "all"
MIN_RATIO = 2.0
"""Hits over chance that a trained classifier must reach, and random weights must not."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """What the maps of one series and one name say about where the organ is."""

    patient_id: str
    series_uid: str
    name: str
    """Group or region."""
    hit: float
    """1 if the maximum is inside, else 0; its share inside if several places have it."""
    chance: float
    """Share of all places that are inside."""


def boxes_in_view(boxes: Tensor, plane_range: tuple[tuple[float, float], ...]) -> Tensor:
    """Boxes (R, 2, 3) of `SeriesGeometry`, with rows and columns of the view instead of the volume.

    `plane_range` is that of `VolumeView`.
    """
    low = boxes.new_tensor([0.0, *(start for start, _ in plane_range)])
    size = boxes.new_tensor([1.0, *(stop - start for start, stop in plane_range)])
    return (boxes - low) / size


def inside_boxes(boxes: Tensor, depths_mm: Tensor, places: tuple[int, int]) -> Tensor:
    """Places inside any of the boxes (R, 2, 3): bool (Z, h, w). Unknown boxes (NaN) have none."""
    return box_masks(boxes[None], depths_mm[None], places)[0].any(dim=0)


def point(map_: Tensor, inside: Tensor) -> tuple[float, float]:
    """The hit and the chance of `Pointing`, of a map and places inside, (Z, h, w) each.

    Where several places share the maximum, the hit is the share of them that is inside: a map
    without any contrast has the hit of chance.
    """
    largest = map_ == map_.max()
    hit = (largest & inside).sum() / largest.sum()
    return float(hit), float(inside.double().mean())


def maximum_of(map_: Tensor) -> tuple[int, int, int]:
    """The first place (z, row, column) of the largest value."""
    z, y, x = np.unravel_index(int(torch.argmax(map_)), tuple(map_.shape))
    return int(z), int(y), int(x)


def summarise_pointing(cases: Sequence[Pointing]) -> dict[str, dict[str, object]]:
    """Hits, chance and their ratio by name and over all, each with an interval by patient.

    Several cases of one series and name, such as those of random draws, count as one case.
    """
    names = [ALL, *dict.fromkeys(case.name for case in cases)]
    return {name: _summarise([c for c in cases if name in (ALL, c.name)]) for name in names}


def _summarise(cases: Sequence[Pointing]) -> dict[str, object]:
    values = {
        "hits": np.array([case.hit for case in cases], np.float64),
        "chance": np.array([case.chance for case in cases], np.float64),
    }
    found = mean_intervals(
        values, [case.patient_id for case in cases], {"ratio": ("hits", "chance")}
    )
    return {name: interval.to_json() for name, interval in found.items()} | {
        "cases": len({(case.series_uid, case.name) for case in cases}),
        "patients": len({case.patient_id for case in cases}),
    }
