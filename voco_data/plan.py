"""Before any decode: which series are new to which store, under which ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from voco_data.cohort import Cohort, SeriesEntry
from voco_data.freshness import Freshness, Seen
from voco_data.known import KnownInputs
from voco_data.pseudonyms import Pseudonymiser
from voco_data.store_writer import StoreWriter
from voco_data.worker import SeriesTask, Target


@dataclass(frozen=True, slots=True)
class NamedSeries:
    """A series under the ids that may be written."""

    entry: SeriesEntry
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
    def key(self) -> str:
        """Names the series within its archive, across runs."""
        text = "\0".join((self.patient_id, self.series_uid, self.source))
        return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the run will do."""

    tasks: tuple[SeriesTask, ...]
    seen: dict[str, Seen]
    """Series, by key, that need no read: a remembered digest that hits, or a refusal."""
    known: dict[str, KnownInputs]
    """What each store, by folder name, held when the run began."""


def name_series(cohort: Cohort, pseudonymiser: Pseudonymiser | None) -> list[NamedSeries]:
    """Give every series the ids that may be written: its own, or pseudonyms."""
    return [_named(entry, pseudonymiser) for entry in cohort.series]


def _named(entry: SeriesEntry, pseudonymiser: Pseudonymiser | None) -> NamedSeries:
    if pseudonymiser is None:
        return NamedSeries(
            entry, "kept", entry.patient_id, entry.study_uid, entry.series_uid, entry.source
        )
    return NamedSeries(
        entry,
        "pseudonym",
        pseudonymiser("patient", entry.patient_id),
        pseudonymiser("study", entry.study_uid) if entry.study_uid else "",
        pseudonymiser("series", entry.series_uid),
        pseudonymiser("source", entry.source),
    )


def make_plan(
    cohort: Cohort,
    series: Sequence[NamedSeries],
    writers: Sequence[StoreWriter],
    freshness: Freshness | None,
) -> Plan:
    """Compare the cohort with the stores. `freshness` None means: trust nothing, read all."""
    identities = {item.identity for item in series}
    known = {w.path.name: KnownInputs.of(w.table, identities) for w in writers}
    seen: dict[str, Seen] = {}
    wanted: list[tuple[NamedSeries, list[StoreWriter]]] = []
    for item in series:
        for group in _by_rules(writers):
            remembered = _look_up(item, group, freshness)
            missing = _missing(item, group, known, remembered)
            if missing:
                wanted.append((item, missing))
            elif remembered is not None:
                seen[item.key] = remembered
    rows = _assign(wanted)
    tasks = tuple(_task(cohort, item, group, rows) for item, group in wanted)
    return Plan(tasks, seen, known)


def _by_rules(writers: Sequence[StoreWriter]) -> list[list[StoreWriter]]:
    groups: dict[object, list[StoreWriter]] = {}
    for writer in writers:
        groups.setdefault(writer.spec.rules, []).append(writer)
    return list(groups.values())


def _look_up(
    item: NamedSeries, group: Sequence[StoreWriter], freshness: Freshness | None
) -> Seen | None:
    if freshness is None:
        return None
    return freshness.look_up(item.entry.stat_digest, group[0].spec)


def _missing(
    item: NamedSeries,
    group: Sequence[StoreWriter],
    known: dict[str, KnownInputs],
    seen: Seen | None,
) -> list[StoreWriter]:
    """The stores that may miss the series: all of them, while nothing is known of it."""
    if seen is None:
        return list(group)
    if seen.reason is not None:
        return []
    return [w for w in group if not known[w.path.name].holds(seen.input_digest, item.identity)]


def _assign(
    wanted: Sequence[tuple[NamedSeries, list[StoreWriter]]],
) -> dict[tuple[str, str], int]:
    """(store name, series key) to row. Each store numbers its own misses."""
    keys: dict[str, tuple[StoreWriter, list[str]]] = {}
    for item, group in wanted:
        for writer in group:
            keys.setdefault(writer.path.name, (writer, []))[1].append(item.key)
    return {
        (name, key): row
        for name, (writer, names) in keys.items()
        for key, row in writer.assign(names).items()
    }


def _task(
    cohort: Cohort,
    item: NamedSeries,
    group: Sequence[StoreWriter],
    rows: dict[tuple[str, str], int],
) -> SeriesTask:
    return SeriesTask(
        key=item.key,
        base=cohort.base,
        entry=item.entry,
        layout=cohort.layout,
        ids=item.ids,
        patient_id=item.patient_id,
        study_uid=item.study_uid,
        series_uid=item.series_uid,
        source=item.source,
        targets=tuple(Target(w.path, w.spec, rows[(w.path.name, item.key)]) for w in group),
    )
