"""The preprocess stage: from an archive to stores that are up to date with it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from voco_data.cohort import Cohort
from voco_data.cropping.external_boxes import GivenBox, read_boxes
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreCorrupt, translate_unwritable
from voco_data.executors.batches import batches, run_processes
from voco_data.executors.dask import run_dask
from voco_data.executors.worker import SeriesOutcome
from voco_data.ingest.disk_space import check_disk_space
from voco_data.ingest.ledger_rows import ledger_rows
from voco_data.ingest.plan import IngestPlan, NamedCohort
from voco_data.ingest.results import RunResults
from voco_data.ingest.seen_files import Seen, SeenFiles
from voco_data.ingest.stopwatch import Stopwatch
from voco_data.layouts.index import index
from voco_data.qc import ledger
from voco_data.qc.report import render
from voco_data.reasons import TRANSIENT
from voco_data.storage.base import Storage
from voco_data.storage.root import REPORT, RUNS_FOLDER, new_run_id, root_in_use
from voco_data.storage.urls import open_storage
from voco_data.store import catalogue
from voco_data.store.spec import PROFILES, StoreSpec, distinct, read_spec_file
from voco_data.store.writer import StoreWriter, writing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreprocessSummary:
    """What a run did. `series` = `stored` + `cached` + `refused`."""

    series: int
    stored: int
    cached: int
    refused: int
    skipped: int
    """Files and series that are not CT."""
    refused_files: int
    """Files that look like CT and cannot be read, or belong to no series."""
    layout: str
    stores: dict[str, str]
    """Profile to path of its store."""
    ledger: str
    report: str
    files: int
    """Files in the archive."""
    index_seconds: float
    """To walk over them, and read the headers where the layout needs them."""
    files_per_second: float
    lookup_seconds: float
    """To find out which series the stores hold already."""
    seconds: float
    """All of the run."""

    def to_json(self) -> dict[str, object]:
        """As `voco preprocess --json` prints it."""
        return asdict(self)


def preprocess(
    source: str | Path,
    root: str | Path,
    *,
    layout: str = "auto",
    specs: Sequence[str] = ("pretrain", "finetune"),
    spec_file: str | Path | None = None,
    workers: int | None = None,
    dask: str | None = None,
    boxes: str | Path | None = None,
    uneven: Literal["refuse", "resample"] | None = None,
    keep_ids: bool = False,
    deep: bool = False,
    wait: float = 0.0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: bool = False,
) -> PreprocessSummary:
    """Bring the stores under `root` up to date with the archive at `source`.

    Every series is decoded at most once for all specs that miss it. Series that cannot become a
    volume are rows of the ledger. `boxes` is a table of boxes made elsewhere; `uneven` overrules
    what the specs say of missing and uneven slices. Raises InputError before anything is written,
    StoreBusy if another run holds a store for longer than `wait` seconds.
    """
    clock = Stopwatch()
    wanted = choose_specs(specs, spec_file, uneven)
    given = {} if boxes is None else read_boxes(Path(boxes))
    with ExitStack() as stack:
        cohort = stack.enter_context(
            index(Path(source), layout=layout, include=include, exclude=exclude, progress=progress)
        )
        clock.lap("index")
        check_boxes(cohort, given, boxes)
        home = _usable(open_storage(root))
        check_disk_space(home, {spec: _beyond(home, spec, len(cohort)) for spec in wanted})
        stack.enter_context(translate_unwritable(home))
        stack.enter_context(root_in_use(home))
        writers = _open_stores(stack, home, wanted, wait, deep=deep)
        hidden = None if keep_ids or cohort.public_ids else pseudonyms.load_or_make(home)
        series = NamedCohort(cohort, hidden, given)
        freshness = stack.enter_context(closing(SeenFiles(home)))
        for writer in writers:
            freshness.adopt(writer.index.digests(), writer.spec)
        plan = stack.enter_context(
            closing(IngestPlan(home, series, writers, None if deep else freshness))
        )
        check_disk_space(home, {writer.spec: plan.new[writer.storage.name] for writer in writers})
        clock.lap("look-up")
        outcomes = stack.enter_context(closing(RunResults()))
        for outcome in _fill(plan, workers or cores(), dask, progress):
            _note(outcome, outcomes, writers, freshness)
        for writer in writers:
            writer.compact()
        freshness.save()
        rows = ledger_rows(series, outcomes, freshness, writers)
        summary = _publish(home, cohort, rows, writers, clock)
        if hidden is not None:
            pseudonyms.save_map(home, hidden)
        return summary


def choose_specs(
    names: Sequence[str],
    spec_file: str | Path | None,
    uneven: Literal["refuse", "resample"] | None = None,
) -> list[StoreSpec]:
    """The built-in specs of these names, or those of a file, with the policy on uneven slices."""
    chosen = _named_specs(names) if spec_file is None else read_spec_file(Path(spec_file))
    if uneven is not None:
        chosen = [replace(spec, uneven_slices=uneven) for spec in chosen]
    return distinct(chosen)


def _named_specs(names: Sequence[str]) -> list[StoreSpec]:
    unknown = [name for name in names if name not in PROFILES]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "none"
        raise InputError(
            f"spec must be one of {', '.join(PROFILES)}, got {got}; "
            "give --spec-file for one of your own"
        )
    return [PROFILES[name] for name in names]


def check_boxes(cohort: Cohort, given: Mapping[str, GivenBox], boxes: str | Path | None) -> None:
    """Boxes that meet no series are a mistake in the table's ids."""
    if given and not any(head.series_uid in given for head in cohort.heads()):
        raise InputError(
            f"boxes {boxes}: none of its {len(given)} series is in the archive; "
            "expected the archive's own series ids"
        )


