"""The preprocess stage: from an archive to stores that are up to date with it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voco_data.cohort import Cohort
from voco_data.ingest.damaged_files import DamagedFiles
from voco_data.ingest.named_cohort import open_cohort
from voco_data.ingest.open_run import OpenRun, open_run
from voco_data.ingest.options import IngestOptions, check_options, choose_specs, with_changes
from voco_data.ingest.unchanged_runs import archive_key, find_unchanged_run
from voco_data.qc import ledger, render_report
from voco_data.storage import REPORT, RUNS_FOLDER, new_run_id, open_storage

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
    unchanged: bool = False
    """Whether nothing has changed since the run of `ledger`, and no other one was written."""

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
        run = stack.enter_context(
            open_run(source, open_storage(root), specs, cohort, boxes, options)
        )
        run.exclude_conflicts()
        plan = stack.enter_context(closing(run.make_plan()))
        clock.end_lap("look-up")
        run.fill_stores(plan)
        damaged = DamagedFiles(run.cohort, run.root, run.pseudonymiser)
        stack.enter_context(closing(damaged))
        refused_with_volume = run.replace_former_stacks(damaged)
        gone = run.prune(damaged)
        run.seen_files.save()
        rows = run.ledger_rows(refused_with_volume, gone)
        listed = [entry for one in gone for entry in one.to_json(removed=options.yes)]
        summary = _write_reports(run, cohort, rows, listed, clock)
        run.finish(gone)
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


def _write_reports(
    opened: OpenRun,
    cohort: Cohort,
    rows: Iterable[ledger.LedgerRow],
    gone: Sequence[dict[str, object]],
    clock: _Stopwatch,
) -> PreprocessSummary:
    """Write ledger and report under runs/, and summarise the run.

    With `skip_unchanged` nothing is written if the last run over this archive has the same rows.
    """
    root = opened.root
    count: Counter[tuple[str, str]] = Counter()
    with ledger.collect(_count_rows(rows, count)) as collected:
        key = archive_key(opened.archive, opened.stores)
        has_changed = not opened.options.skip_unchanged or count["series", "stored"] > 0
        last = None if has_changed else find_unchanged_run(root, key, collected.digest)
        run = last or root / RUNS_FOLDER / new_run_id()
        if last is None:
            collected.write(run, key)
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
        stores={store.spec.profile: str(store.storage) for store in opened.stores},
        ledger=f"{run}/{ledger.KEY}",
        report=f"{run}/{REPORT}",
        files=cohort.n_files,
        index_seconds=round(clock.laps["index"], 3),
        files_per_second=round(cohort.n_files / max(clock.laps["index"], 1e-3), 1),
        lookup_seconds=round(clock.laps["look-up"], 3),
        seconds=round(clock.total, 3),
        unchanged=last is not None,
    )
    if last is not None:
        log.info("nothing has changed since %s; no report was written", last)
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
