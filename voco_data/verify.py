"""Re-hash everything a store holds against its records: bit rot is found and named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data import damage, store_arrays
from voco_data.record import FOLDER
from voco_data.store import Store, break_seal


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
    """Check every chunk, every record and the metadata of a store.

    What is damaged is touched where we may write, so that the next run looks at it. Raises
    InputError if the store does not open, StoreCorrupt if its catalogue cannot be read.
    """
    opened = Store.open(store)
    return VerifySummary(str(opened.path), len(opened), tuple(_problems(opened)))


def _problems(store: Store) -> Iterator[str]:
    lines = {int(line["row"]): line for line in store.catalogue.to_dict("records")}
    for found in damage.check_rows(store.path, store.spec, sorted(lines)):
        line = lines[found.row]
        series = f"series {line['series_uid']} (row {found.row})"
        if found.record is None:
            break_seal(store.path, found.row)
            yield f"{series}: {found.damage}"
        elif differ := damage.differing(found.record, line):
            yield f"{series}: the catalogue differs from its record in {', '.join(differ)}"
    yield from _strays(store.path, set(lines))
    yield from store_arrays.problems(store.path, store.spec, store.catalogue["row"].to_numpy())


def _strays(store: Path, listed: set[int]) -> Iterator[str]:
    """Files of rows that the catalogue does not list: a run was killed, or is writing."""
    for path in sorted((store / FOLDER).glob("*/*.json")):
        if int(path.stem) not in listed:
            yield f"row {int(path.stem)}: a record that the catalogue does not list; rerun"
    for path in sorted((store / "volumes" / "c").glob("*/0/0/0")):
        if int(path.parents[2].name) not in listed:
            yield f"row {path.parents[2].name}: a chunk that the catalogue does not list; rerun"
