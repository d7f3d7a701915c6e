"""A store, opened for reading: a Zarr v3 group of volumes with records. See STORE.md.

Needs NumPy, pandas, pyarrow and xxhash only, so that a GPU machine can stream from it. The chunk
files are read straight into the caller's memory, because a volume is one uncompressed chunk.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from voco_data import catalogue
from voco_data.errors import InputError, StoreCorrupt
from voco_data.place import Place, place_of
from voco_data.spec import StoreSpec

FORMAT = 1
"""Version of the layout on disk that this code reads and writes."""


class Store:
    """A store opened for reading. Holds the catalogue in memory, and no pixels.

    Safe to read from several threads at once.
    """

    def __init__(self, place: Place, spec: StoreSpec, table: pd.DataFrame) -> None:
        self.place = place
        self.spec = spec
        self.catalogue = table
        self._checksums: dict[int, str] = dict(
            zip(table["row"].tolist(), table["chunk_checksum"].tolist(), strict=True)
        )
        self._series: dict[int, str] = dict(
            zip(table["row"].tolist(), table["series_uid"].tolist(), strict=True)
        )
        self._checked: set[int] = set()

    @classmethod
    def open(cls, path: str | Path | Place) -> Store:
        """Open the store at `path`, a folder or a URL.

        Raises InputError if it is not a store, is of a newer format, or its spec was edited.
        """
        place = place_of(path)
        return cls(place, read_spec(place), catalogue.read(place))

    @property
    def path(self) -> Path:
        """The store's folder on this machine."""
        folder = self.place.local()
        assert folder is not None
        return folder

    @property
    def digest(self) -> str:
        """Digest of the store's spec, 12 hex digits."""
        return self.spec.digest

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume, in voxels."""
        return self.spec.grid

    def __len__(self) -> int:
        """How many series are stored."""
        return len(self._checksums)

    def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """The volume at `row`, uint8 (Z, Y, X), into `out` where given (C-contiguous).

        The first read of a row in a process checks its bytes. Raises StoreCorrupt that names the
        series, and KeyError for a row that is not in the catalogue.
        """
        expected = self._checksums[row]
        volume = np.empty(self.grid, np.uint8) if out is None else out
        if volume.shape != self.grid or volume.dtype != np.uint8 or not volume.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous uint8 {self.grid}, got {volume.shape}")
        self._read_chunk(row, volume.data.cast("B"))
        if row not in self._checked:
            if xxhash.xxh3_128_hexdigest(volume.data) != expected:
                raise StoreCorrupt(self._complaint(row, "its bytes do not match the checksum"))
            self._checked.add(row)
        return volume

    def _read_chunk(self, row: int, view: memoryview) -> None:
        try:
            descriptor = os.open(self.path / chunk_key(row), os.O_RDONLY)
        except OSError as error:
            raise StoreCorrupt(self._complaint(row, f"{error.strerror}")) from error
        try:
            size = os.fstat(descriptor).st_size
            if size != len(view):
                raise StoreCorrupt(
                    self._complaint(row, f"the chunk has {size} bytes, expected {len(view)}")
                )
            done = 0
            while done < size:
                count = os.preadv(descriptor, [view[done:]], done)
                if count == 0:
                    raise StoreCorrupt(self._complaint(row, "the chunk shrank while being read"))
                done += count
        finally:
            os.close(descriptor)

    def _complaint(self, row: int, what: str) -> str:
        return (
            f"{self.place.name}: series {self._series[row]} (row {row}): {what}; "
            "rerun voco preprocess to rebuild it"
        )


def chunk_key(row: int) -> str:
    """Key of the chunk that is volume `row` (Zarr v3 default chunk key encoding)."""
    return f"volumes/c/{row}/0/0/0"


def read_spec(store: Place) -> StoreSpec:
    """The spec in the store's own metadata, checked against its digest and the folder's name."""
    attributes = _group_attributes(store)
    if attributes.get("format") != FORMAT:
        raise InputError(
            f"{store}: store format {attributes.get('format')!r}, expected {FORMAT}; use the voco "
            "that made it, or make a new store with voco preprocess (see Migrations in STORE.md)"
        )
    other = sorted(set(attributes["spec"]) ^ {field.name for field in fields(StoreSpec)})
    if other:
        raise InputError(
            f"{store}: another version of voco made it, their specs differ in {', '.join(other)}; "
            "make a new store with voco preprocess (see Migrations in STORE.md)"
        )
    spec = StoreSpec.from_mapping(attributes["spec"])
    if spec.digest != attributes.get("spec_digest") or store.name != spec.name:
        raise InputError(
            f"{store}: the spec inside gives {spec.name}, which is not this store's digest and "
            "name; the spec was edited or the folder renamed: restore it, or preprocess anew"
        )
    return spec


def _group_attributes(store: Place) -> dict[str, Any]:
    try:
        metadata = json.loads(store.read("zarr.json"))
        attributes = metadata["attributes"]["voco"]
        if not isinstance(attributes["spec"], dict):
            raise TypeError("spec is not an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{store}: expected a store made by voco preprocess "
            f"(a folder <profile>-<digest>.zarr), cannot read its metadata ({error})"
        ) from error
    return dict(attributes)
