"""Writing a store: rows are planned by one coordinator, volumes are committed by many workers.

The protocol is voco_data/STORE.md. The coordinator holds the lock; workers need only the place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data import catalogue
from voco_data.held import Held
from voco_data.place import Lease, Place
from voco_data.record import Record, read_record, record_key, write_record
from voco_data.rows import Rows
from voco_data.spec import StoreSpec
from voco_data.store import chunk_key, read_spec
from voco_data.store_layout import VALID_CHUNK, create


class StoreWriter:
    """A store held for writing. Make one with `writing`."""

    def __init__(self, place: Place, spec: StoreSpec, lease: Lease) -> None:
        self.place = place
        self.spec = spec
        self.held = Held(place)
        """What the store holds, with what an interrupted run had committed."""
        self._lease = lease
        self._rows = Rows(place)
        self._gone: list[int] = []
        self._adopt_orphans()

    def close(self) -> None:
        """Let go of the tables on disk."""
        self.held.close()
        self._rows.close()

    def assign(self, keys: Iterable[str]) -> None:
        """Give rows to the series `keys`, sorted and unique, before any work starts.

        A key that was given a row by an interrupted run keeps it, so that a rerun ends with the
        same rows as an undisturbed run. A key whose row is committed gets a new one: what is
        committed is never overwritten. New rows are numbered in the order of the keys.
        """
        free = max(self._rows.size, self.held.size)
        for key in keys:
            row = self._rows.get(key)
            if row is None or self.held.has_row(row):
                self._rows.set(key, free)
                free += 1
        self._lease.check()
        self._rows.save()
        self._resize(self._rows.size)

    def row_of(self, key: str) -> int:
        """The row that `assign` gave. Raises KeyError."""
        row = self._rows.get(key)
        if row is None:
            raise KeyError(key)
        return row

    def note(self, record: Record) -> None:
        """Take up a record that a worker committed. `compact` brings it into the catalogue.

        It replaces the one that the same series had under another row.
        """
        self._gone += self.held.replace([catalogue.line(record)])

    def drop(self, rows: Iterable[int], keys: Iterable[str]) -> None:
        """Give up these rows, and those planned for the series `keys`. `compact` removes them."""
        gone = list(rows)
        planned = [row for key in keys if (row := self._rows.get(key)) is not None]
        self._rows.drop([*gone, *(row for row in planned if not self.held.has_row(row))])
        self.held.drop(gone)
        self._gone += gone

    def compact(self) -> None:
        """Bring catalogue, `valid` and N up to date with what was noted."""
        self._lease.check()
        size = self.held.size
        self._rows.cut(size)
        self._rows.save()
        self._resize(size)
        self._write_valid(size)
        catalogue.rewrite(self.place, self._gone, self.held.fresh())
        self.held.settle()
        for row in self._gone:  # only now: no reader of the new catalogue goes there
            self.place.remove(record_key(row))
            self.place.remove(chunk_key(row))
        self._gone = []

    def _adopt_orphans(self) -> None:
        """Records that an interrupted run committed but did not bring into the catalogue."""
        holes = (row for row in self._rows.numbers() if not self.held.has_row(row))
        found = [record for row in holes if (record := read_record(self.place, row)) is not None]
        for record in found:
            self.note(record)
        if found:
            self.compact()

    def _write_valid(self, size: int) -> None:
        valid = np.zeros(-(-size // VALID_CHUNK) * VALID_CHUNK, bool)
        for row in self.held.rows():
            valid[row] = True
        for number, chunk in enumerate(valid.reshape(-1, VALID_CHUNK)):
            self.place.write(f"valid/c/{number}", chunk.data)

    def _resize(self, size: int) -> None:
        """Set N of both arrays. The metadata objects are replaced atomically."""
        for name in ("volumes", "valid"):
            key = f"{name}/zarr.json"
            metadata = json.loads(self.place.read(key))
            if metadata["shape"][0] != size:
                metadata["shape"][0] = size
                self.place.write(key, json.dumps(metadata, indent=2).encode())


@contextmanager
def writing(root: Place, spec: StoreSpec, *, wait_seconds: float = 0.0) -> Iterator[StoreWriter]:
    """The store of `spec` under `root`, made if absent, held under its lock.

    Raises StoreBusy if another run holds it for longer than `wait_seconds`.
    """
    place = root / spec.name
    with root.exclusive(f".{spec.name}.lock", wait_seconds=wait_seconds) as lease:
        if place.size("zarr.json") is None:
            create(place, spec)
        read_spec(place)
        writer = StoreWriter(place, spec, lease)
        try:
            yield writer
        finally:
            writer.close()


def commit_volume(store: Place, record: Record, volume: npt.NDArray[np.uint8]) -> None:
    """Write the chunk, then the record; both whole or absent."""
    store.write(chunk_key(record.row), np.ascontiguousarray(volume).data)
    write_record(store, record)


def checksum(volume: npt.NDArray[np.uint8]) -> str:
    """XXH3-128 of a volume's bytes in C order, as records keep it."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(volume).data)
