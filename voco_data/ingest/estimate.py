"""What a preprocess run would take, before it is started: series, bytes, time. Writes nothing.

The time comes from a probe: a few of the archive's own series go the whole way of a run, over the
same workers, and their results are discarded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from voco_data.cropping.external_boxes import read_boxes
from voco_data.deidentification import pseudonyms
from voco_data.errors import StoreCorrupt
from voco_data.executors.batches import run_processes
from voco_data.executors.worker import SeriesTask
from voco_data.ingest.disk_space import free_bytes, needed_bytes, volume_bytes
from voco_data.ingest.plan import IngestPlan, NamedCohort, by_rules
from voco_data.ingest.run import check_boxes, choose_specs, cores
from voco_data.ingest.seen_files import SeenFiles, memory_key
from voco_data.layouts.index import index
from voco_data.storage.base import Storage
from voco_data.storage.urls import open_storage
from voco_data.store import catalogue, integrity
from voco_data.store.index import StoreIndex
from voco_data.store.keys import CATALOGUE
from voco_data.store.spec import StoreSpec

log = logging.getLogger(__name__)

PROBED_A_WORKER = 6
"""Series that are read a worker; those that start the workers do not count."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do."""

    series: int
    to_do: int
    """Series that would be read."""
    cached: int
    """Series that every store holds."""
    refused: int
    """Series that an earlier run refused, and whose files have not changed."""
    bytes: dict[str, int]
    """Profile to bytes of the volumes that its store lacks, as they are in memory."""
    needed_bytes: int
    """All that the run would add: volumes, records, catalogue, previews."""
    free_bytes: int | None
    """None where nothing says."""
    enough_room: bool
    probed: int
    """Series that were read to measure the time."""
    workers: int
    seconds: float | None
    """None if nothing is to do."""
    seconds_range: tuple[float, float] | None
    """From the fastest and the slowest third of the probe."""

    def to_json(self) -> dict[str, object]:
        """As `voco preprocess --estimate --json` prints it."""
        return asdict(self)


def estimate(
    source: str | Path,
    root: str | Path,
    *,
    layout: str = "auto",
    specs: Sequence[str] = ("pretrain", "finetune"),
    spec_file: str | Path | None = None,
    workers: int | None = None,
    boxes: str | Path | None = None,
    uneven: Literal["refuse", "resample"] | None = None,
    keep_ids: bool = False,
    deep: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: bool = False,
) -> Estimate:
    """Compare the archive at `source` with the stores under `root`, and read a few series.

    The arguments are those of `voco_data.ingest.run.preprocess`. `root` need not be there. Takes no
    lock: a run that is filling the stores makes the answer a little old. Raises InputError as
    preprocess does.
    """
    wanted = choose_specs(specs, spec_file, uneven)
    given = {} if boxes is None else read_boxes(Path(boxes))
    home = open_storage(root)
    count = workers or cores()
    with ExitStack() as stack:
        cohort = stack.enter_context(
            index(Path(source), layout=layout, include=include, exclude=exclude, progress=progress)
        )
        check_boxes(cohort, given, boxes)
        hidden = None
        if not keep_ids and not cohort.public_ids:
            hidden = stack.enter_context(
                closing(pseudonyms.load(home) or pseudonyms.with_throwaway_key())
            )
        series = NamedCohort(cohort, hidden, given)
        looks = [stack.enter_context(closing(_Look(home, spec))) for spec in wanted]
        freshness = stack.enter_context(closing(SeenFiles(home)))
        for look in looks:
            freshness.adopt(look.index.digests(), look.spec)
        memory = None if deep else freshness
        plan = stack.enter_context(closing(IngestPlan(home, series, looks, memory)))
        refused = 0 if memory is None else _refused(series, looks, memory, plan)
        done = _probe(plan, count)
        seconds, between = times(done, count, len(plan.tasks))
        new = {look.spec: plan.new[look.storage.name] for look in looks}
        free, need = free_bytes(home), needed_bytes(new)
        return Estimate(
            series=len(cohort),
            to_do=plan.series,
            cached=len(cohort) - plan.series - refused,
            refused=refused,
            bytes={spec.profile: n * volume_bytes(spec) for spec, n in new.items()},
            needed_bytes=need,
            free_bytes=free,
            enough_room=free is None or need <= free,
            probed=len(done),
            workers=count,
            seconds=seconds,
            seconds_range=between,
        )


