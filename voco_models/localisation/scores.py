"""Scores of found boxes against masks: errors of their faces, and the voxels that they keep.

Several localisers, each by a name, are scored on the same N series.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.store import ArchiveMask
from voco_models.evaluation import Interval, bootstrap_interval
from voco_models.localisation.boundary_errors import FACES, boundary_errors, summarise_errors
from voco_models.localisation.boxes import OrganBox, Range
from voco_models.localisation.kept_voxels import OrganVoxels
from voco_models.localisation.regions import OPEN_REGIONS, REGIONS, choose_box
from voco_models.localisation.truths import Truth

Boxes = Mapping[str, OrganBox]
"""Found boxes of a series by organ or region."""
ALL = "all"
"""In tables: the faces of all organs. Regions are made of organs, and are not among them."""

NOTHING_KEPT: Mapping[str, Any] = MappingProxyType(
    {"kept": float("nan"), "kept_lowest": float("nan"), "cut": 0, "without_box": 0}
)
"""The summary of `summarise_kept` where no mask was read."""


@dataclass(frozen=True, slots=True)
class ScoredSeries:
    """A series whose boxes are scored."""

    row: int
    """Of the store."""
    series_uid: str
    patient_id: str
    truth: Truth
    """With the regions that are scored."""


def with_regions(found: Sequence[Boxes], regions: Sequence[str]) -> list[dict[str, OrganBox]]:
    """The boxes of organs of each series, and those of `regions` that they make."""
    return [
        dict(boxes)
        | {name: box for name in regions if (box := choose_box(boxes, name)) is not None}
        for boxes in found
    ]


def measure_errors(
    found: Mapping[str, Sequence[Boxes]], cases: Sequence[ScoredSeries]
) -> pd.DataFrame:
    """A line for each localiser, series and true face.

    Columns: `localiser`, `series` (0 to N - 1), `patient_id`, `organ` (or region), `face`,
    `error_mm` (found less true; NaN if it was not found). Faces at the end of a volume, and those
    of open regions in the plane, have no line.
    """
    truths = [case.truth.organs for case in cases]
    volumes = [case.truth.volume for case in cases]
    patients = np.array([case.patient_id for case in cases], object)
    tables = []
    for name, boxes in found.items():
        errors = boundary_errors(boxes, truths, volumes)
        is_open = errors["organ"].isin(OPEN_REGIONS) & ~errors["face"].isin(FACES[:2])
        errors = errors[~is_open].reset_index(drop=True)
        errors.insert(0, "localiser", name)
        errors.insert(2, "patient_id", patients[errors["series"].to_numpy(int)])
        tables.append(errors)
    return pd.concat(tables, ignore_index=True)


def measure_kept(
    found: Mapping[str, Sequence[Boxes]],
    cases: Sequence[ScoredSeries],
    masks: Iterable[ArchiveMask],
    margin_mm: float,
) -> pd.DataFrame:
    """A line for each localiser, series and organ or region with a mask in `masks`.

    Columns: `localiser`, `series`, `organ`, `voxels` (all of the organ), `kept` (those in the box
    with the margin; NaN if it was not found). Voxels of a region are those of its organs; of the
    abdomen, those of all true organs.
    """
    positions = {case.row: position for position, case in enumerate(cases)}
    lines = []
    for mask in masks:
        position = positions[mask.record.row]
        truth = cases[position].truth
        organs = {organ: OrganVoxels(mask, organ) for organ in truth.organs if organ not in REGIONS}
        for name, boxes in found.items():
            for target in truth.organs:
                parts = [organs[organ] for organ in _organs_of(target, list(organs))]
                box = boxes[position].get(target)
                kept = float("nan")
                if box is not None:
                    low, high = add_margin(box, margin_mm, is_open=target in OPEN_REGIONS)
                    kept = float(sum(part.count_in(low, high) for part in parts))
                voxels = sum(part.count for part in parts)
                lines.append((name, position, target, voxels, kept))
    return pd.DataFrame(lines, columns=["localiser", "series", "organ", "voxels", "kept"])


def add_margin(box: OrganBox, margin_mm: float, *, is_open: bool) -> tuple[Range, Range]:
    """Lowest and highest mm (z, y, x) of a box with a margin; NaN in the plane if it is open."""
    z0, y0, x0 = (end - margin_mm for end in box.low_mm)
    z1, y1, x1 = (end + margin_mm for end in box.high_mm)
    nan = float("nan")
    return ((z0, nan, nan), (z1, nan, nan)) if is_open else ((z0, y0, x0), (z1, y1, x1))


def _organs_of(target: str, organs: Sequence[str]) -> list[str]:
    """Those of `organs` whose voxels the box of an organ or a region should keep."""
    if target in OPEN_REGIONS:
        return list(organs)
    if target in REGIONS:
        return [organ for group in REGIONS[target] for organ in group if organ in organs]
    return [target]


def count_false_boxes(found: Sequence[Boxes], cases: Sequence[ScoredSeries]) -> dict[str, int]:
    """By organ: boxes found in series that do not show the organ."""
    counts: dict[str, int] = {}
    for boxes, case in zip(found, cases, strict=True):
        for organ in case.truth.absent & boxes.keys():
            counts[organ] = counts.get(organ, 0) + 1
    return counts


def summarise_organs(errors: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of one localiser's lines of `measure_errors`, by organ and region, and over `ALL` organs.

    `median_mm` and `p95_mm` (95th percentile) of |error| over faces that were found, the 95 %
    interval of the median over patients (`median_low_mm`, `median_high_mm`), and counts of `faces`
    and `missed` ones. NaN where nothing was found.
    """
    groups = dict(_by_name(errors, "organ"))
    groups[ALL] = errors[~errors["organ"].isin(REGIONS)]
    return {
        name: summarise_errors(part)["all"] | _median_ends(part) for name, part in groups.items()
    }


