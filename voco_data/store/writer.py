"""Writing a store: one coordinator plans rows, and many workers commit volumes.

The protocol is voco_data/STORE.md. The coordinator holds the store's lock (`open_for_writing`).
Workers need the storage alone (`commit_volume`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import xxhash

from voco_data.batching import batched
from voco_data.errors import StoreCorrupt
from voco_data.storage import Lease, Storage, WritableStorage, sweep_store
from voco_data.store import arrays, catalogue, integrity
from voco_data.store.chunks.codec import Compression, encode
from voco_data.store.index import StoreIndex
from voco_data.store.keys import (
    CATALOGUE,
    WRITE_ONCE,
    chunk_folder,
    chunk_key,
    lock_key,
    record_key,
)
from voco_data.store.record import Record, rows_with_record, series_key, write_record
from voco_data.store.row_ids import RowIds
from voco_data.store.spec import StoreSpec, read_spec
from voco_data.store.verified import VerifiedStamps
from voco_data.volumes import Voxels

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
"""Rows whose stamps are in memory at once."""


class StoreWriter:
    """A store whose lock is held. Made by `open_for_writing`."""

    def __init__(self, storage: Storage, spec: StoreSpec, lease: Lease) -> None:
        self.storage = storage
        self.spec = spec
        self.index = StoreIndex()
        """The store's lines, with those of volumes that an interrupted run committed."""
        self._lease = lease
        self._row_ids = RowIds(storage)
        self._verified = VerifiedStamps(storage)
        self._removed: list[int] = []
        """Rows whose record and chunk go once the new catalogue is in place."""
        self._stamped: set[int] = set()
        """Fresh rows that have the stamps of before their check."""
        self._changed = False
        """Whether the index differs from the catalogue on disk."""
        self._catalogue_lost = False
        """Whether the catalogue on disk is missing or cannot be read."""

    def recover(self, *, deep: bool = False) -> None:
        """Index the store, adopt what an interrupted run committed, and find damaged rows.

        `deep` checks the bytes of every row, and not only of those that were touched.
        """
        self._load_index()
        if self._catalogue_lost or self._row_ids.lost or not self._lease.clean:
            self._adopt_unlisted_rows()
        self._find_damage(deep=deep)

    @property
    def lease(self) -> Lease:
        """The right to write to the store."""
        return self._lease

    def close(self) -> None:
        """Free the disk space of the tables."""
        self.index.close()
        self._row_ids.close()
        self._verified.close()

    def assign(self, keys: Iterable[str]) -> None:
        """Give rows to the series `keys`, sorted and unique, before any work starts.

        A key keeps the row that an interrupted run gave it, so that a rerun ends with the same
        rows as an undisturbed run, and it keeps a row that is damaged. A key whose row is intact
        gets a new one: what is committed is never overwritten. New rows are numbered in the order
        of the keys.
        """
        free = max(self._row_ids.size, self.index.size)
        for key in keys:
            row = self._row_ids.get(key)
            if row is None or self.index.is_intact(row):
                self._row_ids.set(key, free)
                free += 1
        self._lease.check()
        self._row_ids.save()
        arrays.resize(self.storage, max(self._row_ids.size, self.index.size))

    def row_of(self, key: str) -> int:
        """The row that `assign` gave. Raises KeyError."""
        row = self._row_ids.get(key)
        if row is None:
            raise KeyError(key)
        return row

    def note(self, record: Record) -> None:
        """Index a record that a worker committed. `compact` writes it into the catalogue.

        It replaces the record that the same series has in another row.
        """
        self._changed = True
        self._removed += self.index.replace(catalogue.line(record))

    def drop(self, rows: Iterable[int], keys: Iterable[str]) -> None:
        """Drop these rows, and those planned for the series `keys`. `compact` removes them."""
        dropped = list(rows)
        self._changed = True
        self._row_ids.drop_keys(keys)
        self._row_ids.drop_rows(dropped)
        self.index.drop(dropped)
        self._removed += dropped

    def compact(self) -> None:
        """Bring catalogue, `valid` and N up to date with the index, and end all plans."""
        self._lease.check()
        self._row_ids.truncate(self.index.size)
        # A series that got a new row, and was then found unchanged, keeps its old one.
        self._restore_row_ids()
        self._row_ids.save()
        self._update_catalogue()

    def _update_catalogue(self) -> None:
        """Bring catalogue, `valid` and N up to date. Rows that are planned stay planned."""
        self._lease.check()
        size = self.index.size
        arrays.resize(self.storage, size)
        arrays.write_valid(self.storage, self.index.rows(), size)
        if self._changed or self._catalogue_lost or self.storage.size(CATALOGUE) is None:
            catalogue.rewrite(
                self.storage,
                removed=self._removed,
                added=self.index.fresh(),
                from_scratch=self._catalogue_lost,
            )
            # Readers of the new catalogue do not open these rows.
            for row in self._removed:
                self._remove_row(row)
            self._verified.drop(self._removed)
            for row, stamp, _ in self._verified.compare(self.index.fresh_rows()):
                if row not in self._stamped:
                    self._verified.set(row, stamp)
            self.index.mark_saved()
            self._removed, self._changed, self._catalogue_lost = [], False, False
        self._verified.save()

    def _load_index(self) -> None:
        """Index the catalogue, or the records where it is missing or cannot be read."""
        try:
            self.index.load(self.storage)
            self._catalogue_lost = self.storage.size(CATALOGUE) is None
        except StoreCorrupt as error:
            log.warning("%s; it is made again from the records", error)
            self._catalogue_lost = True
        if self._catalogue_lost:
            for record in integrity.readable_records(self.storage):
                self.note(record)
        if self._catalogue_lost or self._row_ids.lost or self._row_ids.size == 0:
            self._restore_row_ids()

    def _restore_row_ids(self) -> None:
        """Give every indexed series the row of its line."""
        for row, *names in self.index.identities():
            self._row_ids.set(series_key(*names), row)

    def _adopt_unlisted_rows(self) -> None:
        """Index rows that an interrupted run committed, and remove the remains of others."""
        end = max(arrays.length(self.storage), self._row_ids.size, self.index.size)
        beyond: list[int] = []
        if self._row_ids.lost:
            beyond = sorted(row for row in rows_with_record(self.storage) if row >= end)
        for row in chain(range(end), beyond):
            if self.index.has_row(row):
                continue
            planned = self._row_ids.lost or self._row_ids.has(row)
            check = integrity.check_row(self.storage, self.spec, row) if planned else None
            if check is not None and check.record is not None:
                self.note(check.record)
            else:
                self._remove_row(row)

    def _find_damage(self, *, deep: bool) -> None:
        """Check rows that were touched since they were last verified; all rows if `deep`."""
        for batch in batched(self._verified.compare(self.index.rows()), _ROWS_AT_ONCE):
            # The stamps are older than the check: what changes meanwhile is checked again.
            stamps = {row: stamp for row, stamp, touched in batch if touched or deep}
            for check in integrity.check_rows(self.storage, self.spec, stamps):
                self._apply_check(check, stamps[check.row])
        if self._changed:
            self._update_catalogue()
        self._verified.save()

    def _apply_check(self, check: integrity.RowCheck, stamp: str) -> None:
        """Keep the stamp of an intact row, or mark a row as damaged."""
        line = self.index.at(check.row)
        assert line is not None
        if check.record is None:
            self.index.mark_damaged(check.row)
            series = line["series_uid"]
            log.warning("series %s (row %d) is damaged: %s", series, check.row, check.damage)
            return
        self._verified.set(check.row, stamp)
        if integrity.differing_columns(check.record, line):
            self._stamped.add(check.row)
            self.note(check.record)

    def _remove_row(self, row: int) -> None:
        """Remove record and chunk. The record goes first, as it must not outlive its chunk."""
        self.storage.remove(record_key(row))
        self.storage.remove_folder(chunk_folder(row))


