"""Where the volumes of series, and the organs in them, lie: from the records of a store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from voco_data.errors import StoreCorrupt
from voco_data.store import Record, Store, read_record
from voco_models.objectives import ORGAN_BOXES, Z_EXTENT

THREADS = 8


@dataclass(frozen=True, slots=True)
class SeriesGeometry:
    """Extents and organs of the stored boxes of N series."""

    z_extent_mm: Tensor
    """float32 (N,): length of the box along z."""
    organ_boxes: Tensor
    """float32 (N, R, 2, 3): lowest and highest (depth below the superior end of the box in mm, row
    and column from 0 to 1) of each region; NaN where no mask shows it."""

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


def read_geometry(store: Store, rows: Sequence[int], regions: Sequence[str]) -> SeriesGeometry:
    """Read the geometry of `rows`. Raises StoreCorrupt if a record is missing or damaged."""
    records = read_records(store, rows)
    extents = [record.box_high_mm[0] - record.box_low_mm[0] for record in records]
    boxes = [[_organ_box(record, region) for region in regions] for record in records]
    return SeriesGeometry(
        z_extent_mm=torch.tensor(extents, dtype=torch.float32),
        organ_boxes=torch.tensor(boxes, dtype=torch.float32).reshape(len(rows), -1, 2, 3),
    )


def _organ_box(record: Record, region: str) -> list[list[float]]:
    """The box of an organ as in `SeriesGeometry.organ_boxes`; LPS z grows towards the head."""
    if region not in record.organs:
        return [[float("nan")] * 3] * 2
    low, high = record.organs[region]
    (_, y0, x0), (z1, y1, x1) = record.box_low_mm, record.box_high_mm
    return [
        [z1 - high[0], (low[1] - y0) / (y1 - y0), (low[2] - x0) / (x1 - x0)],
        [z1 - low[0], (high[1] - y0) / (y1 - y0), (high[2] - x0) / (x1 - x0)],
    ]
