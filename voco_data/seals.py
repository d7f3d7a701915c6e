"""How the files of a store's rows looked when their bytes were last found right.

A file with the same size, times and inode needs no re-hash: a run over a large store looks at
each file once, and reads only those that were touched since. Losing the seals costs time alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from voco_data import tables
from voco_data.errors import StoreCorrupt
from voco_data.record import record_path
from voco_data.store import chunk_path

log = logging.getLogger(__name__)

FILE = Path("volumes", "seals.parquet")
_COLUMNS = [
    f"{file}_{what}"
    for file in ("chunk", "record")
    for what in ("size", "mtime_ns", "ctime_ns", "inode")
]

Stamp = tuple[int, ...]
"""Size, time of change, time of change of the inode, and inode: of the chunk, of the record."""


class Seals:
    """The stamps of one store's rows."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._stamps = _read(store / FILE)
        self._changed = False

    def holds(self, row: int) -> bool:
        """Whether the files of `row` look as they did when they were last found right."""
        return row in self._stamps and _stamp(self._store, row) == self._stamps[row]

    def set(self, rows: Iterable[int]) -> None:
        """The bytes of these rows are right: remember how their files look."""
        for row in rows:
            stamp = _stamp(self._store, row)
            if stamp is not None and self._stamps.get(row) != stamp:
                self._stamps[row] = stamp
                self._changed = True

    def keep(self, rows: Iterable[int]) -> None:
        """Forget all rows but these."""
        gone = set(self._stamps) - set(rows)
        for row in gone:
            del self._stamps[row]
        self._changed |= bool(gone)

    def save(self) -> None:
        """Write the stamps, atomically, if any has changed."""
        if not self._changed:
            return
        table = pd.DataFrame.from_dict(self._stamps, orient="index", columns=_COLUMNS)
        table = table.astype("int64").rename_axis("row").reset_index()
        tables.write(self._store / FILE, table)
        self._changed = False


def _read(path: Path) -> dict[int, Stamp]:
    try:
        table = tables.read(path, dict.fromkeys(["row", *_COLUMNS], "int64"))
    except StoreCorrupt as error:
        log.warning("%s; every volume is checked", error)
        return {}
    if table is None:
        return {}
    stamps = table[_COLUMNS].itertuples(index=False, name=None)
    return dict(zip(table["row"].tolist(), stamps, strict=True))


def _stamp(store: Path, row: int) -> Stamp | None:
    """None where a file is missing. The inode's time of change cannot be set by anyone."""
    stamp: list[int] = []
    for path in (chunk_path(store, row), record_path(store, row)):
        try:
            found = os.stat(path)  # noqa: PTH116  twice as fast as Path.stat, for every row
        except FileNotFoundError:
            return None
        stamp += (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return tuple(stamp)
