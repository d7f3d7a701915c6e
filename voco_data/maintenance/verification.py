"""Compare everything that a store holds with its records, by checksums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.qc import preview
from voco_data.storage import PREVIEWS_FOLDER, ReadableStorage, open_storage, parent_storage
from voco_data.store import (
    CHUNKS,
    RECORDS,
    StoreIndex,
    StoreSpec,
    arrays,
    catalogue,
    chunk_key,
    integrity,
    read_spec,
    row_of_chunk,
    row_of_record,
)


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """Result of the verification of a store."""

    store: str
    series: int
    """Number of series that were checked."""
    problems: tuple[str, ...]
    """One line each, with the series."""

    def to_json(self) -> dict[str, object]:
        """As `voco store verify --json` prints it."""
        return asdict(self)


def verify_store(store: str | Path | ReadableStorage) -> VerifySummary:
    """Check every chunk, every record and the metadata of a store, and the previews of its root.

    A store that was copied without its root, or that is given as an open storage, has no previews.
    Damaged chunks are touched if the store can be written, so that the next run checks them.
    Raises InputError if the store does not open, StoreCorrupt if its catalogue cannot be read.
    """
    storage = open_storage(store)
    root = parent_storage(store) if isinstance(store, str | Path) else None
    spec = read_spec(storage)
    with closing(StoreIndex()) as index:
        index.load(storage)
        problems = (
            *_find_problems(storage, spec, index),
            *_find_unlisted_objects(storage, index),
            *_find_lost_previews(storage, root),
        )
        return VerifySummary(str(storage), index.n_lines, problems)


def _find_problems(storage: ReadableStorage, spec: StoreSpec, index: StoreIndex) -> Iterator[str]:
    for check in integrity.check_rows(storage, spec, index.rows()):
        line = index.line_of_row(check.row)
        assert line is not None
        series = f"series {line['series_uid']} (row {check.row})"
        if check.record is None:
            storage.touch(chunk_key(check.row))
            yield f"{series}: {check.damage}"
        elif columns := integrity.differing_columns(check.record, line):
            yield f"{series}: the catalogue differs from its record in {', '.join(columns)}"
    for row, staying in index.superseded_rows():
        yield f"row {row}: row {staying} holds the same series; rerun"
    yield from arrays.find_problems(storage, spec, index.rows(), index.n_rows)


def _find_unlisted_objects(storage: ReadableStorage, index: StoreIndex) -> Iterator[str]:
    """Records and chunks that the catalogue does not list: a run was killed, or is writing."""
    kinds = ((RECORDS, row_of_record, "a record"), (CHUNKS, row_of_chunk, "a chunk"))
    for folder, row_of, kind in kinds:
        rows = (row_of(key) for key, _ in storage.list_objects(folder))
        unlisted = {row for row in rows if row is not None and not index.has_row(row)}
        for row in sorted(unlisted):
            yield f"row {row}: {kind} that the catalogue does not list; rerun"


def _find_lost_previews(storage: ReadableStorage, root: ReadableStorage | None) -> Iterator[str]:
    """Series of the catalogue whose preview is lost or torn."""
    if root is None or next(iter(root.list_objects(PREVIEWS_FOLDER)), None) is None:
        return
    columns = ["series_uid", "row", "input_digest"]
    for batch in catalogue.iter_batches(storage, columns):
        for line in batch.to_pylist():
            if not preview.is_whole(root, line["input_digest"]):
                series = f"series {line['series_uid']} (row {line['row']})"
                yield (
                    f"{series}: its preview is lost or torn; voco preprocess --deep makes it again"
                )
