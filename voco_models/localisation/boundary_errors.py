"""How far the faces of organ boxes are off, and a box that needs no scan to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from voco_models.localisation.boxes import OrganBox, Range

FACES = ("z_low", "z_high", "y_low", "y_high", "x_low", "x_high")
CUT_MM = 1.0
"""A face nearer than this to the end of the volume is that of the scan, not of the organ."""


class Extent(NamedTuple):
    """A true box in LPS mm."""

    low_mm: Range
    """(z, y, x): lowest coordinates."""
    high_mm: Range
    """(z, y, x): highest coordinates."""


def boundary_errors(
    found: Sequence[Mapping[str, OrganBox]],
    truths: Sequence[Mapping[str, Extent]],
    volumes: Sequence[Extent],
) -> pd.DataFrame:
    """A line for each true face of an organ in each of N series.

    Columns: `series` (0 to N - 1), `organ`, `face`, `error_mm` (found less true; NaN if the organ
    was not found). A face at the end of the volume, where the scan cuts the organ, has no line, nor
    one outside of it.
    """
    lines = []
    for series, (boxes, organs, volume) in enumerate(zip(found, truths, volumes, strict=True)):
        for organ, truth in organs.items():
            box = boxes.get(organ)
            for number, face in enumerate(FACES):
                axis, side = divmod(number, 2)  # side 0: low
                end = truth[side][axis]
                inside_mm = (end - volume[side][axis]) * (1 - 2 * side)
                if inside_mm < CUT_MM:
                    continue
                place = None if box is None else (box.low_mm, box.high_mm)[side][axis]
                error = float("nan") if place is None else place - end
                lines.append({"series": series, "organ": organ, "face": face, "error_mm": error})
    return pd.DataFrame(lines, columns=["series", "organ", "face", "error_mm"])


def summarise_errors(errors: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By organ and over all: median and 95th percentile of |error| in mm, of the organs that were
    found, and how many of the faces are of an organ that was not."""
    groups = {str(organ): part for organ, part in errors.groupby("organ", sort=True)}
    summary = {}
    for name, part in {**groups, "all": errors}.items():
        sizes = part["error_mm"].abs().to_numpy()
        found = sizes[~np.isnan(sizes)]
        summary[name] = {
            "median_mm": float(np.median(found)) if len(found) else float("nan"),
            "p95_mm": float(np.percentile(found, 95)) if len(found) else float("nan"),
            "faces": len(sizes),
            "missed": int(np.isnan(sizes).sum()),
        }
    return summary


def mean_boxes(
    truths: Sequence[Mapping[str, Extent]], volumes: Sequence[Extent]
) -> dict[str, Extent]:
    """The mean place of each organ, in fractions of the volumes of training series.

    `place_in` puts such a box into a volume. It is what a box is worth that sees no image.
    """
    fractions: dict[str, list[np.ndarray[tuple[int, int], np.dtype[np.float64]]]] = {}
    for organs, volume in zip(truths, volumes, strict=True):
        low, length = np.array(volume.low_mm), np.subtract(volume.high_mm, volume.low_mm)
        for organ, truth in organs.items():
            fractions.setdefault(organ, []).append((np.array(truth) - low) / length)
    return {organ: _extent(np.mean(places, axis=0)) for organ, places in fractions.items()}


def place_in(volume: Extent, fraction: Extent) -> OrganBox:
    """The box at a fraction of a volume, with confidence 0."""
    low, length = np.array(volume.low_mm), np.subtract(volume.high_mm, volume.low_mm)
    placed = _extent(low + np.array(fraction) * length)
    return OrganBox(placed.low_mm, placed.high_mm, 0.0)


def _extent(ends: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Extent:
    (a, b, c), (d, e, f) = ends.tolist()
    return Extent((a, b, c), (d, e, f))