def _usable(home: Storage) -> Storage:
    """Make the root and check that files can be written there."""
    root = home.local()
    if root is None:
        next(home.folders(), None)  # one request: the bucket is there, and we may look
        return home
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        if made and root.is_dir():
            root.rmdir()
        raise InputError(
            f"{root}: cannot be written ({error.strerror}); give a folder of your own as --root"
        ) from error
    return open_storage(root.resolve())


def _open_stores(
    stack: ExitStack, home: Storage, specs: Sequence[StoreSpec], wait: float, *, deep: bool
) -> list[StoreWriter]:
    """The stores under their locks, which are taken by name: two runs never wait crosswise."""
    opened = {
        spec: stack.enter_context(writing(home, spec, wait_seconds=wait, deep=deep))
        for spec in sorted(specs, key=lambda spec: spec.name)
    }
    return [opened[spec] for spec in specs]


def _beyond(root: Storage, spec: StoreSpec, series: int) -> int:
    """Series that a store must lack, by their number: known before its lock is taken."""
    try:
        stored = catalogue.count(root / spec.name)
    except StoreCorrupt:  # the run will make it again; until then all counts as new
        stored = 0
    return max(0, series - stored)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _fill(
    plan: IngestPlan, workers: int, dask: str | None, progress: bool
) -> Iterator[SeriesOutcome]:
    """Run all tasks; a bar shows series per second and the time left."""
    if dask is not None:
        results = run_dask(plan.tasks, plan.known, dask, workers)
    else:
        todo = batches(plan.tasks, workers)
        results = run_processes(todo, plan.known, min(workers, max(1, len(plan.tasks))))
    return _counted(results, len(plan.tasks), progress)


def _counted(
    results: Iterable[list[SeriesOutcome]], total: int, progress: bool
) -> Iterator[SeriesOutcome]:
    with tqdm(total=total, unit="series", desc="preprocess", disable=not progress) as bar:
        for outcomes in results:
            yield from outcomes
            bar.update(len(outcomes))


def _note(
    outcome: SeriesOutcome,
    outcomes: RunResults,
    writers: Sequence[StoreWriter],
    freshness: SeenFiles,
) -> None:
    """Take up what was committed, and remember what was learnt."""
    outcomes.note(outcome)
    by_spec = {writer.spec.digest: writer for writer in writers}
    for record in outcome.records:
        by_spec[record.spec_digest].note(record)
    if outcome.reason not in TRANSIENT:
        seen = Seen(outcome.input_digest, outcome.reason, outcome.detail)
        freshness.remember(outcome.memory_key, seen)


def _tallied(
    rows: Iterable[ledger.LedgerRow], count: Counter[tuple[str, str]]
) -> Iterator[ledger.LedgerRow]:
    """Pass rows on, and count them by kind and status."""
    for row in rows:
        count[(row.kind, row.status)] += 1
        yield row


def _publish(
    root: Storage,
    cohort: Cohort,
    rows: Iterable[ledger.LedgerRow],
    writers: Sequence[StoreWriter],
    clock: Stopwatch,
) -> PreprocessSummary:
    """Write ledger and report under runs/, and summarise."""
    run = root / RUNS_FOLDER / new_run_id()
    count: Counter[tuple[str, str]] = Counter()
    ledger.write(run, _tallied(rows, count))
    with run.fetched(ledger.KEY) as path:
        title = f"voco preprocess: {cohort.layout}"
        run.write(REPORT, render(title, path, root).encode())
    stored, cached = count["series", "stored"], count["series", "cached"]
    refused = count["series", "refused"]
    summary = PreprocessSummary(
        series=stored + cached + refused,
        stored=stored,
        cached=cached,
        refused=refused,
        skipped=count["series", "skipped"] + count["file", "skipped"],
        refused_files=count["file", "refused"],
        layout=cohort.layout,
        stores={writer.spec.profile: str(writer.storage) for writer in writers},
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