class _Look:
    """A store as it is, for a plan that will not be carried out."""

    def __init__(self, root: Storage, spec: StoreSpec) -> None:
        self.storage = root / spec.name
        self.spec = spec
        self.index = StoreIndex()
        with ExitStack() as undo:
            undo.callback(self.index.close)
            self._load()
            undo.pop_all()

    def _load(self) -> None:
        """As a run would: where there is no catalogue that reads, from the records."""
        try:
            self.index.load(self.storage)
        except StoreCorrupt as error:
            log.warning("%s; a run will make it again from the records", error)
        else:
            if self.storage.size(CATALOGUE) is not None:
                return
        for record in integrity.readable_records(self.storage):
            self.index.replace(catalogue.line(record))

    def close(self) -> None:
        self.index.close()

    def assign(self, keys: Iterable[str]) -> None:
        """No row is given to anyone."""

    def row_of(self, key: str) -> int:  # noqa: ARG002
        """Any row: nothing is written."""
        return 0


def _refused(
    series: NamedCohort, looks: Sequence[_Look], freshness: SeenFiles, plan: IngestPlan
) -> int:
    """Series that are known to be refused, and are not read again for any store."""
    groups = by_rules(looks)

    def is_refused(stat: str) -> bool:
        seen = (freshness.look_up(memory_key(stat, group[0].spec)) for group in groups)
        return any(one is not None and one.reason is not None for one in seen)

    return sum(not plan.wants(item.head.number) and is_refused(item.stat_digest) for item in series)


def _probe(plan: IngestPlan, workers: int) -> list[float]:
    """Read some series, evenly spread over the archive. When each was done, in s from the start."""
    total = len(plan.tasks)
    count = min(total, workers * PROBED_A_WORKER)
    tasks = [_dry_run(plan.tasks[n * total // count]) for n in range(count)]
    began = time.monotonic()
    batches = ([task] for task in tasks)
    results = run_processes(batches, plan.known, min(workers, max(1, count)))
    return [time.monotonic() - began for outcomes in results for _ in outcomes]


def _dry_run(task: SeriesTask) -> SeriesTask:
    """The same work, whose results are discarded."""
    targets = tuple(replace(t, store=_DiscardingStorage(t.store.name)) for t in task.targets)
    return replace(task, root=_DiscardingStorage("root"), targets=targets)


@dataclass(frozen=True, slots=True)
class _DiscardingStorage:
    """A `voco_data.storage.base.WritableStorage` that discards what is written to it."""

    name: str

    def __str__(self) -> str:
        return f"dry run of {self.name}"

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Discard an object."""

    def committing(self) -> AbstractContextManager[None]:
        """Always allowed."""
        return nullcontext()

    def local(self) -> None:
        """None: not a folder."""


def times(
    done: Sequence[float], workers: int, total: int
) -> tuple[float | None, tuple[float, float] | None]:
    """Seconds for `total` series, and a range, from when the probed ones were done.

    The first series of each worker start it, and stand for the start of the run. A probe too
    short for thirds gives a range from half to twice.
    """
    if not done:
        return None, None
    start, timed = done[:workers][-1], done[workers:]
    if len(timed) < 3:
        seconds = done[-1] * max(1.0, total / len(done))
        return round(seconds, 1), (round(seconds / 2, 1), round(seconds * 2, 1))
    edges = [start, *timed]
    cuts = [n * len(timed) // 3 for n in range(4)]
    paces = [(edges[b] - edges[a]) / (b - a) for a, b in pairwise(cuts)]
    left = total - workers
    mean = (edges[-1] - start) / len(timed)
    low, middle, high = (start + left * pace for pace in (min(paces), mean, max(paces)))
    return round(middle, 1), (round(low, 1), round(high, 1))
