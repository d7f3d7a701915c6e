"""Take objects away from a place, and find what no reader of a store can reach."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from voco_data.errors import StoreCorrupt
from voco_data.storage import atomic
from voco_data.storage.base import Storage
from voco_data.store import catalogue
from voco_data.store.keys import RECORDS as RECORDS
from voco_data.store.keys import row_of_chunk, row_of_record
from voco_data.store.record import Record, read_record
from voco_data.store.row_ids import KEY as ROWS
from voco_data.store.row_ids import RowIds

STALE_S = 24 * 3600.0
"""A temporary file that has not changed for so long belongs to a killed run."""

Object = tuple[str, int]
"""Key and bytes."""


def remove(storage: Storage, keys: Iterable[str]) -> None:
    """Remove objects one by one, in this order."""
    for key in keys:
        storage.remove(key)


def prune(storage: Storage, folder: str) -> None:
    """Remove the empty folders at and below `folder`; a bucket has none."""
    root = storage.local()
    if root is None:
        return
    for where, _, _ in os.walk(root / folder, topdown=False):
        # Not empty: something was written meanwhile, or was to stay.
        with suppress(OSError):
            Path(where).rmdir()


@dataclass(slots=True)
class Listing:
    """What lies in one store beside what its catalogue lists.

    In memory: about 70 bytes a row of the store, and 300 an object that no catalogue lists.
    """

    size: int = 0
    """Bytes of everything."""
    leftovers: list[Object] = field(default_factory=list)
    """Chunks and records that no catalogue lists and no run will take up."""
    stale: list[Object] = field(default_factory=list)
    """Temporary files of killed runs."""
    waiting: list[int] = field(default_factory=list)
    """RowIds of records that a run committed and no catalogue lists; the next run takes them up."""


def listing(store: Storage) -> Listing:
    """Walk over a store once. Records that an interrupted run committed are no leftovers.

    Only what the tables of a store say is certain: where the catalogue or the rows are lost, any
    record that reads counts as committed. Raises StoreCorrupt for a damaged catalogue.
    """
    found = Listing()
    certain = store.size(catalogue.KEY) is not None
    numbers = {
        row for batch in catalogue.batches(store, ["row"]) for row in batch["row"].to_pylist()
    }
    loose: dict[int, list[Object]] = {}
    for key, size in store.sizes():
        found.size += size
        row = row_of_record(key) if key.startswith(RECORDS) else row_of_chunk(key)
        if row is not None and row not in numbers:
            loose.setdefault(row, []).append((key, size))
        elif row is None and is_stale(store, key):
            found.stale.append((key, size))
    if not loose:
        return found
    with closing(RowIds(store)) as rows:
        certain &= not rows.lost
        for row, objects in sorted(loose.items()):
            if (not certain or rows.has(row)) and _readable(store, row) is not None:
                found.waiting.append(row)
            else:
                found.leftovers += objects
    return found


def waiting(store: Storage, found: Listing) -> Iterator[Record]:
    """The records that wait, one at a time; one that is gone meanwhile is left out."""
    return filter(None, (_readable(store, row) for row in found.waiting))


def stale(root: Storage, outside: Collection[str]) -> Iterator[Object]:
    """Temporary files of killed runs below a root, `outside` these folders; a bucket has none."""
    if root.local() is None:
        return
    for key, size in root.sizes():
        if key.partition("/")[0] not in outside and is_stale(root, key):
            yield key, size


def is_stale(storage: Storage, key: str) -> bool:
    """Whether an object is the temporary file of a run that was killed a day ago or longer."""
    folder = storage.local()
    if folder is None or not atomic.is_temporary(key.rpartition("/")[2]):
        return False
    try:
        return time.time() - (folder / key).stat().st_mtime > STALE_S
    except FileNotFoundError:
        return False


def in_safe_order(keys: Iterable[str]) -> Iterator[str]:
    """The keys of one store so that a kill on the way leaves a store that is smaller, or none.

    The catalogue goes first: readers then see an empty store. Records go before the rows, so that
    the next writer finds no row whose record is there and whose chunk is not. Metadata goes last,
    that of the group before that of its arrays, which are then made anew.
    """
    first = (catalogue.KEY, f"{RECORDS}/", ROWS)
    last = ("zarr.json", "volumes/zarr.json", "valid/zarr.json")

    def rank(key: str) -> int:
        if key in last:
            return len(first) + 1 + last.index(key)
        return next((i for i, start in enumerate(first) if key.startswith(start)), len(first))

    return iter(sorted(keys, key=rank))


def _readable(store: Storage, row: int) -> Record | None:
    """The record of a row, if it reads, and is of this row."""
    try:
        record = read_record(store, row)
    except StoreCorrupt:
        return None
    return record if record is not None and record.row == row else None
