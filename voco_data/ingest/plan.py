"""Before any decode: which series are new to which store, under which ids."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, overload

import xxhash

from voco_data.cohort import Cohort, OddFile, SeriesHead
from voco_data.cropping.external_boxes import GivenBox
from voco_data.deidentification.pseudonyms import Pseudonymiser
from voco_data.executors.worker import SeriesTask, Target
from voco_data.ingest.seen_files import SeenFiles, memory_key
from voco_data.storage import scratch_db
from voco_data.storage.base import Storage
from voco_data.store.index import SeriesIdentity, StoreIndex
from voco_data.store.record import series_key
from voco_data.store.spec import StoreSpec

EMPTY: Mapping[str, GivenBox] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NamedSeries:
    """A series under the ids that may be written."""

    head: SeriesHead
    given: GivenBox | None
    """A box that was made elsewhere."""
    ids: str
    """`kept` or `pseudonym`."""
    patient_id: str
    study_uid: str
    series_uid: str
    source: str

    @property
    def identity(self) -> SeriesIdentity:
        """Patient and series id."""
        return (self.patient_id, self.series_uid)

    @property
    def stat_digest(self) -> str:
        """Changes with the series' files and masks, and with a box that is given for it."""
        if self.given is None:
            return self.head.stat_digest
        return xxhash.xxh3_128_hexdigest(f"{self.head.stat_digest} {self.given.digest}".encode())

    @property
    def key(self) -> str:
        """Names the series within its archive, across runs."""
        return series_key(self.patient_id, self.series_uid, self.source)


class NamedCohort:
    """A cohort under the ids that may be written: its own, or pseudonyms."""

    def __init__(
        self,
        cohort: Cohort,
        pseudonymiser: Pseudonymiser | None,
        boxes: Mapping[str, GivenBox] = EMPTY,
    ) -> None:
        """`boxes` are those made elsewhere, by the archive's own series id."""
        self.cohort = cohort
        self._hide = pseudonymiser
        self._boxes = boxes

    def __iter__(self) -> Iterator[NamedSeries]:
        """All series in the cohort's order, one at a time."""
        return map(self._named, self.cohort.heads())

    def __getitem__(self, number: int) -> NamedSeries:
        """The series of this number in the index."""
        return self._named(self.cohort.head(number))

    def odd_files(self) -> Iterator[tuple[str, OddFile]]:
        """Files that belong to no series, with the source that may be written."""
        for file in self.cohort.odd_files():
            yield (file.path if self._hide is None else self._hide("source", file.path)), file

    def _named(self, head: SeriesHead) -> NamedSeries:
        hide, given = self._hide, self._boxes.get(head.series_uid)
        if hide is None:
            return NamedSeries(
                head, given, "kept", head.patient_id, head.study_uid, head.series_uid, head.source
            )
        return NamedSeries(
            head,
            given,
            "pseudonym",
            hide("patient", head.patient_id),
            hide("study", head.study_uid) if head.study_uid else "",
            hide("series", head.series_uid),
            hide("source", head.source),
        )


class Filling(Protocol):
    """A store as a plan sees it: a StoreWriter, or a look at what would be written."""

    storage: Storage
    spec: StoreSpec
    index: StoreIndex

    def assign(self, keys: Iterable[str]) -> None:
        """Give rows to series."""

    def row_of(self, key: str) -> int:
        """The row that `assign` gave."""


Group = tuple[Filling, ...]
"""Stores whose specs have equal rules: one decode of a series serves them all."""

_TABLES = """
CREATE TABLE present (
    patient_id TEXT, series_uid TEXT, PRIMARY KEY (patient_id, series_uid)
) WITHOUT ROWID;
CREATE TABLE wanted (
    position INTEGER PRIMARY KEY, number INTEGER, key TEXT, memory_key TEXT, writers INTEGER
);
CREATE INDEX by_key ON wanted (key);
CREATE INDEX by_number ON wanted (number);
"""


