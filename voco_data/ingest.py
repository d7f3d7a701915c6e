"""The preprocess stage: from an archive to stores that are up to date with it."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from voco_data import atomic, fanout, ledger, leftovers, pseudonyms, qc_page
from voco_data.cohort import Cohort
from voco_data.errors import InputError, VocoError, writing_under
from voco_data.freshness import Freshness, Seen
from voco_data.given_box import GivenBox, read_boxes
from voco_data.layouts.index import index
from voco_data.outcome import ledger_rows
from voco_data.plan import NamedCohort, Plan, make_plan
from voco_data.reasons import TRANSIENT
from voco_data.spec import PROFILES, StoreSpec, distinct, read_spec_file
from voco_data.store_writer import StoreWriter, writing
from voco_data.worker import SeriesOutcome

log = logging.getLogger(__name__)

SPARE_BYTES = 64 * 2**20
"""Free space that must remain for records, catalogue and reports."""


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
    seconds: float

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
    began = time.monotonic()
    wanted = choose_specs(specs, spec_file, uneven)
    given = {} if boxes is None else read_boxes(Path(boxes))
    with ExitStack() as stack:
        cohort = stack.enter_context(
            index(Path(source), layout=layout, include=include, exclude=exclude, progress=progress)
        )
        _check_boxes(cohort, given, boxes)
        home = _usable(Path(root))
        _check_disk(home, wanted, len(cohort))
        stack.enter_context(writing_under(home))
        alone = stack.enter_context(leftovers.using(home))
        writers = _open_stores(stack, home, wanted, wait, deep=deep)
        if alone:
            leftovers.sweep_root(home)
        hidden = None if keep_ids or cohort.public_ids else pseudonyms.load_or_make(home)
        series = NamedCohort(cohort, hidden, given)
        freshness = Freshness(home)
        for writer in writers:
            freshness.adopt(writer.table, writer.spec)
        plan = make_plan(series, writers, None if deep else freshness)
        outcomes = _fill(plan, workers or _cores(), dask, progress)
        _commit(series, plan, outcomes, writers, freshness)
        rows = ledger_rows(series, plan, outcomes, writers)
        summary = _publish(home, cohort.layout, rows, writers, began)
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


def _check_boxes(cohort: Cohort, given: Mapping[str, GivenBox], boxes: str | Path | None) -> None:
    """Boxes that meet no series are a mistake in the table's ids."""
    if given and not any(head.series_uid in given for head in cohort.heads()):
        raise InputError(
            f"boxes {boxes}: none of its {len(given)} series is in the archive; "
            "expected the archive's own series ids"
        )


def _usable(root: Path) -> Path:
    """Make the root and check that files can be written there."""
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
    return root.resolve()


def _open_stores(
    stack: ExitStack, home: Path, specs: Sequence[StoreSpec], wait: float, *, deep: bool
) -> list[StoreWriter]:
    """The stores under their locks, which are taken by name: two runs never wait crosswise."""
    opened = {
        spec: stack.enter_context(writing(home, spec, wait_seconds=wait, deep=deep))
        for spec in sorted(specs, key=lambda spec: spec.name)
    }
    return [opened[spec] for spec in specs]


def _check_disk(root: Path, specs: Sequence[StoreSpec], series: int) -> None:
    """Refuse to start a run that could not end. Series beyond those held count as new."""
    need = SPARE_BYTES
    for spec in specs:
        held = sum(1 for _ in (root / spec.name / "volumes" / "c").glob("*"))
        need += max(0, series - held) * math.prod(spec.grid)
    free = shutil.disk_usage(root).free
    if free < need:
        raise VocoError(
            f"{root}: {free / 1e9:.1f} GB free, up to {need / 1e9:.1f} GB needed for {series} "
            "series; free some space or choose another --root"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _fill(plan: Plan, workers: int, dask: str | None, progress: bool) -> list[SeriesOutcome]:
    """Run all tasks; a bar shows series per second and the time left."""
    todo = fanout.batches(plan.tasks, workers)
    if dask is not None:
        results = fanout.run_dask(todo, plan.known, dask, workers)
    else:
        results = fanout.run_processes(todo, plan.known, min(workers, max(1, len(plan.tasks))))
    return list(_counted(results, len(plan.tasks), progress))


def _counted(
    results: Iterable[list[SeriesOutcome]], total: int, progress: bool
) -> Iterator[SeriesOutcome]:
    with tqdm(total=total, unit="series", desc="preprocess", disable=not progress) as bar:
        for outcomes in results:
            yield from outcomes
            bar.update(len(outcomes))


def _commit(
    series: NamedCohort,
    plan: Plan,
    outcomes: Sequence[SeriesOutcome],
    writers: Sequence[StoreWriter],
    freshness: Freshness,
) -> None:
    """Compact what was committed, and remember what was learnt."""
    by_spec = {
        writer.spec.digest: [
            record
            for outcome in outcomes
            for record in outcome.records
            if record.spec_digest == writer.spec.digest
        ]
        for writer in writers
    }
    for writer in writers:
        writer.compact(by_spec[writer.spec.digest])
    specs = dict(plan.tasks.specs())
    stats = {item.key: item.stat_digest for item in series if item.key in specs}
    for outcome in outcomes:
        if outcome.reason not in TRANSIENT:
            seen = Seen(outcome.input_digest, outcome.reason, outcome.detail)
            freshness.remember(stats[outcome.key], specs[outcome.key], seen)
    freshness.save()


def _tallied(
    rows: Iterable[ledger.LedgerRow], count: Counter[tuple[str, str]]
) -> Iterator[ledger.LedgerRow]:
    """Pass rows on, and count them by kind and status."""
    for row in rows:
        count[(row.kind, row.status)] += 1
        yield row


def _publish(
    root: Path,
    layout: str,
    rows: Iterable[ledger.LedgerRow],
    writers: Sequence[StoreWriter],
    began: float,
) -> PreprocessSummary:
    """Write ledger and report under runs/, and summarise."""
    started = time.strftime("%Y%m%dT%H%M%S")
    folder = root / "runs" / f"{started}-preprocess-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    ledger_path, report_path = folder / "ledger.parquet", folder / "report.html"
    count: Counter[tuple[str, str]] = Counter()
    ledger.write(ledger_path, _tallied(rows, count))
    stored, cached = count["series", "stored"], count["series", "cached"]
    refused = count["series", "refused"]
    stores = {writer.spec.profile: str(writer.path) for writer in writers}
    summary = PreprocessSummary(
        series=stored + cached + refused,
        stored=stored,
        cached=cached,
        refused=refused,
        skipped=count["series", "skipped"] + count["file", "skipped"],
        refused_files=count["file", "refused"],
        layout=layout,
        stores=stores,
        ledger=str(ledger_path),
        report=str(report_path),
        seconds=round(time.monotonic() - began, 3),
    )
    title = f"voco preprocess: {layout}"
    atomic.write_text(report_path, qc_page.render(title, ledger_path, root))
    log.info("%d series: %d stored, %d cached, %d refused", summary.series, stored, cached, refused)
    if stored + cached == 0:
        log.warning("no series could be stored; the ledger says why: %s", ledger_path)
    return summary
