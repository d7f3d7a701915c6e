"""Writing a store: rows are planned by one coordinator, volumes are committed by many workers.

The protocol is voco_data/STORE.md. The coordinator holds the lock; workers need only the folder.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from voco_data import atomic, catalogue, damage, leftovers, lock, store_arrays, tables
from voco_data.errors import StoreCorrupt
from voco_data.record import Record, record_path, series_key, write_record
from voco_data.seals import Seals
from voco_data.spec import StoreSpec
from voco_data.store import chunk_folder, chunk_path, read_spec

log = logging.getLogger(__name__)

ROWS_FILE = Path("volumes", "rows.parquet")
_ROWS_COLUMNS = {"key": "string", "row": "int64"}


class StoreWriter:
    """A store held for writing. Make one with `writing`."""

    def __init__(self, path: Path, spec: StoreSpec, *, deep: bool = False) -> None:
        self.path = path
        self.spec = spec
        self._seals = Seals(path)
        self._damaged: set[int] = set()
        self._rows: dict[str, int] = {}
        self._table = catalogue.frame([])
        self._load()
        self._take_up_holes()
        self._find_damage(deep=deep)

    @property
    def table(self) -> pd.DataFrame:
        """The catalogue, with what an interrupted run had committed, without damaged rows."""
        return self._table[~self._table["row"].isin(self._damaged)]

    def assign(self, keys: Sequence[str]) -> dict[str, int]:
        """Rows for the series `keys`, remembered before any work starts.

        A key that was given a row by an interrupted run keeps it, so that a rerun ends with the
        same rows as an undisturbed run; so does a key whose row is damaged. A key whose row is
        whole gets a new one: what is committed is never overwritten. New rows are numbered in
        sorted order of the keys.
        """
        listed = set(self._table["row"].tolist())
        whole = listed - self._damaged
        new = sorted(key for key in set(keys) if self._rows.get(key, -1) in {-1, *whole})
        first = max([*self._rows.values(), *listed], default=-1) + 1
        self._rows |= {key: row for row, key in enumerate(new, start=first)}
        self._write_rows()
        self._resize(max([*self._rows.values(), *listed], default=-1) + 1)
        return {key: self._rows[key] for key in keys}

    def compact(self, records: Sequence[Record]) -> None:
        """Bring catalogue, `valid` and N up to date with `records` that workers committed.

        A record replaces the one that the same series had under another row.
        """
        fresh = catalogue.frame([catalogue.line(record) for record in records])
        old = self._table
        replaced = old["row"].isin(fresh["row"]) | _same_series(old, fresh)
        gone = sorted(set(old["row"][replaced]) - set(fresh["row"]))
        parts = [part for part in (old[~replaced], fresh) if len(part)]
        self._table = pd.concat(parts).sort_values("row", ignore_index=True) if parts else fresh
        self._damaged -= set(old["row"][replaced])
        rows = self._table["row"].to_numpy()
        size = int(rows.max()) + 1 if len(rows) else 0
        planned = {key: row for key, row in self._rows.items() if row < size}
        self._rows = planned | _keys(self._table)
        self._write_rows()
        self._resize(size)
        store_arrays.write_valid(self.path, rows, size)
        catalogue.write(self.path, self._table)
        for row in gone:  # only now: no reader of the new catalogue goes there
            self._remove(row)
        self._seals.set(fresh["row"].tolist())
        self._seals.keep(rows.tolist())
        self._seals.save()

    def _load(self) -> None:
        """Read rows and catalogue; what cannot be read is made again from the records."""
        try:
            self._rows = _read_rows(self.path)
            self._table = catalogue.read(self.path)
            lost = not (self.path / catalogue.FILE).exists()
        except StoreCorrupt as error:
            log.warning("%s; it is made again from the records", error)
            lost = True
        if lost or (len(self._table) and not self._rows):
            found = damage.recover(self.path)
            self._table = damage.lines_of(found)
            self._rows |= {record.key: record.row for record in found}

    def _take_up_holes(self) -> None:
        """Rows without a line: adopt what an interrupted run committed, remove what it left."""
        listed = set(self._table["row"].tolist())
        planned = set(self._rows.values())
        size = max([store_arrays.length(self.path) - 1, *planned, *listed], default=-1) + 1
        adopted = []
        for row in sorted(set(range(size)) - listed):
            found = damage.check_row(self.path, self.spec, row) if row in planned else None
            if found is not None and found.record is not None:
                adopted.append(found.record)
            else:
                self._remove(row)
        if adopted:
            self.compact(adopted)

    def _find_damage(self, *, deep: bool) -> None:
        """Check rows whose files were touched since they were last found right; all if `deep`."""
        lines: dict[int, dict[Hashable, Any]] = {
            int(line["row"]): line for line in self._table.to_dict("records")
        }
        suspects = [row for row in lines if deep or not self._seals.holds(row)]
        corrected = []
        for found in damage.check_rows(self.path, self.spec, suspects):
            if found.record is None:
                self._damaged.add(found.row)
                name = lines[found.row]["series_uid"]
                log.warning("series %s (row %d) is damaged: %s", name, found.row, found.damage)
            elif damage.differing(found.record, lines[found.row]):
                corrected.append(found.record)
        self._seals.set(set(suspects) - self._damaged)
        if corrected:
            self.compact(corrected)
        self._seals.save()

    def _remove(self, row: int) -> None:
        """Take a row off the disk: the record first, so that it never stands without its chunk."""
        record_path(self.path, row).unlink(missing_ok=True)
        shutil.rmtree(chunk_folder(self.path, row), ignore_errors=True)

    def _write_rows(self) -> None:
        table = pd.DataFrame({"key": list(self._rows), "row": list(self._rows.values())})
        tables.write(self.path / ROWS_FILE, table.astype(_ROWS_COLUMNS))

    def _resize(self, size: int) -> None:
        store_arrays.resize(self.path, size)


@contextmanager
def writing(
    root: Path, spec: StoreSpec, *, wait_seconds: float = 0.0, deep: bool = False
) -> Iterator[StoreWriter]:
    """The store of `spec` under `root`, made if absent, held under its lock.

    `deep` checks the bytes of every row. Raises StoreBusy if another run holds the store for
    longer than `wait_seconds`.
    """
    path = root / spec.name
    with lock.exclusive(root / f".{spec.name}.lock", wait_seconds=wait_seconds) as ended_well:
        if not ended_well:
            leftovers.sweep_store(path)
        store_arrays.ensure(path, spec)
        read_spec(path)
        yield StoreWriter(path, spec, deep=deep)


def commit_volume(store: Path, record: Record, volume: npt.NDArray[np.uint8]) -> None:
    """Write the chunk, then the record; both whole or absent."""
    atomic.write_bytes(chunk_path(store, record.row), np.ascontiguousarray(volume).data)
    write_record(store, record)


def checksum(volume: npt.NDArray[np.uint8]) -> str:
    """XXH3-128 of a volume's bytes in C order, as records keep it."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(volume).data)


def _keys(table: pd.DataFrame) -> dict[str, int]:
    """Key of every listed series, and its row."""
    names = (table[name] for name in ("patient_id", "series_uid", "source"))
    return {series_key(*ids): row for *ids, row in zip(*names, table["row"], strict=True)}


def _same_series(old: pd.DataFrame, fresh: pd.DataFrame) -> npt.NDArray[np.bool_]:
    names = ["patient_id", "series_uid", "source"]
    return pd.MultiIndex.from_frame(old[names]).isin(pd.MultiIndex.from_frame(fresh[names]))


def _read_rows(path: Path) -> dict[str, int]:
    table = tables.read(path / ROWS_FILE, _ROWS_COLUMNS)
    if table is None:
        return {}
    return dict(zip(table["key"].tolist(), table["row"].tolist(), strict=True))
