"""Re-hash everything a store holds against its records: bit rot is found and named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.storage.base import Storage
from voco_data.storage.urls import open_storage
from voco_data.store import arrays, integrity
from voco_data.store.index import StoreIndex
from voco_data.store.keys import CHUNKS, RECORDS, chunk_key, row_of_chunk, row_of_record
from voco_data.store.metadata import read_spec
from voco_data.store.spec import StoreSpec


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """Outcome of one verification."""

    store: str
    series: int
    """How many series were checked."""
    problems: tuple[str, ...]
    """One line each, naming the series."""

    def to_json(self) -> dict[str, object]:
        """As `voco store verify --json` prints it."""
        return asdict(self)


def verify(store: str | Path | Storage) -> VerifySummary:
    """Check every chunk, every record and the metadata of a store.

    What is damaged is touched where we may write, so that the next run looks at it. Raises
    InputError if the store does not open, StoreCorrupt if its catalogue cannot be read.
    """
    storage = open_storage(store)
    spec = read_spec(storage)
    with closing(StoreIndex()) as held:
        held.load(storage)
        problems = (*_problems(storage, spec, held), *_strays(storage, held))
        return VerifySummary(str(storage), held.count, problems)


def _problems(storage: Storage, spec: StoreSpec, held: StoreIndex) -> Iterator[str]:
    for found in integrity.check_rows(storage, spec, held.rows()):
        line = held.at(found.row)
        assert line is not None
        series = f"series {line['series_uid']} (row {found.row})"
        if found.record is None:
            storage.touch(chunk_key(found.row))
            yield f"{series}: {found.damage}"
        elif differ := integrity.differing(found.record, line):
            yield f"{series}: the catalogue differs from its record in {', '.join(differ)}"
    yield from arrays.problems(storage, spec, held.rows(), held.size)


def _strays(storage: Storage, held: StoreIndex) -> Iterator[str]:
    """Objects of rows that the catalogue does not list: a run was killed, or is writing."""
    kinds = ((RECORDS, row_of_record, "a record"), (CHUNKS, row_of_chunk, "a chunk"))
    for folder, row_of, what in kinds:
        rows = (row_of(key) for key, _ in storage.sizes(folder))
        strays = {row for row in rows if row is not None and not held.has_row(row)}
        for row in sorted(strays):
            yield f"row {row}: {what} that the catalogue does not list; rerun"
