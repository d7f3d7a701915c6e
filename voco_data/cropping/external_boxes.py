"""Boxes that do not come from HU alone: from a table of the user, and from organs in masks.

A table holds boxes that another program made, for example a model. Such a box replaces the one from
HU. Organs of a mask correct the one from HU.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voco_data.cropping.abdomen import TRUSTED_CONFIDENCE
from voco_data.errors import InputError, SeriesRefused
from voco_data.masks import ABDOMINAL_ORGANS, SUBDIAPHRAGMATIC_ORGANS, OrganBounds
from voco_data.reasons import Reason
from voco_data.storage import iterate_rows, parse_number, read_table
from voco_data.volumes import Box, Canonical, Index, Triple

REQUIRED = ("series_uid", "z_low_mm", "z_high_mm")
OPTIONAL = ("y_low_mm", "y_high_mm", "x_low_mm", "x_high_mm")
_MAKER_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_LOCALISER_PATTERN = re.compile(r"projection:[0-9a-f]{12}")
"""`made_by` of a run of 3D-to-2D networks: `projection:` and the digest of its weights."""
MASK_CONFIDENCE = 1.0
"""Confidence of a box whose ends are set by organs."""
DOME_CONFIDENCE = 0.8
"""A box from HU of this confidence shows at least one end."""
MAX_DISAGREEMENT_MM = 40.0
"""Above the organs, a dome found in HU is nearer than this. Else one of the two is wrong: labels
that end inside an organ, a stray voxel of a label, or fluid, which lowers the confidence."""


@dataclass(frozen=True, slots=True)
class GivenBox:
    """The given box of one series in LPS mm, voxel edges included.

    If y or x is NaN, the bounds along this axis are those of the box from HU.
    """

    z_low_mm: float
    z_high_mm: float
    y_low_mm: float
    y_high_mm: float
    x_low_mm: float
    x_high_mm: float
    made_by: str
    """The maker: a run's digest, or a model's name and version."""
    confidence: float

    @property
    def digest(self) -> str:
        """SHA-256 over every field."""
        text = json.dumps({k: repr(v) for k, v in asdict(self).items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def method(self) -> str:
        """`projection` for a box of `voco localise`, else `given:` and the maker."""
        if _LOCALISER_PATTERN.fullmatch(self.made_by):
            return "projection"
        return f"given:{self.made_by}"

    def to_voxels(self, canonical: Canonical, profile_box: Box) -> Box:
        """The voxels of which this box covers at least half; those of `profile_box` for NaN.

        Raises SeriesRefused(BOX_OUTSIDE) if it covers none.
        """
        low = np.array([self.z_low_mm, self.y_low_mm, self.x_low_mm])
        high = np.array([self.z_high_mm, self.y_high_mm, self.x_high_mm])
        edges = np.asarray(canonical.first_mm) - 0.5 * np.asarray(canonical.spacing_mm)
        start = np.rint((low - edges) / canonical.spacing_mm)
        stop = np.rint((high - edges) / canonical.spacing_mm)
        start = np.where(np.isnan(start), profile_box.start, np.maximum(start, 0)).astype(int)
        stop = np.where(np.isnan(stop), profile_box.stop, np.minimum(stop, canonical.shape)).astype(
            int
        )
        if (start >= stop).any():
            raise SeriesRefused(Reason.BOX_OUTSIDE, f"the box of {self.made_by} misses the scan")
        a, b, c = start.tolist()
        d, e, f = stop.tolist()
        return Box((a, b, c), (d, e, f), self.method, self.confidence, profile_box.doubts)


def read_boxes(path: Path) -> dict[str, GivenBox]:
    """Boxes by series id, from CSV or Parquet. Raises InputError that names the row.

    Columns: series_uid, z_low_mm, z_high_mm; optional y and x likewise, made_by, confidence.
    """
    table = read_table(path, "boxes", (*REQUIRED, *OPTIONAL, "made_by", "confidence"))
    missing = sorted(set(REQUIRED) - set(table.columns))
    if missing:
        raise InputError(
            f"boxes {path}: expected the columns {', '.join(REQUIRED)}; no {missing[0]}"
        )
    boxes: dict[str, GivenBox] = {}
    for number, row in enumerate(iterate_rows(table), start=1):
        series = str(row["series_uid"]).strip()
        if series in boxes:
            raise InputError(f"boxes {path}: row {number}: a second box of series {series}")
        boxes[series] = _parse_box(row, f"boxes {path}: row {number}")
    return boxes


def _value_or(row: Mapping[Any, Any], name: str, default: object) -> object:
    """The value of an optional column, or the default where the cell is blank."""
    value = row.get(name, default)
    return default if pd.isna(value) else value


def _parse_box(row: Mapping[Any, Any], source: str) -> GivenBox:
    try:
        numbers = {name: parse_number(row.get(name)) for name in (*REQUIRED[1:], *OPTIONAL)}
        confidence = parse_number(_value_or(row, "confidence", 1.0))
    except ValueError as error:
        raise InputError(f"{source}: expected numbers in mm ({error})") from error
    made_by = str(_value_or(row, "made_by", "table"))
    if not _MAKER_PATTERN.fullmatch(made_by):
        raise InputError(f"{source}: made_by must be letters, digits and ._:-, got {made_by!r}")
    for axis in "zyx":
        low, high = numbers[f"{axis}_low_mm"], numbers[f"{axis}_high_mm"]
        is_range = low < high and math.isfinite(low) and math.isfinite(high)
        is_open = axis != "z" and math.isnan(low) and math.isnan(high)
        if not is_range and not is_open:
            raise InputError(f"{source}: expected {axis}_low_mm below {axis}_high_mm")
    if not 0.0 <= confidence <= 1.0:
        raise InputError(f"{source}: confidence must be from 0 to 1, got {confidence}")
    return GivenBox(**numbers, made_by=made_by, confidence=confidence)


def include_organs(
    profile_box: Box,
    organs: Mapping[str, OrganBounds],
    shape: Index,
    spacing_mm: Triple,
    margin_mm: Triple,
) -> Box:
    """`profile_box`, the box from HU, corrected by the organs of a mask.

    The box contains all abdominal organs of the mask, with `margin_mm`. If it has liver and spleen,
    the top is that of the highest organ. No organ marks the floor of the pelvis, so the bottom is
    that of `profile_box` if it is trusted, else that of the bowel. An organ that goes on beyond its
    mask gives no end, nor does any in a scan whose orientation is doubted, nor organs whose top is
    far from a dome that was found. Unless both ends are known, the box is only enlarged. Without an
    abdominal organ it is `profile_box`.
    """
    abdominal = [bounds for name, bounds in organs.items() if name in ABDOMINAL_ORGANS]
    if not abdominal:
        return profile_box
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    low = np.maximum(np.min([bounds.start for bounds in abdominal], axis=0) - margin, 0)
    high = np.minimum(np.max([bounds.stop for bounds in abdominal], axis=0) + margin, shape)
    start, stop = np.minimum(profile_box.start, low), np.maximum(profile_box.stop, high)
    is_trusted = profile_box.confidence >= TRUSTED_CONFIDENCE
    # FLARE's masks are partial: the spleen alone does not give the dome over the liver.
    knows_top = organs.keys() >= SUBDIAPHRAGMATIC_ORGANS and not any(
        bounds.goes_on_above for bounds in abdominal
    )
    knows_bottom = "bowel" in organs and not any(bounds.goes_on_below for bounds in abdominal)
    knows_both_ends = (
        knows_top and (is_trusted or knows_bottom) and not profile_box.doubts
    )  # a mirrored or upside-down scan has the wrong end on top
    disagreement_mm = abs(int(high[0]) - profile_box.stop[0]) * spacing_mm[0]
    if profile_box.confidence >= DOME_CONFIDENCE and disagreement_mm > MAX_DISAGREEMENT_MM:
        knows_both_ends = False
    if knows_both_ends:
        stop[0] = high[0]
        start[0] = start[0] if is_trusted else low[0]
    a, b, c = start.tolist()
    d, e, f = stop.tolist()
    confidence = MASK_CONFIDENCE if knows_both_ends else profile_box.confidence
    return Box((a, b, c), (d, e, f), "mask", confidence, profile_box.doubts)
