"""Before any decode: which series are new to which store, under which ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import overload

import xxhash

from voco_data.cohort import Cohort, OddFile, SeriesHead
from voco_data.freshness import Freshness, Seen
from voco_data.given_box import GivenBox
from voco_data.known import KnownInputs
from voco_data.pseudonyms import Pseudonymiser
from voco_data.record import series_key
from voco_data.spec import StoreSpec
from voco_data.store_writer import StoreWriter
from voco_data.worker import SeriesTask, Target

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
    def identity(self) -> tuple[str, str]:
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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A series, by its number and key, and the stores that may miss it."""

    number: int
    key: str
    writers: tuple[StoreWriter, ...]


class Tasks(Sequence[SeriesTask]):
    """What is to be read. A task, with its list of files, is made when it is asked for."""

    def __init__(
        self,
        series: NamedCohort,
        wanted: Sequence[_Wanted],
        rows: dict[tuple[str, str], int],
    ) -> None:
        self._series = series
        self._wanted = wanted
        self._rows = rows

    def __len__(self) -> int:
        """How many."""
        return len(self._wanted)

    @overload
    def __getitem__(self, index: int) -> SeriesTask: ...

    @overload
    def __getitem__(self, index: slice) -> list[SeriesTask]: ...

    def __getitem__(self, index: int | slice) -> SeriesTask | list[SeriesTask]:
        """One task, or a batch of them."""
        if isinstance(index, slice):
            return [self._task(wanted) for wanted in self._wanted[index]]
        return self._task(self._wanted[index])

    def specs(self) -> Iterator[tuple[str, StoreSpec]]:
        """Key of every series that is to be read, with a spec that has the rules it is read by."""
        return ((wanted.key, wanted.writers[0].spec) for wanted in self._wanted)

    def _task(self, wanted: _Wanted) -> SeriesTask:
        item, cohort = self._series[wanted.number], self._series.cohort
        return SeriesTask(
            key=item.key,
            base=cohort.base,
            entry=replace(cohort.entry(wanted.number), stat_digest=item.stat_digest),
            layout=cohort.layout,
            ids=item.ids,
            patient_id=item.patient_id,
            study_uid=item.study_uid,
            series_uid=item.series_uid,
            source=item.source,
            targets=tuple(
                Target(writer.path, writer.spec, self._rows[(writer.path.name, wanted.key)])
                for writer in wanted.writers
            ),
            given=item.given,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What the run will do."""

    tasks: Tasks
    seen: dict[str, Seen]
    """Series, by key, that need no read: a remembered digest that hits, or a refusal."""
    known: dict[str, KnownInputs]
    """What each store, by folder name, held when the run began."""


def make_plan(
    series: NamedCohort, writers: Sequence[StoreWriter], freshness: Freshness | None
) -> Plan:
    """Compare the cohort with the stores. `freshness` None means: trust nothing, read all."""
    identities = {item.identity for item in series}
    known = {w.path.name: KnownInputs.of(w.table, identities) for w in writers}
    seen: dict[str, Seen] = {}
    wanted: list[_Wanted] = []
    groups = _by_rules(writers)
    for item in series:
        for group in groups:
            remembered = _look_up(item, group, freshness)
            missing = _missing(item, group, known, remembered)
            if missing:
                wanted.append(_Wanted(item.head.number, item.key, missing))
            elif remembered is not None:
                seen[item.key] = remembered
    return Plan(Tasks(series, wanted, _assign(wanted)), seen, known)


def _by_rules(writers: Sequence[StoreWriter]) -> list[tuple[StoreWriter, ...]]:
    groups: dict[object, tuple[StoreWriter, ...]] = {}
    for writer in writers:
        groups[writer.spec.rules] = (*groups.get(writer.spec.rules, ()), writer)
    return list(groups.values())


def _look_up(
    item: NamedSeries, group: Sequence[StoreWriter], freshness: Freshness | None
) -> Seen | None:
    if freshness is None:
        return None
    return freshness.look_up(item.stat_digest, group[0].spec)


def _missing(
    item: NamedSeries,
    group: tuple[StoreWriter, ...],
    known: dict[str, KnownInputs],
    seen: Seen | None,
) -> tuple[StoreWriter, ...]:
    """The stores that may miss the series: all of them, while nothing is known of it."""
    if seen is None:
        return group
    if seen.reason is not None:
        return ()
    return tuple(w for w in group if not known[w.path.name].holds(seen.input_digest, item.identity))


def _assign(wanted: Sequence[_Wanted]) -> dict[tuple[str, str], int]:
    """(store name, series key) to row. Each store numbers its own misses."""
    keys: dict[str, tuple[StoreWriter, list[str]]] = {}
    for item in wanted:
        for writer in item.writers:
            keys.setdefault(writer.path.name, (writer, []))[1].append(item.key)
    return {
        (name, key): row
        for name, (writer, names) in keys.items()
        for key, row in writer.assign(names).items()
    }
