"""Where the volumes of series, and the organs in them, lie: from the records of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from voco_data.errors import StoreCorrupt
from voco_data.store import Record, Store, read_record
from voco_models.objectives import ORGAN_BOXES, Z_EXTENT
from voco_models.stages.organ_box_table import Corners

THREADS = 8


@dataclass(frozen=True, slots=True)
class SeriesGeometry:
    """Extents and organs of the stored boxes of N series."""

    z_extent_mm: Tensor
    """float32 (N,): length of the box along z."""
    organ_boxes: Tensor
    """float32 (N, R, 2, 3): lowest and highest (depth below the superior end of the box in mm, row
    and column from 0 to 1) of each region; NaN where it is not known."""

    def select(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of some of the series, by their names in a batch."""
        chosen = list(indices)
        return {Z_EXTENT: self.z_extent_mm[chosen], ORGAN_BOXES: self.organ_boxes[chosen]}


def read_records(store: Store, rows: Sequence[int]) -> list[Record]:
    """The records of `rows`. Raises StoreCorrupt if one is missing or damaged."""

    def read(row: int) -> Record:
        record = read_record(store.storage, row)
        if record is None:
            raise StoreCorrupt(f"{store.path}: the record of row {row} is missing")
        return record

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, rows))


def read_geometry(
    store: Store,
    rows: Sequence[int],
    regions: Sequence[str],
    boxes_mm: Mapping[str, Mapping[str, Corners]] = MappingProxyType({}),
) -> SeriesGeometry:
    """Read the geometry of `rows`. Raises StoreCorrupt if a record is missing or damaged.

    `boxes_mm` are boxes by series and region, for series whose masks do not tell of the region.
    """
    records = read_records(store, rows)
    extents = [record.box_high_mm[0] - record.box_low_mm[0] for record in records]
    boxes = []
    for record in records:
        given = boxes_mm.get(record.series_uid, {})
        corners = [
            record.organs.get(region) if _is_masked(record, region) else given.get(region)
            for region in regions
        ]
        boxes.append([_organ_box(record, found) for found in corners])
    return SeriesGeometry(
        z_extent_mm=torch.tensor(extents, dtype=torch.float32),
        organ_boxes=torch.tensor(boxes, dtype=torch.float32).reshape(len(rows), -1, 2, 3),
    )


def _is_masked(record: Record, region: str) -> bool:
    """Whether a mask shows the region, or tells that it is not in the scan."""
    return region in record.organs or region in record.organ_maps


def _organ_box(record: Record, corners: Corners | None) -> list[list[float]]:
    """The box of an organ as in `SeriesGeometry.organ_boxes`; LPS z grows towards the head."""
    if corners is None:
        return [[float("nan")] * 3] * 2
    low, high = corners
    (_, y0, x0), (z1, y1, x1) = record.box_low_mm, record.box_high_mm
    return [
        [z1 - high[0], (low[1] - y0) / (y1 - y0), (low[2] - x0) / (x1 - x0)],
        [z1 - low[0], (high[1] - y0) / (y1 - y0), (high[2] - x0) / (x1 - x0)],
    ]


def count_boxes(store: Store, rows: Sequence[int]) -> dict[str, int]:
    """How the boxes of `rows` were found, with counts: new scans need the same kind of box."""
    methods = store.catalogue.set_index("row").loc[list(rows), "box_method"]
    return {str(method): int(count) for method, count in methods.value_counts().items()}
