"""What a preprocess run would take, before it is started: series, bytes, time. Writes nothing.

The time is measured: a few series of the archive are preprocessed as a run does it, by as many
workers, and the results are discarded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Unpack

from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreCorrupt
from voco_data.executors import SeriesTask, run_processes
from voco_data.ingest.disk_space import free_bytes, needed_bytes
from voco_data.ingest.named_cohort import NamedCohort, NamedSeries, open_cohort
from voco_data.ingest.options import IngestChanges, IngestOptions, choose_specs, with_changes
from voco_data.ingest.plan import IngestPlan, by_rules, known_results
from voco_data.ingest.seen_files import SeenFiles
from voco_data.storage import Storage, open_storage
from voco_data.store import CATALOGUE, StoreIndex, StoreSpec, catalogue, integrity

log = logging.getLogger(__name__)

PROBED_PER_WORKER = 6
"""Series that each worker reads; its first one is not timed, because it starts the worker."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do."""

    series: int
    to_do: int
    """Series that would be read."""
    cached: int
    """Series that all stores hold."""
    refused: int
    """Series that an earlier run refused, and whose files have not changed."""
    bytes: dict[str, int]
    """Profile to bytes of the volumes that its store lacks, without compression."""
    needed_bytes: int
    """All that the run would write: volumes, records, catalogue, previews."""
    free_bytes: int | None
    """None if the storage does not tell."""
    enough_room: bool
    probed: int
    """Series that were read to measure the time."""
    workers: int
    seconds: float | None
    """None if there is nothing to do."""
    seconds_range: tuple[float, float] | None
    """By the fastest and by the slowest third of the probe."""

    def to_json(self) -> dict[str, object]:
        """The estimate as `voco preprocess --estimate --json` prints it."""
        return asdict(self)


def estimate(
    source: str | Path,
    root: str | Path,
    options: IngestOptions | None = None,
    **changes: Unpack[IngestChanges],
) -> Estimate:
    """Compare the archive at `source` with the stores under `root`, and read a few series.

    The arguments are those of `voco_data.ingest.run.preprocess`; `dask` is refused, because the
    time is that of this machine. `root` need not exist. No lock is taken: while a run fills the
    stores, the result is a little out of date. Raises InputError as preprocess does.
    """
    options = with_changes(options, changes)
    if options.dask is not None:
        raise InputError("--estimate measures this machine; leave --dask out")
    specs = choose_specs(options)
    home = open_storage(root)
    with ExitStack() as stack:
        cohort, boxes = stack.enter_context(open_cohort(source, options))
        pseudonymiser = None
        if not options.keep_ids and not cohort.public_ids:
            pseudonymiser = pseudonyms.load(home) or pseudonyms.with_throwaway_key()
            stack.enter_context(closing(pseudonymiser))
        series = NamedCohort(cohort, pseudonymiser, boxes)
        stores = [stack.enter_context(closing(_StoreSnapshot(home, spec))) for spec in specs]
        seen_files = stack.enter_context(closing(SeenFiles(home)))
        for store in stores:
            seen_files.adopt(store.index.digests(), store.spec)
        trusted = None if options.deep else seen_files
        plan = stack.enter_context(closing(IngestPlan(home, series, stores, trusted)))
        refused = _count_refused(series, stores, trusted, plan)
        times_s = _probe(plan, options.n_workers)
        seconds, seconds_range = times(times_s, options.n_workers, len(plan.tasks))
        new = {store.spec: plan.new[store.storage.name] for store in stores}
        free, needed = free_bytes(home), needed_bytes(new)
        return Estimate(
            series=len(cohort),
            to_do=plan.n_series,
            cached=len(cohort) - plan.n_series - refused,
            refused=refused,
            bytes={spec.profile: count * spec.volume_bytes for spec, count in new.items()},
            needed_bytes=needed,
            free_bytes=free,
            enough_room=free is None or needed <= free,
            probed=len(times_s),
            workers=options.n_workers,
            seconds=seconds,
            seconds_range=seconds_range,
        )


class _StoreSnapshot:
    """What a store holds now, for a plan that will not be carried out."""

    def __init__(self, root: Storage, spec: StoreSpec) -> None:
        self.storage = root / spec.name
        self.spec = spec
        self.index = StoreIndex()
        with ExitStack() as on_error:
            on_error.callback(self.index.close)
            self._load()
            on_error.pop_all()

    def _load(self) -> None:
        """Load the catalogue; if it is absent or damaged, the records, as a run would."""
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
        """Remove the temporary file of the index."""
        self.index.close()

    def assign(self, keys: Iterable[str]) -> None:
        """Do nothing: no row is written."""

    def row_of(self, key: str) -> int:  # noqa: ARG002
        """Return any row: none is written."""
        return 0


def _count_refused(
    cohort: NamedCohort,
    stores: Sequence[_StoreSnapshot],
    seen_files: SeenFiles | None,
    plan: IngestPlan,
) -> int:
    """Series that an earlier run refused, and that are not read again for any store."""
    if seen_files is None:
        return 0
    groups = by_rules(stores)

    def is_refused(series: NamedSeries) -> bool:
        return any(
            seen is not None and seen.reason is not None
            for _, _, seen in known_results(series, groups, seen_files)
        )

    return sum(not plan.wants(series.head.number) and is_refused(series) for series in cohort)


def _probe(plan: IngestPlan, workers: int) -> list[float]:
    """Read some series, evenly spread over the archive; returns when each was done, in s."""
    total = len(plan.tasks)
    count = min(total, workers * PROBED_PER_WORKER)
    tasks = [_dry_run(plan.tasks[n * total // count]) for n in range(count)]
    began = time.monotonic()
    results = run_processes(tasks, plan.known, min(workers, max(1, count)), size=1)
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
    """Seconds for `total` series and their range, from the times in s at which some were done.

    The first series of each worker starts it, and is taken as the start of the run. A probe too
    short to be cut into thirds gives a range from half to twice the time.
    """
    if not done:
        return None, None
    start, timed = done[:workers][-1], done[workers:]
    if len(timed) < 3:
        seconds = done[-1] * max(1.0, total / len(done))
        return round(seconds, 1), (round(seconds / 2, 1), round(seconds * 2, 1))
    edges = [start, *timed]
    thirds = pairwise(n * len(timed) // 3 for n in range(4))
    paces = [(edges[last] - edges[first]) / (last - first) for first, last in thirds]
    mean = (edges[-1] - start) / len(timed)
    remaining = total - workers
    low, middle, high = (start + remaining * pace for pace in (min(paces), mean, max(paces)))
    return round(middle, 1), (round(low, 1), round(high, 1))
