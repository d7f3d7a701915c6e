"""Rows whose bytes are not what was committed: found before a run plans, so that it rebuilds them.

The record is the truth about its row. A row is whole if its record reads and its chunk has the
checksum that the record gives; the catalogue only repeats what records say.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voco_data import catalogue
from voco_data.errors import StoreCorrupt
from voco_data.record import FOLDER, Record, read_record
from voco_data.spec import StoreSpec
from voco_data.store import Store

_THREADS = 8
"""Reads wait for the disk, and hashing lets other threads run."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one row."""

    row: int
    damage: str = ""
    """What is wrong; empty for a whole row."""
    record: Record | None = None
    """The record of a whole row."""


def check_rows(store: Path, spec: StoreSpec, rows: list[int]) -> Iterator[Checked]:
    """Read and hash record and chunk of every row, several at a time, in the order of `rows`."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(lambda row: check_row(store, spec, row), rows)


def check_row(store: Path, spec: StoreSpec, row: int) -> Checked:
    """Read and hash record and chunk of one row."""
    try:
        record = read_record(store, row)
        if record is None:
            return Checked(row, "its record is missing")
        if record.row != row or record.spec_digest != spec.digest:
            return Checked(row, "its record is that of another row or store")
        Store(store, spec, catalogue.frame([catalogue.line(record)])).read(row)
    except StoreCorrupt as error:
        return Checked(row, str(error))
    return Checked(row, record=record)


def differing(record: Record, line: Mapping[Hashable, Any]) -> list[str]:
    """Columns in which the catalogue's line is not what the record says."""
    (said,) = catalogue.frame([catalogue.line(record)]).to_dict("records")
    return [name for name in catalogue.COLUMNS if not _equal(said[name], line[name])]


def _equal(a: Any, b: Any) -> bool:
    return list(a) == list(b) if hasattr(a, "__len__") and not isinstance(a, str) else bool(a == b)


def recover(store: Path) -> list[Record]:
    """All records of a store that read, for a catalogue that was lost.

    Of two records of one series the later row counts: it replaced the other.
    """
    found: dict[str, Record] = {}
    for path in sorted((store / FOLDER).glob("*/*.json")):
        try:
            record = Record.from_json(path.read_text(errors="replace"), str(path))
        except StoreCorrupt:
            continue  # no row without a record: its series is read again
        found[record.key] = record
    return sorted(found.values(), key=lambda record: record.row)


def lines_of(records: list[Record]) -> pd.DataFrame:
    """A catalogue of these records."""
    return catalogue.frame(catalogue.line(record) for record in records)
