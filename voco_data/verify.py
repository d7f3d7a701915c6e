"""Re-hash everything a store holds against its records: bit rot is found and named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.errors import StoreCorrupt
from voco_data.record import read_record
from voco_data.store import Store


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


def verify(store: str | Path) -> VerifySummary:
    """Check every chunk and record of a store. Raises InputError if it does not open."""
    opened = Store.open(store, cached=False)  # what is there, not what this machine remembers
    return VerifySummary(str(opened.place), len(opened), tuple(_problems(opened)))


def _problems(store: Store) -> Iterator[str]:
    for line in store.catalogue.to_dict("records"):
        row, series = int(line["row"]), line["series_uid"]
        try:
            record = read_record(store.place, row)
            if record is None:
                yield f"series {series} (row {row}): its record is missing"
            elif record.chunk_checksum != line["chunk_checksum"]:
                yield f"series {series} (row {row}): record and catalogue disagree"
            store.read(row)
        except StoreCorrupt as error:
            yield str(error)
