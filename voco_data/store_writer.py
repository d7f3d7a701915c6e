"""Writing a store: rows are planned by one coordinator, volumes are committed by many workers.

The protocol is voco_data/STORE.md. The coordinator holds the lock; workers need only the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash
import zarr
from zarr.codecs import BytesCodec
from zarr.storage import LocalStore

from voco_data import atomic, catalogue, lock
from voco_data.record import Record, read_record, record_path, write_record
from voco_data.spec import StoreSpec
from voco_data.store import FORMAT, chunk_path, read_spec

ROWS_FILE = Path("volumes", "rows.parquet")
_VALID_CHUNK = 65536


class StoreWriter:
    """A store held for writing. Make one with `writing`."""

    def __init__(self, path: Path, spec: StoreSpec) -> None:
        self.path = path
        self.spec = spec
        self._rows = _read_rows(path)
        self._table = catalogue.read(path)
        self._adopt_orphans()

    @property
    def table(self) -> pd.DataFrame:
        """The catalogue, with what an interrupted run had committed."""
        return self._table

    def assign(self, keys: Sequence[str]) -> dict[str, int]:
        """Rows for the series `keys`, remembered before any work starts.

        A key that was given a row by an interrupted run keeps it, so that a rerun ends with the
        same rows as an undisturbed run. A key whose row is committed gets a new one: what is
        committed is never overwritten. New rows are numbered in sorted order of the keys.
        """
        committed = set(self._table["row"].tolist())
        new = sorted(key for key in set(keys) if self._rows.get(key, -1) in {-1, *committed})
        first = max([*self._rows.values(), *committed], default=-1) + 1
        self._rows |= {key: row for row, key in enumerate(new, start=first)}
        self._write_rows()
        self._resize(max(self._rows.values(), default=-1) + 1)
        return {key: self._rows[key] for key in keys}

    def compact(self, records: Sequence[Record]) -> None:
        """Bring catalogue, `valid` and N up to date with `records` that workers committed.

        A record replaces the one that the same series had under another row.
        """
        fresh = catalogue.frame([catalogue.line(record) for record in records])
        old = self._table
        replaced = old["row"].isin(fresh["row"]) | _same_series(old, fresh)
        gone = sorted(set(old["row"][replaced]) - set(fresh["row"]))
        parts = [part for part in (old[~replaced], fresh) if len(part)]
        self._table = pd.concat(parts).sort_values("row", ignore_index=True) if parts else fresh
        rows = self._table["row"].to_numpy()
        size = int(rows.max()) + 1 if len(rows) else 0
        self._rows = {key: row for key, row in self._rows.items() if row < size}
        self._write_rows()
        self._resize(size)
        valid = np.zeros(size, bool)
        valid[rows] = True
        if size:
            zarr.open_array(LocalStore(self.path), path="valid", mode="r+")[:] = valid
        catalogue.write(self.path, self._table)
        for row in gone:  # only now: no reader of the new catalogue goes there
            record_path(self.path, row).unlink(missing_ok=True)
            chunk_path(self.path, row).unlink(missing_ok=True)

    def _adopt_orphans(self) -> None:
        """Records that an interrupted run committed but did not bring into the catalogue."""
        listed = set(self._table["row"].tolist())
        holes = sorted(row for row in self._rows.values() if row not in listed)
        found = [record for row in holes if (record := read_record(self.path, row)) is not None]
        if found:
            self.compact(found)

    def _write_rows(self) -> None:
        table = pd.DataFrame({"key": list(self._rows), "row": list(self._rows.values())})
        with atomic.replacing(self.path / ROWS_FILE) as temporary:
            table.astype({"key": "string", "row": "int64"}).to_parquet(temporary, index=False)

    def _resize(self, size: int) -> None:
        """Set N of both arrays. The metadata files are replaced atomically."""
        for name in ("volumes", "valid"):
            path = self.path / name / "zarr.json"
            metadata = json.loads(path.read_text())
            if metadata["shape"][0] != size:
                metadata["shape"][0] = size
                atomic.write_text(path, json.dumps(metadata, indent=2))


@contextmanager
def writing(root: Path, spec: StoreSpec, *, wait_seconds: float = 0.0) -> Iterator[StoreWriter]:
    """The store of `spec` under `root`, made if absent, held under its lock.

    Raises StoreBusy if another run holds it for longer than `wait_seconds`.
    """
    path = root / spec.name
    with lock.exclusive(root / f".{spec.name}.lock", wait_seconds=wait_seconds):
        if not (path / "zarr.json").exists():
            _create(path, spec)
        read_spec(path)
        yield StoreWriter(path, spec)


def commit_volume(store: Path, record: Record, volume: npt.NDArray[np.uint8]) -> None:
    """Write the chunk, then the record; both whole or absent."""
    atomic.write_bytes(chunk_path(store, record.row), np.ascontiguousarray(volume).data)
    write_record(store, record)


def checksum(volume: npt.NDArray[np.uint8]) -> str:
    """XXH3-128 of a volume's bytes in C order, as records keep it."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(volume).data)


def _same_series(old: pd.DataFrame, fresh: pd.DataFrame) -> npt.NDArray[np.bool_]:
    names = ["patient_id", "series_uid", "source"]
    return pd.MultiIndex.from_frame(old[names]).isin(pd.MultiIndex.from_frame(fresh[names]))


def _create(path: Path, spec: StoreSpec) -> None:
    """Make the empty arrays, then the group: a folder without group metadata is no store yet."""
    storage = LocalStore(path)
    window = {"level_hu": spec.window_level_hu, "width_hu": spec.window_width_hu}
    zarr.create_array(
        storage,
        name="volumes",
        shape=(0, *spec.grid),
        chunks=(1, *spec.grid),
        dtype="uint8",
        serializer=BytesCodec(),
        compressors=None,
        fill_value=0,
        dimension_names=("series", "z", "y", "x"),
        attributes={"window": window, "axes": "z superior, y posterior, x left"},
        overwrite=True,
    )
    zarr.create_array(
        storage,
        name="valid",
        shape=(0,),
        chunks=(_VALID_CHUNK,),
        dtype="bool",
        compressors=None,
        fill_value=False,
        dimension_names=("series",),
        overwrite=True,
    )
    attributes = {
        "format": FORMAT,
        "spec": json.loads(spec.canonical_json()),
        "spec_digest": spec.digest,
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"voco": attributes}}
    atomic.write_text(path / "zarr.json", json.dumps(group, indent=2))


def _read_rows(path: Path) -> dict[str, int]:
    file = path / ROWS_FILE
    if not file.exists():
        return {}
    table = pd.read_parquet(file)
    return dict(zip(table["key"].tolist(), table["row"].tolist(), strict=True))
