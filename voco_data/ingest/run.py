"""The preprocess stage: from an archive to stores that are up to date with it."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from voco_data.cohort import Cohort
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreCorrupt, translate_unwritable
from voco_data.executors import KnownInputs, SeriesOutcome, SeriesTask, run_dask, run_processes
from voco_data.ingest.archives import Archives, archive_id, archive_place
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.damaged_files import DamagedFiles
from voco_data.ingest.disk_space import check_disk_space
from voco_data.ingest.former_stacks import FormerStacks
from voco_data.ingest.held_elsewhere import exclude_held_elsewhere
from voco_data.ingest.named_cohort import NamedCohort, open_cohort
from voco_data.ingest.options import IngestOptions, check_options, choose_specs, with_changes
from voco_data.ingest.other_archives import OtherArchives
from voco_data.ingest.plan import IngestPlan, group_by_rules
from voco_data.ingest.pruning import (
    GoneSeries,
    check_can_prune,
    find_gone_series,
    release_gone_series,
    remove_gone_series,
    warn_of_new_source,
)
from voco_data.ingest.repeated_ids import exclude_repeated_ids
from voco_data.ingest.results import RunResults, is_stored, ledger_rows, results_of
from voco_data.ingest.root_ids import check_ids, open_pseudonymiser
from voco_data.ingest.seen_files import EarlierResult, SeenFiles
from voco_data.qc import ledger, render_report
from voco_data.reasons import TRANSIENT
from voco_data.storage import (
    REPORT,
    RUNS_FOLDER,
    Storage,
    new_run_id,
    open_storage,
    root_in_use,
    store_names,
)
from voco_data.store import StoreSpec, StoreWriter, catalogue, open_for_writing, read_spec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreprocessSummary:
    """The result of a run, in numbers. `series` = `stored` + `cached` + `refused`."""

    series: int
    stored: int
    cached: int
    refused: int
    skipped: int
    """Files and series that are not CT."""
    refused_files: int
    """Files that look like CT, and cannot be read or belong to no series."""
    pruned: int
    """Series that were removed, because the archive no longer holds them."""
    gone: tuple[dict[str, object], ...]
    """Rows of the stores that `prune` found, and whether they were removed."""
    layout: str
    stores: dict[str, str]
    """Profile to path of its store."""
    ledger: str
    report: str
    files: int
    """Files in the archive."""
    index_seconds: float
    """Time to find the files, and to read their headers if the layout needs them."""
    files_per_second: float
    lookup_seconds: float
    """Time to find out which series the stores hold already."""
    seconds: float
    """Time of the whole run."""

    def to_json(self) -> dict[str, object]:
        """The summary as `voco preprocess --json` prints it."""
        return asdict(self)


def preprocess(
    source: str | Path,
    root: str | Path,
    options: IngestOptions | None = None,
    **changes: Any,
) -> PreprocessSummary:
    """Bring the stores under `root` up to date with the archive at `source`.

    Every series is decoded at most once for all specs that lack it. Series that cannot become a
    volume are rows of the ledger.

    Args:
        source: Folder or file with DICOM or NIfTI.
        root: Folder of the stores, or the URL of one in an object store.
        options: How to do it; the defaults if None.
        **changes: Fields of `IngestOptions`, instead of those of `options`.

    Raises:
        InputError: The input cannot be used; no store has been changed.
        StoreBusy: Another run holds a store for longer than `options.wait` seconds.
        VocoError: The run cannot go on; what is finished stays, and a rerun continues.
    """
    options = with_changes(options, changes)
    clock = _Stopwatch()
    check_options(options)
    specs = choose_specs(options)
    with ExitStack() as stack:
        cohort, boxes = stack.enter_context(open_cohort(source, options))
        clock.end_lap("index")
        if options.prune:
            check_can_prune(source, cohort)
        root_storage = _prepare_root(open_storage(root))
        check_ids(root_storage, cohort, options)
        # Space is checked twice. Here, before anything is written, by the number of series that the
        # stores lack at least; after the plan, which needs the stores' locks, by the exact number.
        min_new = {spec: _min_new_series(root_storage, spec, len(cohort)) for spec in specs}
        check_disk_space(root_storage, min_new)
        stack.enter_context(translate_unwritable(root_storage))
        stack.enter_context(root_in_use(root_storage))
        pseudonymiser = open_pseudonymiser(root_storage, cohort, options)
        by_spec = _open_stores(stack, root_storage, specs, options)
        stores = [by_spec[spec] for spec in specs]
        named_cohort = NamedCohort(cohort, pseudonymiser, boxes)
        keys = stack.enter_context(closing(CohortKeys(named_cohort)))
        archives = stack.enter_context(closing(Archives(root_storage)))
        place = archive_place(Path(source), root_storage)
        archive = archive_id(place, pseudonymiser)
        others = OtherArchives(archives, archive, Path(source), root_storage)
        if options.prune:
            warn_of_new_source(archives, archive, others)
        seen_files = stack.enter_context(closing(SeenFiles(root_storage)))
        for store in stores:
            seen_files.add_digests(store.index.digests(), store.spec)
        trusted = None if options.deep else seen_files
        results = stack.enter_context(closing(RunResults()))

        def read(tasks: Sequence[SeriesTask], known_inputs: KnownInputs) -> Iterator[SeriesOutcome]:
            for outcome in _run(tasks, known_inputs, options):
                _record_outcome(outcome, results, stores, seen_files)
                yield outcome

        def read_digests(tasks: Sequence[SeriesTask]) -> Iterator[SeriesOutcome]:
            return read(tasks, {})

        exclude_repeated_ids(root_storage, named_cohort, keys, stores, trusted, read_digests)
        elsewhere = exclude_held_elsewhere(
            root_storage, named_cohort, keys, stores, trusted, read_digests, others
        )
        archives.add(archive, "" if pseudonymiser else place, keys.with_uid_keys())
        archives.remove(archive, elsewhere)  # the rows are those of another archive
        archives.save()  # before any work: what a killed run has stored came from this archive
        plan = IngestPlan(root_storage, named_cohort, keys, stores, trusted)
        stack.enter_context(closing(plan))
        check_disk_space(root_storage, plan.new_series)
        clock.end_lap("look-up")
        for _ in read(plan.tasks, plan.known_inputs):
            pass
        for store in stores:
            store.compact()
        damaged = DamagedFiles(named_cohort, root_storage, pseudonymiser)
        stack.enter_context(closing(damaged))
        groups = group_by_rules(stores)

        def is_stored_now(number: int, store: StoreWriter) -> bool:
            series, exclusion = named_cohort[number], (keys.exclusion(number) or (None,))[0]
            found = results_of(series, exclusion, results, groups, seen_files)
            return is_stored(series, exclusion, found, store)

        former = FormerStacks(archives, archive, keys, stores, others, damaged, is_stored_now)
        if not (options.include or options.exclude):
            former.replace(root_storage)
        gone: list[GoneSeries] = []
        if options.prune:
            all_stores = list(by_spec.values())
            gone = find_gone_series(archives, archive, keys, all_stores, options, others, damaged)
            if options.yes:
                remove_gone_series(gone, all_stores)
        seen_files.save()
        rows = chain(
            ledger_rows(
                named_cohort, keys, results, seen_files, stores, former.refused_with_volume
            ),
            (series.to_ledger_row(removed=options.yes) for series in gone),
        )
        listed = [entry for series in gone for entry in series.to_json(removed=options.yes)]
        summary = _write_reports(root_storage, cohort, rows, stores, listed, clock)
        if options.prune and options.yes:
            release_gone_series(archives, archive, keys, options, others, gone)
        elif gone:
            log.info("gone: %d series; nothing was removed; --yes removes them", len(gone))
        archives.save()
        if pseudonymiser is not None:
            pseudonyms.merge_into_map(root_storage, pseudonymiser)
        return summary


class _Stopwatch:
    """Seconds since it was made, in named laps."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.laps: dict[str, float] = {}
        """Seconds of each lap that has ended."""

    def end_lap(self, name: str) -> None:
        """End the lap that began when the one before ended."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began


def _prepare_root(root: Storage) -> Storage:
    """Make the root, and check that it can be written. Raises InputError."""
    folder = root.local_folder()
    if folder is None:
        next(root.list_folders(), None)  # one request: the bucket exists, and may be listed
        return root
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if is_new and folder.is_dir():
            folder.rmdir()
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); give a folder of your own as --root"
        ) from error
    return open_storage(folder.resolve())


def _min_new_series(root: Storage, spec: StoreSpec, n_series: int) -> int:
    """Minimum number of `n_series` series that a store lacks, by the lines of its catalogue."""
    try:
        n_stored = catalogue.count_lines(root / spec.name)
    except StoreCorrupt:  # the run rebuilds the catalogue; until then all series count as new
        n_stored = 0
    return max(0, n_series - n_stored)


def _open_stores(
    stack: ExitStack, root: Storage, specs: Sequence[StoreSpec], options: IngestOptions
) -> dict[StoreSpec, StoreWriter]:
    """The stores under their locks, taken in the order of their names to prevent a deadlock.

    To prune, all other stores of the root are opened, too.
    """
    to_open = {spec.name: spec for spec in specs}
    if options.prune:
        for name in store_names(root):
            if name not in to_open:
                to_open[name] = _read_spec_to_prune(root, name)
    return {
        spec: stack.enter_context(
            open_for_writing(root, spec, wait_seconds=options.wait, deep=options.deep)
        )
        for _, spec in sorted(to_open.items())
    }


def _read_spec_to_prune(root: Storage, name: str) -> StoreSpec:
    try:
        return read_spec(root / name)
    except InputError as error:
        raise InputError(
            f"{error}; nothing was pruned: such a store may hold series that are gone, remove it "
            "first (voco store gc --store)"
        ) from error


def _run(
    tasks: Sequence[SeriesTask], known_inputs: KnownInputs, options: IngestOptions
) -> Iterator[SeriesOutcome]:
    """Run all tasks; a bar shows series per second and the time left."""
    total = len(tasks)
    if options.dask is not None:
        results = run_dask(tasks, known_inputs, options.dask, options.n_workers)
    else:
        results = run_processes(tasks, known_inputs, min(options.n_workers, max(1, total)))
    with tqdm(total=total, unit="series", desc="preprocess", disable=not options.progress) as bar:
        for outcomes in results:
            yield from outcomes
            bar.update(len(outcomes))


def _record_outcome(
    outcome: SeriesOutcome,
    results: RunResults,
    stores: Sequence[StoreWriter],
    seen_files: SeenFiles,
) -> None:
    """Add an outcome to the results, its records to the stores, and its files to `seen_files`."""
    results.add(outcome)
    by_spec = {store.spec.digest: store for store in stores}
    for record in outcome.records:
        by_spec[record.spec_digest].add_record(record)
    if outcome.reason not in TRANSIENT:
        result = EarlierResult(outcome.input_digest, outcome.reason, outcome.detail)
        seen_files.set(outcome.seen_key, result)


def _write_reports(
    root: Storage,
    cohort: Cohort,
    rows: Iterable[ledger.LedgerRow],
    stores: Sequence[StoreWriter],
    gone: Sequence[dict[str, object]],
    clock: _Stopwatch,
) -> PreprocessSummary:
    """Write ledger and report under runs/, and summarise the run."""
    run = root / RUNS_FOLDER / new_run_id()
    count: Counter[tuple[str, str]] = Counter()
    ledger.write(run, _count_rows(rows, count))
    with run.as_file(ledger.KEY) as path:
        title = f"voco preprocess: {cohort.layout}"
        run.write(REPORT, render_report(title, path, root).encode())
    stored, cached = count["series", "stored"], count["series", "cached"]
    refused = count["series", "refused"]
    summary = PreprocessSummary(
        series=stored + cached + refused,
        stored=stored,
        cached=cached,
        refused=refused,
        skipped=count["series", "skipped"] + count["file", "skipped"],
        refused_files=count["file", "refused"],
        pruned=count["series", "pruned"],
        gone=tuple(gone),
        layout=cohort.layout,
        stores={store.spec.profile: str(store.storage) for store in stores},
        ledger=f"{run}/{ledger.KEY}",
        report=f"{run}/{REPORT}",
        files=cohort.n_files,
        index_seconds=round(clock.laps["index"], 3),
        files_per_second=round(cohort.n_files / max(clock.laps["index"], 1e-3), 1),
        lookup_seconds=round(clock.laps["look-up"], 3),
        seconds=round(clock.total, 3),
    )
    log.info("%d series: %d stored, %d cached, %d refused", summary.series, stored, cached, refused)
    if stored + cached == 0:
        log.warning("no series could be stored; the ledger says why: %s", summary.ledger)
    return summary


def _count_rows(
    rows: Iterable[ledger.LedgerRow], count: Counter[tuple[str, str]]
) -> Iterator[ledger.LedgerRow]:
    """Pass rows on, and count them by kind and status."""
    for row in rows:
        count[(row.kind, row.status)] += 1
        yield row
