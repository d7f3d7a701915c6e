"""Writing a store: rows are planned by one coordinator, volumes are committed by many workers.

The protocol is voco_data/STORE.md. The coordinator holds the lock; workers need only the place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.errors import StoreCorrupt
from voco_data.storage.atomic import sweep_store
from voco_data.storage.base import Lease, Storage, WritableStorage
from voco_data.store import arrays, catalogue, integrity
from voco_data.store.chunks.codec import Compression, encode
from voco_data.store.index import StoreIndex
from voco_data.store.keys import WRITE_ONCE, chunk_folder, chunk_key, record_key
from voco_data.store.metadata import read_spec
from voco_data.store.record import Record, rows_with_record, series_key, write_record
from voco_data.store.row_ids import RowIds
from voco_data.store.spec import StoreSpec
from voco_data.store.verified import VerifiedStamps, in_pieces

log = logging.getLogger(__name__)


class StoreWriter:
    """A store held for writing. Make one with `writing`."""

    def __init__(self, storage: Storage, spec: StoreSpec, lease: Lease) -> None:
        self.storage = storage
        self.spec = spec
        self.held = StoreIndex()
        """What the store holds whole, with what an interrupted run had committed."""
        self._lease = lease
        self._rows = RowIds(storage)
        self._seals = VerifiedStamps(storage)
        self._gone: list[int] = []
        self._checked: set[int] = set()
        """RowIds that are fresh, and sealed as they were before their check."""
        self._noted = False
        self._anew = False
        """The catalogue on disk cannot be built upon."""

    def take_up(self, *, deep: bool = False) -> None:
        """Find out what the store holds, and what of it is damaged; `deep` reads all bytes."""
        self._load()
        if self._anew or self._rows.lost or not self._lease.clean:
            self._take_up_holes()
        self._find_damage(deep=deep)

    @property
    def lease(self) -> Lease:
        """Our right to the store."""
        return self._lease

    def close(self) -> None:
        """Let go of the tables on disk."""
        self.held.close()
        self._rows.close()
        self._seals.close()

    def assign(self, keys: Iterable[str]) -> None:
        """Give rows to the series `keys`, sorted and unique, before any work starts.

        A key that was given a row by an interrupted run keeps it, so that a rerun ends with the
        same rows as an undisturbed run; so does a key whose row is damaged. A key whose row is
        whole gets a new one: what is committed is never overwritten. New rows are numbered in the
        order of the keys.
        """
        free = max(self._rows.size, self.held.size)
        for key in keys:
            row = self._rows.get(key)
            if row is None or self.held.is_whole(row):
                self._rows.set(key, free)
                free += 1
        self._lease.check()
        self._rows.save()
        arrays.resize(self.storage, max(self._rows.size, self.held.size))

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
        self._noted = True
        self._gone += self.held.replace(catalogue.line(record))

    def drop(self, rows: Iterable[int], keys: Iterable[str]) -> None:
        """Give up these rows, and those planned for the series `keys`. `compact` removes them."""
        gone = list(rows)
        self._noted = True
        self._rows.forget(keys)
        self._rows.drop(gone)
        self.held.drop(gone)
        self._gone += gone

    def compact(self) -> None:
        """Bring catalogue, `valid` and N up to date with what was noted. Plans end here."""
        self._lease.check()
        self._rows.cut(self.held.size)
        self._name_rows()  # those that were planned anew, and found unchanged, keep what they had
        self._rows.save()
        self._settle()

    def _settle(self) -> None:
        """Bring them up to date; what an interrupted run planned stays planned."""
        self._lease.check()
        size = self.held.size
        arrays.resize(self.storage, size)
        arrays.write_valid(self.storage, self.held.rows(), size)
        if self._noted or self._anew or self.storage.size(catalogue.KEY) is None:
            catalogue.rewrite(self.storage, self._gone, self.held.fresh(), anew=self._anew)
            for row in self._gone:  # only now: no reader of the new catalogue goes there
                self._remove(row)
            self._seals.drop(self._gone)
            for row, stamp, _ in self._seals.look(self.held.fresh_rows()):
                if row not in self._checked:
                    self._seals.set(row, stamp)
            self.held.settle()
            self._gone, self._noted, self._anew = [], False, False
        self._seals.save()

    def _load(self) -> None:
        """Take up the catalogue; where it is lost or does not read, it is made from the records."""
        try:
            self.held.load(self.storage)
            self._anew = self.storage.size(catalogue.KEY) is None
        except StoreCorrupt as error:
            log.warning("%s; it is made again from the records", error)
            self._anew = True
        if self._anew:
            for record in integrity.recover(self.storage):
                self.note(record)
        if self._anew or self._rows.lost or self._rows.size == 0:
            self._name_rows()

    def _name_rows(self) -> None:
        """Every listed series has the row that it is listed under."""
        for row, *names in self.held.identities():
            self._rows.set(series_key(*names), row)

    def _take_up_holes(self) -> None:
        """RowIds without a line: adopt what an interrupted run committed, remove what it left."""
        end = max(arrays.length(self.storage), self._rows.size, self.held.size)
        beyond: list[int] = []
        if self._rows.lost:
            beyond = sorted(row for row in rows_with_record(self.storage) if row >= end)
        for row in chain(range(end), beyond):
            if self.held.has_row(row):
                continue
            known = self._rows.lost or self._rows.has(row)
            found = integrity.check_row(self.storage, self.spec, row) if known else None
            if found is not None and found.record is not None:
                self.note(found.record)
            else:
                self._remove(row)

    def _find_damage(self, *, deep: bool) -> None:
        """Check rows whose objects were touched since they were last found right; all if `deep`."""
        for piece in in_pieces(self._seals.look(self.held.rows())):
            # Stamps of before the bytes are read: what changes meanwhile breaks its seal.
            stamps = {row: stamp for row, stamp, broken in piece if broken or deep}
            for found in integrity.check_rows(self.storage, self.spec, stamps):
                self._take_finding(found, stamps[found.row])
        if self._noted:
            self._settle()
        self._seals.save()

    def _take_finding(self, found: integrity.RowCheck, stamp: str) -> None:
        """Seal a row that is whole; a damaged one is no hit for anyone."""
        line = self.held.at(found.row)
        assert line is not None
        if found.record is None:
            self.held.mark_damaged(found.row)
            name = line["series_uid"]
            log.warning("series %s (row %d) is damaged: %s", name, found.row, found.damage)
            return
        self._seals.set(found.row, stamp)
        if integrity.differing(found.record, line):
            self._checked.add(found.row)
            self.note(found.record)

    def _remove(self, row: int) -> None:
        """Take a row away: the record first, so that it never stands without its chunk."""
        self.storage.remove(record_key(row))
        self.storage.remove_folder(chunk_folder(row))


@contextmanager
def writing(
    root: Storage, spec: StoreSpec, *, wait_seconds: float = 0.0, deep: bool = False
) -> Iterator[StoreWriter]:
    """The store of `spec` under `root`, made if absent, held under its lock.

    `deep` checks the bytes of every row. Raises StoreBusy if another run holds the store for
    longer than `wait_seconds`.
    """
    with root.lock(f".{spec.name}.lock", wait_seconds=wait_seconds) as lease:
        storage = (root / spec.name).with_lease(lease, WRITE_ONCE)
        if not lease.clean:
            sweep_store(storage)
        arrays.ensure(storage, spec)
        read_spec(storage)
        writer = StoreWriter(storage, spec, lease)
        try:
            writer.take_up(deep=deep)
            yield writer
        finally:
            writer.close()


def commit_volume(
    store: WritableStorage,
    record: Record,
    volume: npt.NDArray[np.uint8],
    compression: Compression = "none",
) -> None:
    """Write the chunk as the store's spec says, then the record; both whole or absent.

    Raises StoreBusy if the run that `store` was handed to workers for is over.
    """
    chunk = encode(volume, compression)
    with store.committing():
        store.write(chunk_key(record.row), chunk)
        write_record(store, record)


def checksum(volume: npt.NDArray[np.uint8]) -> str:
    """XXH3-128 of a volume's bytes in C order, as records keep it."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(volume).data)