@contextmanager
def open_for_writing(
    root: Storage, spec: StoreSpec, *, wait_seconds: float = 0.0, deep: bool = False
) -> Iterator[StoreWriter]:
    """Hold the store of `spec` under `root` for writing; a missing one is made.

    `deep` checks the bytes of every row. Raises StoreBusy if another run holds the store for
    longer than `wait_seconds`.
    """
    with root.lock(lock_key(spec.name), wait_seconds=wait_seconds) as lease:
        storage = (root / spec.name).with_lease(lease, WRITE_ONCE)
        if not lease.clean:
            sweep_store(storage)
        arrays.ensure_metadata(storage, spec)
        read_spec(storage)
        writer = StoreWriter(storage, spec, lease)
        try:
            writer.recover(deep=deep)
            yield writer
        finally:
            writer.close()


def commit_volume(
    store: WritableStorage,
    record: Record,
    volume: Voxels,
    compression: Compression = "none",
) -> None:
    """Write the chunk of `volume` (Z, Y, X), then its record; each is whole or absent.

    Raises StoreBusy if the run that handed `store` to its workers is over.
    """
    chunk = encode(volume, compression)
    with store.committing():
        store.write(chunk_key(record.row), chunk)
        write_record(store, record)


def volume_checksum(volume: Voxels) -> str:
    """XXH3-128 of a volume's bytes in C order, as records keep it."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(volume).data)
