"""The images of series on the maps of their store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError
from voco_data.paired_images.image_files import max_pixels, read_image, read_mask
from voco_data.paired_images.listing import ImageEntry, count_unknown, list_images
from voco_data.paired_images.map_area import COLUMN_AXES, PLANES, MapArea, MapImage, Plane
from voco_data.paired_images.placement import place, with_mask
from voco_data.store import Store

Bits = npt.NDArray[np.bool_]

_COLUMNS = (
    "row",
    "series_uid",
    "chunk_checksum",
    *(f"box_{axis}_{end}_mm" for axis in "zyx" for end in ("low", "high")),
)


@dataclass(frozen=True, slots=True)
class PairedImages:
    """Images of N series on the maps of their stores."""

    values: dict[Plane, npt.NDArray[np.float32]]
    """By plane: (N, 1, Z, X) or (N, 1, Z, Y), from 0 to 1; 0 where not valid."""
    is_valid: dict[Plane, Bits]
    """By plane, of the same shape. A series without an image is valid nowhere."""
    kinds: dict[str, int]
    """What the images are, and how many there are of each kind."""
    unknown: int
    """Images of series that the stores do not hold."""

    @property
    def has_image(self) -> dict[Plane, Bits]:
        """By plane: which of the N series have an image, (N,)."""
        return {
            plane: np.asarray(valid.any(axis=(1, 2, 3))) for plane, valid in self.is_valid.items()
        }


def read_paired_images(
    source: str | Path, stores: Sequence[Store], positions: Sequence[tuple[int, int]]
) -> PairedImages:
    """The images in `source`, a folder or a table, of N series.

    `positions` are the store and the row of each series. See `list_images` for the forms of
    `source`. Raises InputError for an image that cannot be read or placed, for one that was made
    for another version of its volume, and if none is of these stores.
    """
    entries = list_images(Path(source))
    lines = [_lines_by_row(store) for store in stores]
    unknown = count_unknown(entries, (uid for of in lines for uid in _series_ids(of)))
    if unknown == len(entries):
        raise InputError(
            f"images {source}: none of its {unknown} images is of a series of the stores; name "
            "series by the ids that the stores have"
        )
    images = _empty_images(len(positions), stores[0].grid)
    kinds: Counter[str] = Counter()
    for index, (position, row) in enumerate(positions):
        line = lines[position][row]
        for plane in PLANES:
            entry = entries.get((line["series_uid"], plane))
            if entry is None:
                continue
            placed = _read_entry(entry, line, MapArea.of_series(stores[position], line, plane))
            images.values[plane][index, 0] = placed.values
            images.is_valid[plane][index, 0] = placed.is_valid
            kinds[entry.kind] += 1
    return PairedImages(images.values, images.is_valid, dict(sorted(kinds.items())), unknown)


def _empty_images(n: int, grid: tuple[int, int, int]) -> PairedImages:
    shapes = {plane: (n, 1, grid[0], grid[axis]) for plane, axis in COLUMN_AXES.items()}
    return PairedImages(
        values={plane: np.zeros(shape, np.float32) for plane, shape in shapes.items()},
        is_valid={plane: np.zeros(shape, np.bool_) for plane, shape in shapes.items()},
        kinds={},
        unknown=0,
    )


def _lines_by_row(store: Store) -> dict[int, dict[str, Any]]:
    """The lines of the catalogue, of these columns, by row."""
    table = store.catalogue[list(_COLUMNS)]
    lines = [dict(zip(_COLUMNS, values, strict=True)) for values in table.itertuples(index=False)]
    return {int(line["row"]): line for line in lines}


def _series_ids(lines: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """The ids of series, each once. Raises InputError if one is that of two series."""
    counts = Counter(str(line["series_uid"]) for line in lines.values())
    shared = [uid for uid, count in counts.items() if count > 1]
    if shared:
        raise InputError(
            f"images: {counts[shared[0]]} series of one store have the id {shared[0]}, so an image "
            "cannot name its series; leave them out of the archive, or give them ids of their own"
        )
    return list(counts)


def _read_entry(entry: ImageEntry, line: Mapping[str, Any], area: MapArea) -> MapImage:
    if entry.volume_checksum not in ("", line["chunk_checksum"]):
        raise InputError(
            f"images {entry.path}: made for another volume of series {entry.series_uid} than the "
            "store holds now; run voco pairs again"
        )
    try:
        most_pixels = max_pixels(area.shape)
        image = read_image(entry.path, most_pixels)
        mask = None if entry.mask is None else read_mask(entry.mask, image.values.size)
    except InputError as error:  # it names the file
        raise InputError(f"images {error}") from error
    try:
        return place(image if mask is None else with_mask(image, mask), area)
    except InputError as error:
        raise InputError(f"images {entry.path}: {error}") from error
