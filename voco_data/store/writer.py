"""Writing a store: one coordinator assigns rows, and many workers commit volumes.

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
from voco_data.store.integrity import VerifiedStamps
from voco_data.store.keys import (
    CATALOGUE,
    CHUNKS,
    WRITE_ONCE,
    chunk_folder,
    chunk_key,
    lock_key,
    record_key,
    row_of_chunk,
)
from voco_data.store.record import Record, rows_with_record, series_key, write_record
from voco_data.store.row_ids import RowIds
from voco_data.store.spec import StoreSpec, read_spec
from voco_data.volumes import Voxels

log = logging.getLogger(__name__)

_ROWS_PER_BATCH = 10_000
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
        self._rows_to_remove: list[int] = []
        """Rows whose record and chunk are removed after the new catalogue is written."""
        self._rows_with_stamp: set[int] = set()
        """Rows that are not catalogued, and whose stamps were taken before their check."""
        self._is_changed = False
        """Whether the index differs from the catalogue on disk."""
        self._is_catalogue_lost = False
        """Whether the catalogue on disk is missing or cannot be read."""
        self._has_unsynced_removals = False
        """Whether objects were removed that a power failure may bring back."""

    def recover(self, *, deep: bool = False) -> None:
        """Index the store, adopt what an interrupted run committed, and find damaged rows.

        `deep` checks the bytes of every row, and not only of those that were touched.
        """
        self._load_index()
        has_older_keys = self._has_older_keys()
        if self._is_catalogue_lost or self._row_ids.is_lost or not self._lease.is_clean:
            self._adopt_unlisted_rows()
        if has_older_keys:
            self._restore_row_ids()
        self._find_damage(deep=deep)

    @property
    def lease(self) -> Lease:
        """The right to write to the store."""
        return self._lease

    def sync(self) -> None:
        """Wait until a power failure brings nothing back that was removed."""
        if self._has_unsynced_removals:
            self.storage.sync()

    def close(self) -> None:
        """Close the tables in temporary files."""
        self.index.close()
        self._row_ids.close()
        self._verified.close()

    def assign_rows(self, keys: Iterable[str]) -> None:
        """Give rows to the series `keys`, sorted and unique, before any work starts.

        A key keeps the row that an interrupted run gave it, so that a rerun ends with the same
        rows as an undisturbed run, and it keeps a row that is damaged. A key whose row is intact
        gets a new one: what is committed is never overwritten. New rows are numbered in the order
        of the keys.
        """
        next_row = max(self._row_ids.n_rows, self.index.n_rows)
        for key in keys:
            row = self._row_ids.get(key)
            if row is None or self.index.is_intact(row):
                self._row_ids.set(key, next_row)
                next_row += 1
        self._lease.check()
        self._row_ids.save(self.storage)
        arrays.resize(self.storage, max(self._row_ids.n_rows, self.index.n_rows))

    def row_of(self, key: str) -> int:
        """The row that `assign_rows` gave. Raises KeyError."""
        row = self._row_ids.get(key)
        if row is None:
            raise KeyError(key)
        return row

    def find_row(self, key: str) -> int | None:
        """The row that holds a series, damaged or not; None if there is none. After `compact`."""
        row = self._row_ids.get(key)
        return row if row is not None and self.index.has_row(row) else None

    def add_record(self, record: Record) -> None:
        """Index a record that a worker committed. `compact` writes it into the catalogue.

        It replaces the record that the same series has in another row.
        """
        self._is_changed = True
        self._rows_to_remove += self.index.add_line(catalogue.line_from_record(record))

    def remove_rows(self, rows: Iterable[int], keys: Iterable[str]) -> None:
        """Remove these rows, and the rows assigned to the series `keys`.

        `compact` removes their records and chunks.
        """
        rows = list(rows)
        self._is_changed = True
        self._row_ids.remove_keys(keys)
        self._row_ids.remove_rows(rows)
        self.index.remove_rows(rows)
        self._rows_to_remove += rows

    def compact(self) -> None:
        """Bring catalogue, `valid` and N up to date with the index, and free unused rows."""
        self._lease.check()
        self._row_ids.truncate(self.index.n_rows)
        # A series that was given a new row, and was then found unchanged, keeps its old row.
        self._restore_row_ids()
        self._row_ids.save(self.storage)
        self._update_catalogue()

    def _update_catalogue(self) -> None:
        """Bring catalogue, `valid` and N up to date. Assigned rows stay assigned."""
        self._lease.check()
        if self._is_changed:
            self.storage.sync()  # what `valid` and the catalogue are about to list
        n_rows = self.index.n_rows
        arrays.resize(self.storage, n_rows)
        arrays.write_valid(self.storage, self.index.rows(), n_rows)
        if self._is_changed or self._is_catalogue_lost or self.storage.size(CATALOGUE) is None:
            catalogue.rewrite(
                self.storage,
                removed=self._rows_to_remove,
                added=self.index.uncatalogued_lines(),
                from_scratch=self._is_catalogue_lost,
            )
            # Readers of the new catalogue do not open these rows.
            for row in self._rows_to_remove:
                self._remove_row(row)
            self._has_unsynced_removals |= bool(self._rows_to_remove)
            self._verified.remove(self._rows_to_remove)
            for row, stamp, _ in self._verified.compare(self.index.uncatalogued_rows()):
                if row not in self._rows_with_stamp:
                    self._verified.set(row, stamp)
            self.index.mark_catalogued()
            self._rows_to_remove = []
            self._is_changed = False
            self._is_catalogue_lost = False
        self._verified.save()

    def _load_index(self) -> None:
        """Index the catalogue, or the records if it is missing or cannot be read."""
        try:
            self.index.load(self.storage)
            self._is_catalogue_lost = self.storage.size(CATALOGUE) is None
        except StoreCorrupt as error:
            log.warning("%s; it is made again from the records", error)
            self._is_catalogue_lost = True
        if self._is_catalogue_lost:
            for record in integrity.readable_records(self.storage):
                self.add_record(record)
        if self._is_catalogue_lost or self._row_ids.is_lost or self._row_ids.n_rows == 0:
            self._restore_row_ids()

    def _has_older_keys(self) -> bool:
        """Whether the table of rows has the keys of an older version, with the folder in them.

        Then it has the key of no line. A removal that was interrupted leaves some lines without.
        """
        keys = (series_key(identity) for _, identity in self.index.identities())
        return self.index.n_lines > 0 and all(self._row_ids.get(key) is None for key in keys)

    def _restore_row_ids(self) -> None:
        """Give every indexed series the row of its line; of two rows of a series, the later."""
        for row, identity in self.index.identities():
            self._row_ids.set(series_key(identity), row)

    def _adopt_unlisted_rows(self) -> None:
        """Index rows that an interrupted run committed; remove what it left in other rows."""
        n_rows = max(self._row_ids.n_rows, self.index.n_rows)
        rows_beyond: list[int] = []
        if self._row_ids.is_lost or arrays.read_n_rows(self.storage) > n_rows:
            # Rows that no table knows: by their objects, as N itself may be damaged.
            found = {*rows_with_record(self.storage), *self._rows_with_chunk()}
            rows_beyond = sorted(row for row in found if row >= n_rows)
        for row in chain(range(n_rows), rows_beyond):
            if self.index.has_row(row):
                continue
            is_assigned = self._row_ids.is_lost or self._row_ids.has_row(row)
            check = integrity.check_row(self.storage, self.spec, row) if is_assigned else None
            if check is not None and check.record is not None:
                self.add_record(check.record)
            else:
                self._remove_row(row)
                self._has_unsynced_removals = True

    def _rows_with_chunk(self) -> Iterator[int]:
        rows = (row_of_chunk(key) for key, _ in self.storage.list_objects(CHUNKS))
        return (row for row in rows if row is not None)

    def _find_damage(self, *, deep: bool) -> None:
        """Check rows that were touched since they were last verified; all rows if `deep`."""
        for batch in batched(self._verified.compare(self.index.rows()), _ROWS_PER_BATCH):
            # The stamps are taken before the check, so what changes meanwhile is checked again.
            stamps = {row: stamp for row, stamp, is_touched in batch if is_touched or deep}
            for check in integrity.check_rows(self.storage, self.spec, stamps):
                self._apply_check(check, stamps[check.row])
        self._remove_superseded_rows()
        if self._is_changed:
            self._update_catalogue()
        self._verified.save()

    def _remove_superseded_rows(self) -> None:
        """Let each series keep one row: an older version could give it a second one."""
        superseded = dict(self.index.superseded_rows())
        if superseded:
            log.warning(
                "%s: %d older rows of series that were stored again are removed",
                self.storage,
                len(superseded),
            )
            self.remove_rows(superseded, ())
            self._restore_row_ids()

    def _apply_check(self, check: integrity.RowCheck, stamp: str) -> None:
        """Keep the stamp of an intact row, or mark a row as damaged."""
        line = self.index.line_of_row(check.row)
        assert line is not None
        if check.record is None:
            self.index.mark_damaged(check.row)
            series = line["series_uid"]
            log.warning("series %s (row %d) is damaged: %s", series, check.row, check.damage)
            return
        self._verified.set(check.row, stamp)
        if integrity.differing_columns(check.record, line):
            self._rows_with_stamp.add(check.row)
            self.add_record(check.record)

    def _remove_row(self, row: int) -> None:
        """Remove the record, then the chunk: no record may exist without its chunk."""
        self.storage.remove(record_key(row))
        self.storage.remove_folder(chunk_folder(row))


@contextmanager
def open_for_writing(
    root: Storage, spec: StoreSpec, *, wait_seconds: float = 0.0, deep: bool = False
) -> Iterator[StoreWriter]:
    """Open the store of `spec` under `root` for writing, under its lock; make it if it is missing.

    `deep` checks the bytes of every row. Raises StoreBusy if another run holds the store for
    longer than `wait_seconds`.
    """
    with root.lock(lock_key(spec.name), wait_seconds=wait_seconds) as lease:
        storage = (root / spec.name).with_lease(lease, WRITE_ONCE)
        if not lease.is_clean:
            sweep_store(storage)
        arrays.ensure_metadata(storage, spec)
        read_spec(storage)
        writer = StoreWriter(storage, spec, lease)
        try:
            writer.recover(deep=deep)
            yield writer
            writer.sync()  # before the lock says that there is nothing to repair
        finally:
            writer.close()


def commit_volume(
    store: WritableStorage,
    record: Record,
    volume: Voxels,
    compression: Compression = "none",
) -> None:
    """Write the chunk of `volume` (Z, Y, X), then its record; each is whole or absent.

    A power failure may damage both until the run writes them into the catalogue: before that it
    synchronises the disk, once for all of them. The next run finds what is damaged by checksums.

    Raises StoreBusy if the run that gave `store` to its workers is over.
    """
    chunk = encode(volume, compression)
    with store.committing():
        store.write(chunk_key(record.row), chunk, synced=False)
        write_record(store, record)


def volume_checksum(volume: Voxels) -> str:
    """XXH3-128 of a volume's bytes in C order, 32 hex digits, as in the volume's record."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(volume).data)
