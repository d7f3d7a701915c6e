"""The plan of a run: the series that each store lacks, found before any pixel is decoded.

Two questions decide whether a series is read for a store:

1. What was the result of these files in an earlier run? `earlier_results` answers from the stat
   digest, for which no file is opened: an input digest, a reason to refuse the series, or nothing.
2. Does the store hold this series with this input? `InputDigests.holds` answers from the identity
   of the series and the input digest. The plan asks for files with a known input digest, a worker
   for files that it has just read.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, overload

from voco_data.executors import SeriesTask, Target
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.named_cohort import NamedCohort, NamedSeries
from voco_data.ingest.seen_files import EarlierResult, SeenFiles, seen_key
from voco_data.storage import Storage, scratch_db
from voco_data.store import InputDigests, StoreIndex, StoreSpec


class PlannedStore(Protocol):
    """What a plan needs of a store: a StoreWriter, or a snapshot that an estimate takes."""

    storage: Storage
    spec: StoreSpec
    index: StoreIndex

    def assign_rows(self, keys: Iterable[str]) -> None:
        """Give rows to series."""

    def row_of(self, key: str) -> int:
        """The row that `assign_rows` gave."""


StoreGroup = tuple[PlannedStore, ...]
"""Stores whose specs have equal rules: one decode of a series serves them all."""


def group_by_rules(stores: Sequence[PlannedStore]) -> list[StoreGroup]:
    """Group the stores whose specs have equal rules."""
    groups: dict[object, StoreGroup] = {}
    for store in stores:
        groups[store.spec.volume_rules] = (*groups.get(store.spec.volume_rules, ()), store)
    return list(groups.values())


def earlier_results(
    series: NamedSeries, groups: Iterable[StoreGroup], seen_files: SeenFiles | None
) -> Iterator[tuple[StoreGroup, str, EarlierResult | None]]:
    """Iterate over what earlier runs learnt about the files of a series.

    For each group of stores: the group, the key in `seen_files`, and the entry under that key. The
    entry is None if the files are new, have changed, or were read under other rules, and always if
    `seen_files` is None.
    """
    for group in groups:
        key = seen_key(series.stat_digest, group[0].spec)
        yield group, key, None if seen_files is None else seen_files.look_up(key)


def make_task(
    root: Storage, cohort: NamedCohort, series: NamedSeries, targets: tuple[Target, ...]
) -> SeriesTask:
    """Make the task to read a series, with its list of files."""
    archive = cohort.cohort
    entry = archive.entry(series.head.number)
    return SeriesTask(
        key=series.key,
        base=archive.base,
        entry=replace(entry, stat_digest=series.stat_digest),
        layout=archive.layout,
        ids=series.ids,
        patient_id=series.patient_id,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        source=series.source,
        targets=targets,
        root=root,
        given_box=series.given_box,
        burned_in=series.burned_in,
    )


_TABLES = """
CREATE TABLE to_read (
    position INTEGER PRIMARY KEY, number INTEGER, key TEXT, seen_key TEXT, stores INTEGER
);
CREATE INDEX by_key ON to_read (key);
CREATE INDEX by_number ON to_read (number);
"""
"""`to_read.stores` has a bit for each store for which the series is read."""


class LazyTasks(Sequence[SeriesTask], ABC):
    """Tasks, each of which is made when it is requested."""

    @overload
    def __getitem__(self, index: int) -> SeriesTask: ...

    @overload
    def __getitem__(self, index: slice) -> list[SeriesTask]: ...

    def __getitem__(self, index: int | slice) -> SeriesTask | list[SeriesTask]:
        """Return one task, or a list of them."""
        if isinstance(index, slice):
            return [self._task(position) for position in range(*index.indices(len(self)))]
        return self._task(range(len(self))[index])

    @abstractmethod
    def _task(self, position: int) -> SeriesTask:
        """Make the task at a position from 0 on."""


class Tasks(LazyTasks):
    """The series to read. A task, with its list of files, is made when it is requested."""

    def __init__(
        self,
        root: Storage,
        cohort: NamedCohort,
        stores: Sequence[PlannedStore],
        table: sqlite3.Connection,
    ) -> None:
        self._root = root
        self._cohort = cohort
        self._stores = stores
        self._table = table
        (self._count,) = table.execute("SELECT COUNT(*) FROM to_read").fetchone()

    def __len__(self) -> int:
        """The number of tasks."""
        return int(self._count)

    def _task(self, position: int) -> SeriesTask:
        number, key, bits = self._table.execute(
            "SELECT number, seen_key, stores FROM to_read WHERE position = ?", (position,)
        ).fetchone()
        series = self._cohort[number]
        targets = tuple(
            Target(store.storage, store.spec, store.row_of(series.key))
            for bit, store in enumerate(self._stores)
            if bits >> bit & 1
        )
        return replace(make_task(self._root, self._cohort, series, targets), seen_key=key)


class IngestPlan:
    """The series that a run will read, in a table in a temporary file, which `close` removes."""

    def __init__(
        self,
        root: Storage,
        cohort: NamedCohort,
        keys: CohortKeys,
        stores: Sequence[PlannedStore],
        seen_files: SeenFiles | None,
    ) -> None:
        """Compare the cohort with the stores. With `seen_files` None, all files are read again.

        Series that `keys` excludes are not read.
        """
        self._keys = keys
        self._table = scratch_db.open_scratch_db(_TABLES)
        self.known_inputs: Mapping[str, InputDigests] = {
            store.storage.name: store.index.input_digests() for store in stores
        }
        """Input digests that each store held when the run began, by folder name of the store."""
        self.new_series: Counter[StoreSpec] = Counter({store.spec: 0 for store in stores})
        """For each store, the number of series to read that have no row in it."""
        self._table.executemany(
            "INSERT INTO to_read VALUES (?, ?, ?, ?, ?)",
            (
                (position, *row)
                for position, row in enumerate(self._series_to_read(cohort, stores, seen_files))
            ),
        )
        for bit, store in enumerate(stores):
            rows = self._table.execute(
                "SELECT DISTINCT key FROM to_read WHERE stores & ? ORDER BY key", (1 << bit,)
            )
            store.assign_rows(key for (key,) in rows)
        self.tasks = Tasks(root, cohort, stores, self._table)

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    @property
    def n_series(self) -> int:
        """The number of series to read."""
        (count,) = self._table.execute("SELECT COUNT(DISTINCT number) FROM to_read").fetchone()
        return int(count)

    def reads_series(self, number: int) -> bool:
        """Whether the series of this number in the index is to be read."""
        return scratch_db.exists(self._table, "FROM to_read WHERE number = ?", (number,))

    def _series_to_read(
        self, cohort: NamedCohort, stores: Sequence[PlannedStore], seen_files: SeenFiles | None
    ) -> Iterator[tuple[int, str, str, int]]:
        """(number, key, key in seen files, stores as bits) of every series to read."""
        groups = group_by_rules(stores)
        for series in cohort:
            if self._keys.exclusion(series.head.number) is not None:
                continue
            for group, key, seen in earlier_results(series, groups, seen_files):
                lacking = self._stores_lacking(series, group, seen)
                if lacking:
                    self.new_series.update(
                        store.spec
                        for store in lacking
                        if not store.index.has_series(series.identity)
                    )
                    bits = sum(1 << bit for bit, store in enumerate(stores) if store in lacking)
                    yield series.head.number, series.key, key, bits

    def _stores_lacking(
        self, series: NamedSeries, group: StoreGroup, seen: EarlierResult | None
    ) -> StoreGroup:
        """The stores that may lack the series: all of them, if nothing is known of its files."""
        if seen is None:
            return group
        if seen.reason is not None:
            return ()
        return tuple(
            store
            for store in group
            if not self.known_inputs[store.storage.name].holds(seen.input_digest, series.identity)
        )