class Tasks(Sequence[SeriesTask]):
    """What is to be read. A task, with its list of files, is made when it is asked for."""

    def __init__(
        self,
        root: Storage,
        series: NamedCohort,
        writers: Sequence[Filling],
        table: sqlite3.Connection,
    ) -> None:
        self._root = root
        self._series = series
        self._writers = writers
        self._table = table
        (self._count,) = table.execute("SELECT COUNT(*) FROM wanted").fetchone()

    def __len__(self) -> int:
        """How many."""
        return int(self._count)

    @overload
    def __getitem__(self, index: int) -> SeriesTask: ...

    @overload
    def __getitem__(self, index: slice) -> list[SeriesTask]: ...

    def __getitem__(self, index: int | slice) -> SeriesTask | list[SeriesTask]:
        """One task, or a batch of them."""
        if isinstance(index, slice):
            return [self._task(position) for position in range(*index.indices(len(self)))]
        return self._task(range(len(self))[index])

    def _task(self, position: int) -> SeriesTask:
        number, remembered_as, chosen = self._table.execute(
            "SELECT number, memory_key, writers FROM wanted WHERE position = ?", (position,)
        ).fetchone()
        item, cohort = self._series[number], self._series.cohort
        return SeriesTask(
            key=item.key,
            base=cohort.base,
            entry=replace(cohort.entry(number), stat_digest=item.stat_digest),
            layout=cohort.layout,
            ids=item.ids,
            patient_id=item.patient_id,
            study_uid=item.study_uid,
            series_uid=item.series_uid,
            source=item.source,
            targets=tuple(
                Target(writer.storage, writer.spec, writer.row_of(item.key))
                for writer in _chosen(self._writers, chosen)
            ),
            root=self._root,
            memory_key=remembered_as,
            given=item.given,
        )


class IngestPlan:
    """What the run will do. It lies on disk: `close` gives the space back."""

    def __init__(
        self,
        root: Storage,
        series: NamedCohort,
        writers: Sequence[Filling],
        freshness: SeenFiles | None,
    ) -> None:
        """Compare the cohort with the stores. `freshness` None means: trust nothing, read all."""
        self._table = scratch_db.open_scratch_db(_TABLES)
        self._table.executemany(
            "INSERT OR IGNORE INTO present VALUES (?, ?)", (item.identity for item in series)
        )
        self.known = {w.storage.name: w.index.input_digests(self._is_present) for w in writers}
        """What each store, by folder name, held when the run began."""
        self.new: Counter[str] = Counter()
        """Series to read whose patient and id the store, by folder name, does not hold."""
        self._table.executemany(
            "INSERT INTO wanted VALUES (?, ?, ?, ?, ?)",
            (
                (position, *line)
                for position, line in enumerate(self._wanted(series, writers, freshness))
            ),
        )
        for number, writer in enumerate(writers):
            keys = self._table.execute(
                "SELECT DISTINCT key FROM wanted WHERE writers & ? ORDER BY key", (1 << number,)
            )
            writer.assign(key for (key,) in keys)
        self.tasks = Tasks(root, series, writers, self._table)

    def close(self) -> None:
        """Give the disk space back."""
        self._table.close()

    @property
    def series(self) -> int:
        """How many series are to be read."""
        (found,) = self._table.execute("SELECT COUNT(DISTINCT number) FROM wanted").fetchone()
        return int(found)

    def wants(self, number: int) -> bool:
        """Whether the series of this number in the index is to be read."""
        return scratch_db.exists(self._table, "FROM wanted WHERE number = ?", (number,))

    def _wanted(
        self, series: NamedCohort, writers: Sequence[Filling], freshness: SeenFiles | None
    ) -> Iterator[tuple[int, str, str, int]]:
        """(number, key, memory key, stores as bits) of every series that is to be read."""
        groups = by_rules(writers)
        for item in series:
            for group in groups:
                key = memory_key(item.stat_digest, group[0].spec)
                missing = self._missing(item, group, key, freshness)
                if missing:
                    self.new.update(
                        w.storage.name for w in missing if not w.index.has_series(item.identity)
                    )
                    yield item.head.number, item.key, key, _bits(writers, missing)

    def _missing(
        self, item: NamedSeries, group: Group, key: str, freshness: SeenFiles | None
    ) -> Group:
        """The stores that may miss the series: all of them, while nothing is known of it."""
        seen = None if freshness is None else freshness.look_up(key)
        if seen is None:
            return group
        if seen.reason is not None:
            return ()
        return tuple(
            w
            for w in group
            if not self.known[w.storage.name].holds(seen.input_digest, item.identity)
        )

    def _is_present(self, identity: SeriesIdentity) -> bool:
        return scratch_db.exists(
            self._table, "FROM present WHERE patient_id = ? AND series_uid = ?", identity
        )


def by_rules(writers: Sequence[Filling]) -> list[Group]:
    """The stores in groups whose specs have equal rules."""
    groups: dict[object, Group] = {}
    for writer in writers:
        groups[writer.spec.rules] = (*groups.get(writer.spec.rules, ()), writer)
    return list(groups.values())


def _bits(writers: Sequence[Filling], some: Group) -> int:
    return sum(1 << number for number, writer in enumerate(writers) if writer in some)


def _chosen(writers: Sequence[Filling], bits: int) -> Group:
    return tuple(writer for number, writer in enumerate(writers) if bits >> number & 1)
