"""Check that the bytes of a row are those that were committed.

The record is the truth about its row: a row is intact if its record reads and its chunk has the
checksum that the record gives. The catalogue repeats what records say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from voco_data.batching import batched
from voco_data.errors import StoreCorrupt, VocoError
from voco_data.storage import ReadableStorage
from voco_data.store import catalogue
from voco_data.store.catalogue import Line
from voco_data.store.reader import Store
from voco_data.store.record import Record, read_record, rows_with_record
from voco_data.store.spec import StoreSpec

log = logging.getLogger(__name__)

_THREADS = 8
"""Rows that are checked at once. Reads wait for the disk, and hashing releases the GIL."""
_ROWS_QUEUED = 10_000
"""Rows that wait for a thread; more would only take memory."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """The result of checking one row."""

    row: int
    damage: str = ""
    """What is wrong; empty for an intact row."""
    record: Record | None = None
    """The record of an intact row."""


def check_rows(store: ReadableStorage, spec: StoreSpec, rows: Iterable[int]) -> Iterator[RowCheck]:
    """Read and hash record and chunk of every row, several at a time, in the order of `rows`."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for batch in batched(rows, _ROWS_QUEUED):
            yield from threads.map(lambda row: check_row(store, spec, row), batch)


def check_row(store: ReadableStorage, spec: StoreSpec, row: int) -> RowCheck:
    """Read and hash record and chunk of one row.

    Raises VocoError if they cannot be read for another reason than damage.
    """
    try:
        record = read_record(store, row)
        if record is None:
            return RowCheck(row, "its record is missing")
        if record.row != row or record.spec_digest != spec.digest:
            return RowCheck(row, "its record is that of another row or store")
        Store.from_records(store, spec, [record]).read(row)
    except StoreCorrupt as error:
        return RowCheck(row, str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        raise VocoError(
            f"{store}: row {row} cannot be read ({reason}); this is no damage of the store: "
            "remove the cause, then run again"
        ) from error
    return RowCheck(row, record=record)


def differing_columns(record: Record, line: Line) -> list[str]:
    """Names of the columns in which a line of the catalogue differs from its record."""
    expected = catalogue.line_from_record(record)
    return [name for name, value in line.items() if expected[name] != value]


def readable_records(store: ReadableStorage) -> Iterator[Record]:
    """Iterate over the records that can be read, in no order, to rebuild a lost catalogue."""
    for row in rows_with_record(store):
        try:
            record = read_record(store, row)
        except StoreCorrupt as error:
            log.warning("%s; its series is read again", error)
        else:
            if record is not None:
                yield record
