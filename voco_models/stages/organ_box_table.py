"""Boxes of organs that a model has found, for series whose masks show none.

The table is that of `voco localise`: a row for each series, and for every organ the columns
`<organ>_z_low_mm`, `<organ>_z_high_mm` and likewise for y and x, in LPS mm; empty cells where the
organ was not found.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from voco_data.errors import InputError
from voco_data.storage import iterate_rows, parse_number, read_table

Corners = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Lowest and highest (z, y, x) in LPS mm."""


def read_organ_boxes(
    path: Path, regions: Sequence[str], series_uids: Collection[str]
) -> dict[str, dict[str, Corners]]:
    """Boxes by series and region, of the series in `series_uids`.

    Raises InputError for a file that is no such table, for a box that is not finite, empty, or
    incomplete, for two rows of one series, and if no series or none of `regions` is in the table.
    """
    wanted = ("series_uid", *(name for region in regions for name in _columns(region)))
    table = read_table(path, "organ boxes", wanted)
    known = [region for region in regions if set(_columns(region)) <= set(table.columns)]
    if "series_uid" not in table.columns or not known:
        raise InputError(
            f"organ boxes {path}: expected a table of voco localise with the column series_uid and "
            f"columns such as {_columns(regions[0])[0]}"
        )
    boxes: dict[str, dict[str, Corners]] = {}
    for number, row in enumerate(iterate_rows(table), start=1):
        place, series = f"organ boxes {path}: row {number}", str(row["series_uid"]).strip()
        if series in boxes:
            raise InputError(f"{place}: a second row of series {series}; leave one")
        found = {
            region: _parse([row[name] for name in _columns(region)], place) for region in known
        }
        boxes[series] = {region: box for region, box in found.items() if box is not None}
    used = {series: boxes[series] for series in boxes.keys() & set(series_uids)}
    if not used:
        raise InputError(
            f"organ boxes {path}: names no series of the store; its series_uid must be those of "
            f"the store, such as {min(series_uids, default='none')}"
        )
    return used


def _columns(region: str) -> list[str]:
    return [f"{region}_{axis}_{end}_mm" for end in ("low", "high") for axis in "zyx"]


def _parse(cells: Sequence[object], place: str) -> Corners | None:
    """The box of six cells; None if all are empty."""
    try:
        values = [parse_number(cell) for cell in cells]
    except ValueError as error:
        raise InputError(f"{place}: expected numbers in mm, got {cells}") from error
    if all(map(math.isnan, values)):
        return None
    (z0, y0, x0), (z1, y1, x1) = values[:3], values[3:]
    if not all(map(math.isfinite, values)) or not (z0 < z1 and y0 < y1 and x0 < x1):
        raise InputError(f"{place}: expected a box whose low ends are below the high, got {values}")
    return (z0, y0, x0), (z1, y1, x1)
