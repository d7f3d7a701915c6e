"""Stores of made-up volumes with ellipsoids as organs, whose boxes and maps are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from tests.support.small_stores import make_store
from voco_data.store import Store
from voco_data.store.archive_mask import ArchiveMask, ProfileBox
from voco_data.store.organ_maps import Silhouette, encode_silhouette
from voco_data.store.record import Record, read_record

GRID = (16, 64, 64)
ORGANS = ("liver", "spleen")
VALUES = {"liver": 180, "spleen": 120}
"""Stored values of the organs, in a body of 60."""


def make_shapes(n: int, seed: int = 0) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Stored volumes (n, *GRID), and the voxels of the organs of each, bool (*GRID)."""
    rng = np.random.default_rng(seed)
    volumes = np.empty((n, *GRID), np.uint8)
    organs: list[dict[str, np.ndarray]] = []
    places = np.meshgrid(*(np.arange(size) + 0.5 for size in GRID), indexing="ij")
    for volume in volumes:
        volume[...] = rng.integers(50, 70, GRID)
        shapes = {}
        for name, centre_x in (("liver", 20.0), ("spleen", 45.0)):
            centre = np.array([8.0, 32.0, centre_x]) + rng.uniform(-1, 1, 3) * (3, 8, 4)
            radii = rng.uniform(0.8, 1.2, 3) * (3.5, 10, 8)
            distance = sum(
                ((p - c) / r) ** 2 for p, c, r in zip(places, centre, radii, strict=True)
            )
            shapes[name] = np.asarray(distance < 1)
            volume[shapes[name]] = VALUES[name]
        organs.append(shapes)
    return volumes, organs


class ShapeMasks:
    """Masks of the first `masked` series of `organ_store`, as an archive would give them."""

    def __init__(self, store: Store, masked: int, seed: int = 0) -> None:
        self._store = store
        _, self._organs = make_shapes(len(store), seed)
        self._masked = masked
        self.rows: list[int] = []
        """Rows that were asked for."""

    def read(self, rows: Collection[int], *, on_grid: bool = False) -> Iterator[ArchiveMask]:
        self.rows += rows
        for row in sorted(rows, reverse=True):
            record = read_record(self._store.storage, row)
            assert record is not None
            if row >= self._masked:
                continue
            shapes = self._organs[row]
            voxels = sum(shapes[name] * (n + 1) for n, name in enumerate(ORGANS))
            yield ArchiveMask(
                record=record,
                voxels=np.asarray(voxels, np.uint16),
                labels={name: frozenset({n + 1}) for n, name in enumerate(ORGANS)},
                profile_box=ProfileBox(record.box_low_mm, record.box_high_mm, 0.4, 0.01),
                on_grid=dict(shapes) if on_grid else {},
            )


def organ_store(root: Path, n: int, *, masked: int, seed: int = 0) -> Store:
    """A store of `n` series; the first `masked` have organs from a mask. Voxels of 1 mm."""
    volumes, organs = make_shapes(n, seed)

    def with_mask(record: Record) -> Record:
        if record.row >= masked:
            return record
        shapes = organs[record.row]
        maps = {
            name: encode_silhouette(Silhouette(inside.any(axis=1), inside.any(axis=2)))
            for name, inside in shapes.items()
        }
        bounds = {}
        for name, inside in shapes.items():
            ends = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
            low, high = ([float(e[0]) for e in ends], [float(e[-1] + 1) for e in ends])
            bounds[name] = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        return dataclasses.replace(
            record,
            organs=bounds,
            organ_maps=maps,
            flags=("mask",),
            box_method="mask",
            canonical_first_mm=(0.5, 0.5, 0.5),
        )

    return make_store(root, volumes, profile="localise", change=with_mask)
