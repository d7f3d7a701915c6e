"""Remove objects under a root, and find those that no reader of a store can reach."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from voco_data.errors import StoreCorrupt
from voco_data.storage import ReadableStorage, Storage, atomic
from voco_data.store import (
    ARRAYS,
    CATALOGUE,
    GROUP_METADATA,
    RECORDS,
    ROW_IDS,
    Record,
    RowIds,
    array_metadata,
    catalogue,
    read_record,
    row_of_chunk,
    row_of_record,
)

STALE_S = 24 * 3600.0
"""A temporary file that has not changed for this long belongs to a killed run."""

Object = tuple[str, int]
"""Key of an object, and its size in bytes."""


def remove_objects(storage: Storage, keys: Iterable[str]) -> None:
    """Remove objects one by one, in the order of `keys`."""
    for key in keys:
        storage.remove(key)


def remove_empty_folders(storage: Storage, folder: str) -> None:
    """Remove the empty folders at and below `folder`; a bucket has none."""
    root = storage.local_folder()
    if root is None:
        return
    for path, _, _ in os.walk(root / folder, topdown=False):
        # A folder that is not empty has a file that stays, or that was written meanwhile.
        with suppress(OSError):
            Path(path).rmdir()


@dataclass(slots=True)
class StoreScan:
    """The objects of a store that its catalogue does not list.

    Takes about 70 bytes a row of the store, and 300 bytes an object that no catalogue lists.
    """

    size: int = 0
    """Bytes of all objects."""
    leftovers: list[Object] = field(default_factory=list)
    """Chunks and records that the catalogue does not list and no run will adopt."""
    stale: list[Object] = field(default_factory=list)
    """Temporary files of killed runs."""
    uncatalogued: list[int] = field(default_factory=list)
    """Rows whose record an interrupted run committed; the next run adds them to the catalogue."""


def scan_store(store: ReadableStorage) -> StoreScan:
    """List all objects of a store, and find those that its catalogue does not list.

    Records that an interrupted run committed are not leftovers. If the catalogue or the table of
    rows is lost, every record that can be read counts as committed.
    Raises StoreCorrupt for a damaged catalogue.
    """
    scan = StoreScan()
    has_catalogue = store.size(CATALOGUE) is not None
    listed = {
        row for batch in catalogue.iter_batches(store, ["row"]) for row in batch["row"].to_pylist()
    }
    unlisted: dict[int, list[Object]] = {}
    for key, size in store.list_objects():
        scan.size += size
        row = row_of_record(key) if key.startswith(RECORDS) else row_of_chunk(key)
        if row is not None and row not in listed:
            unlisted.setdefault(row, []).append((key, size))
        elif row is None and is_stale_temporary(store, key):
            scan.stale.append((key, size))
    if not unlisted:
        return scan
    with closing(RowIds(store)) as row_ids:
        tables_intact = has_catalogue and not row_ids.is_lost
        for row, objects in sorted(unlisted.items()):
            may_be_adopted = row_ids.has_row(row) or not tables_intact
            if may_be_adopted and _read_if_intact(store, row) is not None:
                scan.uncatalogued.append(row)
            else:
                scan.leftovers += objects
    return scan


def uncatalogued_records(store: ReadableStorage, scan: StoreScan) -> Iterator[Record]:
    """Iterate over the records of `scan.uncatalogued`, without those removed meanwhile."""
    return filter(None, (_read_if_intact(store, row) for row in scan.uncatalogued))


def stale_temporaries(root: ReadableStorage, outside: Collection[str]) -> Iterator[Object]:
    """Iterate over temporary files of killed runs below a root, `outside` these folders.

    A bucket has none.
    """
    if root.local_folder() is None:
        return
    for key, size in root.list_objects():
        if key.partition("/")[0] not in outside and is_stale_temporary(root, key):
            yield key, size


def is_stale_temporary(storage: ReadableStorage, key: str) -> bool:
    """Whether an object is a temporary file that has not changed for `STALE_S`."""
    folder = storage.local_folder()
    if folder is None or not atomic.is_temporary(key.rpartition("/")[2]):
        return False
    try:
        return time.time() - (folder / key).stat().st_mtime > STALE_S
    except FileNotFoundError:
        return False


def sort_for_removal(keys: Iterable[str]) -> list[str]:
    """Sort the keys of a store so that a killed removal leaves a valid store, or none.

    The catalogue is removed first: readers then see an empty store. Records are removed before the
    table of rows, so that the next writer finds no row whose record exists and whose chunk does
    not. Metadata is removed last, that of the group before that of its arrays, which are then made
    anew.
    """
    removed_first = (CATALOGUE, f"{RECORDS}/", ROW_IDS)
    removed_last = (GROUP_METADATA, *map(array_metadata, ARRAYS))

    def rank(key: str) -> int:
        if key in removed_last:
            return len(removed_first) + 1 + removed_last.index(key)
        return next(
            (i for i, start in enumerate(removed_first) if key.startswith(start)),
            len(removed_first),
        )

    return sorted(keys, key=rank)


def _read_if_intact(store: ReadableStorage, row: int) -> Record | None:
    """The record of a row; None if it cannot be read or is that of another row."""
    try:
        record = read_record(store, row)
    except StoreCorrupt:
        return None
    return record if record is not None and record.row == row else None
