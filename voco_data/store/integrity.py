"""Rows whose bytes are not what was committed: found before a run plans, so that it rebuilds them.

The record is the truth about its row. A row is whole if its record reads and its chunk has the
checksum that the record gives; the catalogue only repeats what records say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from voco_data.errors import StoreCorrupt, VocoError
from voco_data.storage.base import Storage
from voco_data.store import catalogue
from voco_data.store.catalogue import Line
from voco_data.store.reader import Store
from voco_data.store.record import Record, read_record, rows_with_record
from voco_data.store.spec import StoreSpec
from voco_data.store.verified import in_pieces

log = logging.getLogger(__name__)

_THREADS = 8
"""Reads wait for the disk, and hashing lets other threads run."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """What was found of one row."""

    row: int
    damage: str = ""
    """What is wrong; empty for a whole row."""
    record: Record | None = None
    """The record of a whole row."""


def check_rows(store: Storage, spec: StoreSpec, rows: Iterable[int]) -> Iterator[RowCheck]:
    """Read and hash record and chunk of every row, several at a time, in the order of `rows`."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for piece in in_pieces(rows):
            yield from threads.map(lambda row: check_row(store, spec, row), piece)


def check_row(store: Storage, spec: StoreSpec, row: int) -> RowCheck:
    """Read and hash record and chunk of one row. Raises VocoError if we cannot read them here."""
    try:
        record = read_record(store, row)
        if record is None:
            return RowCheck(row, "its record is missing")
        if record.row != row or record.spec_digest != spec.digest:
            return RowCheck(row, "its record is that of another row or store")
        Store.of_records(store, spec, [record]).read(row)
    except StoreCorrupt as error:
        return RowCheck(row, str(error))
    except OSError as error:
        what = error.strerror or str(error)
        raise VocoError(
            f"{store}: row {row} cannot be read ({what}): that is no damage; see to it, run again"
        ) from error
    return RowCheck(row, record=record)


def differing(record: Record, line: Line) -> list[str]:
    """Columns in which a line of the catalogue is not what the record says."""
    said = catalogue.line(record)
    return [name for name, value in line.items() if said[name] != value]


def recover(store: Storage) -> Iterator[Record]:
    """All records of a store that read, in no order, for a catalogue that was lost."""
    for row in rows_with_record(store):
        try:
            record = read_record(store, row)
        except StoreCorrupt as error:
            log.warning("%s; its series is read again", error)
        else:
            if record is not None:
                yield record