def summarise_faces(errors: pd.DataFrame) -> list[dict[str, Any]]:
    """The same for each face, as rows: `bias_mm` is the median with its sign (found less true)."""
    rows = []
    for organ, part in _by_name(errors, "organ"):
        for face in FACES:
            lines = part[part["face"] == face]
            if lines.empty:
                continue
            found = lines["error_mm"].dropna()
            bias = float("nan") if found.empty else float(found.median())
            summary = summarise_errors(lines)["all"] | {"bias_mm": bias}
            rows.append({"organ": organ, "face": face} | summary)
    return rows


def summarise_kept(kept: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of one localiser's lines of `measure_kept`, by organ and region, and over `ALL` organs.

    `kept` is the mean share of voxels over boxes that were found, `kept_lowest` the lowest share,
    `cut` the number of boxes that do not keep all, and `without_box` that of organs not found.
    """
    groups = dict(_by_name(kept, "organ"))
    groups[ALL] = kept[~kept["organ"].isin(REGIONS)]
    return {name: _summarise_shares(part["kept"] / part["voxels"]) for name, part in groups.items()}


def _summarise_shares(shares: pd.Series[float]) -> dict[str, Any]:
    found = shares.dropna().to_numpy(float)
    if not len(found):
        return dict(NOTHING_KEPT) | {"without_box": len(shares)}
    return {
        "kept": float(found.mean()),
        "kept_lowest": float(found.min()),
        "cut": int((found < 1).sum()),
        "without_box": len(shares) - len(found),
    }


def _by_name(table: pd.DataFrame, column: str) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(name), part) for name, part in table.groupby(column, sort=False))


def _median_ends(errors: pd.DataFrame) -> dict[str, float]:
    interval = median_interval(errors)
    return {"median_low_mm": interval.low, "median_high_mm": interval.high}


def median_interval(errors: pd.DataFrame) -> Interval:
    """The median |error| in mm of the faces that were found, and its 95 % interval over patients.

    NaN if nothing was found, and ends of NaN for a single patient.
    """
    found = errors.dropna(subset=["error_mm"])
    nan = float("nan")
    if found.empty:
        return Interval(nan, nan, nan)
    codes, patients = pd.factorize(found["patient_id"])
    sizes = found["error_mm"].abs().to_numpy(float)
    median = float(np.median(sizes))
    if len(patients) == 1:
        return Interval(median, nan, nan)
    order = np.argsort(sizes, kind="stable")
    sizes, owners = sizes[order], codes[order]

    def weighted_median(counts: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        """The value at which half of the faces of the drawn patients is reached, (R,)."""
        weights = counts[:, owners].cumsum(axis=1)
        half = weights[:, -1:] / 2
        return {"median": sizes[(weights < half).sum(axis=1)]}

    drawn = bootstrap_interval(weighted_median, len(patients), np.random.default_rng(0))
    return Interval(median, drawn["median"].low, drawn["median"].high)
