"""Estimate the series, bytes and time of a preprocess run. Writes nothing.

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
from typing import Any

from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreCorrupt
from voco_data.executors import SeriesTask, run_processes
from voco_data.ingest.archives import Archives, archive_id, archive_place
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.disk_space import free_bytes, needed_bytes
from voco_data.ingest.held_elsewhere import exclude_held_elsewhere
from voco_data.ingest.named_cohort import NamedCohort, NamedSeries, open_cohort
from voco_data.ingest.options import IngestOptions, choose_specs, with_changes
from voco_data.ingest.other_archives import OtherArchives
from voco_data.ingest.plan import IngestPlan, earlier_results, group_by_rules
from voco_data.ingest.repeated_ids import exclude_repeated_ids
from voco_data.ingest.root_ids import check_ids
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
    **changes: Any,
) -> Estimate:
    """Compare the archive at `source` with the stores under `root`, and read a few series.

    The arguments are those of `voco_data.ingest.run.preprocess`; `dask` is refused, because the
    time is that of this machine. `root` need not exist. No lock is taken: while a run fills the
    stores, the result is a little out of date. Raises InputError as preprocess does.
    """
    options = with_changes(options, changes)
    if options.dask is not None:
        raise InputError("--estimate measures this machine; leave --dask out")
    if options.prune or options.yes:
        raise InputError("--estimate looks at what is missing; leave --prune and --yes out")
    specs = choose_specs(options)
    root_storage = open_storage(root)
    with ExitStack() as stack:
        cohort, boxes = stack.enter_context(open_cohort(source, options))
        check_ids(root_storage, cohort, options)
        pseudonymiser = None
        if not options.keep_ids and not cohort.public_ids:
            pseudonymiser = pseudonyms.load(root_storage) or pseudonyms.with_random_key()
            stack.enter_context(closing(pseudonymiser))
        named_cohort = NamedCohort(cohort, pseudonymiser, boxes, options.burned_in)
        named_cohort.check_boxes()
        keys = stack.enter_context(closing(CohortKeys(named_cohort)))
        stores = [
            stack.enter_context(closing(_StoreSnapshot(root_storage, spec))) for spec in specs
        ]
        seen_files = stack.enter_context(closing(SeenFiles(root_storage)))
        for store in stores:
            seen_files.add_digests(store.index.digests(), store.spec)
        trusted = None if options.deep else seen_files
        # What no run has read counts as equal: series of the same ids mostly are.
        exclude_repeated_ids(root_storage, named_cohort, keys, stores, trusted, lambda _: ())
        archives = stack.enter_context(closing(Archives(root_storage)))
        archive = archive_id(archive_place(Path(source), root_storage), pseudonymiser)
        others = OtherArchives(archives, archive, Path(source), root_storage)
        exclude_held_elsewhere(
            root_storage, named_cohort, keys, stores, trusted, lambda _: (), others
        )
        plan = IngestPlan(root_storage, named_cohort, keys, stores, trusted)
        stack.enter_context(closing(plan))
        refused = _count_refused(named_cohort, keys, stores, trusted, plan)
        finished_s = _probe(plan, options.n_workers)
        seconds, seconds_range = extrapolate_seconds(finished_s, options.n_workers, len(plan.tasks))
        free, needed = free_bytes(root_storage), needed_bytes(plan.new_series)
        return Estimate(
            series=len(cohort),
            to_do=plan.n_series,
            cached=len(cohort) - plan.n_series - refused,
            refused=refused,
            bytes={
                spec.profile: count * spec.volume_bytes for spec, count in plan.new_series.items()
            },
            needed_bytes=needed,
            free_bytes=free,
            enough_room=free is None or needed <= free,
            probed=len(finished_s),
            workers=options.n_workers,
            seconds=seconds,
            seconds_range=seconds_range,
        )


class _StoreSnapshot:
    """The series that a store holds now, for a plan that is not carried out."""

    def __init__(self, root: Storage, spec: StoreSpec) -> None:
        self.storage = root / spec.name
        self.spec = spec
        self.index = StoreIndex()
        with ExitStack() as on_error:
            on_error.callback(self.index.close)
            self._load()
            # A run removes these rows before it plans.
            self.index.remove_rows([row for row, _ in self.index.superseded_rows()])
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
            self.index.add_line(catalogue.line_from_record(record))

    def close(self) -> None:
        """Remove the temporary file of the index."""
        self.index.close()

    def assign_rows(self, keys: Iterable[str]) -> None:
        """Do nothing: no row is written."""

    def row_of(self, key: str) -> int:  # noqa: ARG002
        """Return any row: none is written."""
        return 0


def _count_refused(
    cohort: NamedCohort,
    keys: CohortKeys,
    stores: Sequence[_StoreSnapshot],
    seen_files: SeenFiles | None,
    plan: IngestPlan,
) -> int:
    """Series that an earlier run refused, and that are not read again for any store."""
    if seen_files is None:
        return 0
    groups = group_by_rules(stores)

    def is_refused(series: NamedSeries) -> bool:
        exclusion, _ = keys.exclusion(series.head.number) or (None, -1)
        return exclusion in ("conflict", "elsewhere") or any(
            seen is not None and seen.reason is not None
            for _, _, seen in earlier_results(series, groups, seen_files)
        )

    return sum(
        not plan.reads_series(series.head.number) and is_refused(series) for series in cohort
    )


def _probe(plan: IngestPlan, workers: int) -> list[float]:
    """Read some series, evenly spread over the archive.

    Returns the time in s after the start at which each was finished.
    """
    total = len(plan.tasks)
    count = min(total, workers * PROBED_PER_WORKER)
    tasks = [_discard_results(plan.tasks[n * total // count]) for n in range(count)]
    began = time.monotonic()
    results = run_processes(
        tasks, plan.known_inputs, min(workers, max(1, count)), series_per_batch=1
    )
    return [time.monotonic() - began for outcomes in results for _ in outcomes]


def _discard_results(task: SeriesTask) -> SeriesTask:
    """Make a task with the same work, whose results are discarded."""
    targets = tuple(
        replace(target, store=_DiscardingStorage(target.store.name)) for target in task.targets
    )
    return replace(task, root=_DiscardingStorage("root"), targets=targets)


@dataclass(frozen=True, slots=True)
class _DiscardingStorage:
    """A `voco_data.storage.base.WritableStorage` that discards what is written to it."""

    name: str

    def __str__(self) -> str:
        return f"dry run of {self.name}"

    def write(self, key: str, data: bytes | memoryview, *, synced: bool = True) -> None:
        """Discard an object."""

    def committing(self) -> AbstractContextManager[None]:
        """Never raises: there is no run."""
        return nullcontext()

    def as_readable(self) -> None:
        """None: nothing is kept."""

    def local_folder(self) -> None:
        """None: not a folder."""


def extrapolate_seconds(
    finished_s: Sequence[float], workers: int, total: int
) -> tuple[float | None, tuple[float, float] | None]:
    """Seconds for `total` series, and their range; None, None if no series was read.

    `finished_s` are the times in s after the start at which some series were finished. The first
    series of each worker is not timed, because it includes the start of the worker. With fewer
    than three others, the range is from half to twice the time.
    """
    if not finished_s:
        return None, None
    start_s, timed_s = finished_s[:workers][-1], finished_s[workers:]
    if len(timed_s) < 3:
        seconds = finished_s[-1] * max(1.0, total / len(finished_s))
        return round(seconds, 1), (round(seconds / 2, 1), round(seconds * 2, 1))
    edges_s = [start_s, *timed_s]
    thirds = pairwise(n * len(timed_s) // 3 for n in range(4))
    paces = [(edges_s[stop] - edges_s[begin]) / (stop - begin) for begin, stop in thirds]
    mean = (edges_s[-1] - start_s) / len(timed_s)
    remaining = total - workers
    low, middle, high = (start_s + remaining * pace for pace in (min(paces), mean, max(paces)))
    return round(middle, 1), (round(low, 1), round(high, 1))
