"""What one worker does with one series: decode once, fill every store that misses it."""

from __future__ import annotations

import logging
import math
import platform
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voco_data.cohort import SeriesEntry
from voco_data.cropping.external_boxes import GivenBox
from voco_data.errors import SeriesRefused, VocoError, unwritable
from voco_data.preprocessing.recipe import Prepared, boxes, prepare, to_grid
from voco_data.qc import preview
from voco_data.reasons import Reason
from voco_data.storage.base import Storage, WritableStorage
from voco_data.store import integrity
from voco_data.store.index import InputDigests
from voco_data.store.record import Record
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import checksum, commit_volume
from voco_data.time_limit import deadline
from voco_data.version import VERSION
from voco_data.volumes import hu_histogram
from voco_data.volumes.box import Box

log = logging.getLogger(__name__)

VERSIONS = {"voco": VERSION, "numpy": np.__version__, "python": platform.python_version()}


@dataclass(frozen=True, slots=True)
class Target:
    """A store that may miss the series, and the row it would get there."""

    store: WritableStorage
    spec: StoreSpec
    row: int


@dataclass(frozen=True, slots=True)
class SeriesTask:
    """One series to read, under the ids that may be written."""

    key: str
    base: Path
    entry: SeriesEntry
    layout: str
    ids: str
    patient_id: str
    study_uid: str
    series_uid: str
    source: str
    targets: tuple[Target, ...]
    root: WritableStorage
    """Where the preview goes."""
    memory_key: str = ""
    """Under which the run remembers what became of these files."""
    given: GivenBox | None = None
    """A box that was made elsewhere."""


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """What became of one series."""

    key: str
    memory_key: str = ""
    input_digest: str = ""
    records: tuple[Record, ...] = ()
    """Records that were committed, one a store that missed the series."""
    reason: Reason | None = None
    detail: str = ""
    earlier: bool = False
    """Whether a worker that has died had committed it."""


def fill_batch(
    tasks: Sequence[SeriesTask],
    known: Mapping[str, InputDigests],
    limit_s: float = math.inf,
    *,
    again: bool = False,
) -> list[SeriesOutcome]:
    """Fill a batch of series, one at a time: memory is that of one series.

    A series may take `limit_s` seconds until it is decoded. `again`: a worker that has died may
    have committed some of them.
    """
    with warnings.catch_warnings():
        # pydicom warns about every oddity of every header; what matters becomes a reason code.
        warnings.filterwarnings("ignore", module=r"pydicom\.")
        return [fill_series(task, known, limit_s, again=again) for task in tasks]


def fill_series(
    task: SeriesTask,
    known: Mapping[str, InputDigests],
    limit_s: float = math.inf,
    *,
    again: bool = False,
) -> SeriesOutcome:
    """Decode one series and commit it to the targets that do not hold it.

    `known` says what each store (by folder name) held when the run began. `again`: what a worker
    that has died committed is taken as it is. Raises StoreBusy if the run is over.
    """
    try:
        done = _committed(task) if again else {}
        if done and len(done) == len(task.targets) and _of_one_input(done):
            whole = tuple(done.values())
            digest = whole[0].input_digest
            return SeriesOutcome(task.key, task.memory_key, digest, whole, earlier=True)
        with deadline(limit_s):
            prepared = prepare(task.base, task.entry, task.targets[0].spec, task.given)
            digest = prepared.input_digest
            identity = (task.patient_id, task.series_uid)
            missing = [t for t in task.targets if not known[t.store.name].holds(digest, identity)]
            found = boxes(prepared, [target.spec for target in missing])
        if missing:  # first: who dies on the way leaves no record without a preview
            with missing[0].store.committing():
                _draw(task.root, prepared, found[missing[0].spec])
        records = [
            done[target]
            if target in done and done[target].input_digest == digest
            else _commit(task, target, prepared, found[target.spec])
            for target in missing
        ]
        return SeriesOutcome(task.key, task.memory_key, digest, tuple(records))
    except SeriesRefused as refusal:
        return _refused(task, refusal.reason, refusal.detail)
    except VocoError:  # a bucket is gone, or not ours; the run is over; a row cannot be read
        raise
    except OSError as error:  # a store that cannot be written ends the run
        raise unwritable(task.root, error) from error
    except MemoryError:
        return _refused(task, Reason.WORKER_DIED, "out of memory")
    except Exception as error:  # noqa: BLE001  a bug of ours costs one series, and is named
        where = traceback.extract_tb(error.__traceback__)[-1]
        # The error's own text may quote a header, and a header may name a patient: it stays here.
        detail = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
        log.error("a series failed inside voco; please report this: %s", detail)
        return _refused(task, Reason.INTERNAL_ERROR, detail)


def _refused(task: SeriesTask, reason: Reason, detail: str) -> SeriesOutcome:
    return SeriesOutcome(task.key, task.memory_key, reason=reason, detail=detail)


def _committed(task: SeriesTask) -> dict[Target, Record]:
    """What stands in the rows of the task, whole and of these files.

    When the run was planned nothing whole stood there, so a worker of this run committed it.
    A target that can only be written to, as that of a dry run, holds nothing.
    """
    found = {
        target: integrity.check_row(target.store, target.spec, target.row).record
        for target in task.targets
        if isinstance(target.store, Storage)
    }
    return {
        target: record
        for target, record in found.items()
        if record is not None
        and (record.key, record.stat_digest) == (task.key, task.entry.stat_digest)
    }


def _of_one_input(done: Mapping[Target, Record]) -> bool:
    return len({record.input_digest for record in done.values()}) == 1


def _commit(task: SeriesTask, target: Target, prepared: Prepared, box: Box) -> Record:
    """Resample, write the chunk, then the record."""
    pixels = to_grid(prepared, box, target.spec)
    record = _record(task, target, prepared, box, checksum(pixels))
    commit_volume(target.store, record, pixels, target.spec.compression)
    return record


def _draw(root: WritableStorage, prepared: Prepared, box: Box) -> None:
    """The preview for the report. The series stands without it."""
    key = preview.key_of(prepared.input_digest)
    try:
        preview.write(root, key, prepared.hu, prepared.where.spacing_mm, box)
    except ValueError as error:
        log.warning("a preview could not be drawn (%s)", type(error).__name__)


def _record(
    task: SeriesTask,
    target: Target,
    prepared: Prepared,
    box: Box,
    chunk_checksum: str,
) -> Record:
    volume, where = prepared.volume, prepared.where
    counts = hu_histogram.count(preview.sample(prepared.hu, box))
    numbers = volume.instance_numbers
    if prepared.resampled or where.permutation[0] != 0:  # slices do not run along the patient
        numbers = ()
    elif where.flips[0]:
        numbers = numbers[::-1]
    return Record(
        row=target.row,
        spec_digest=target.spec.digest,
        input_digest=prepared.input_digest,
        content_digest=prepared.content_digest,
        stat_digest=task.entry.stat_digest,
        chunk_checksum=chunk_checksum,
        patient_id=task.patient_id,
        study_uid=task.study_uid,
        series_uid=task.series_uid,
        ids=task.ids,
        layout=task.layout,
        source=task.source,
        transfer_syntax=volume.transfer_syntax,
        shape=volume.geometry.shape,
        spacing_mm=where.spacing_mm,
        origin_mm=volume.geometry.origin_mm,
        axes=volume.geometry.axes,
        native_spacing_mm=volume.geometry.spacing_mm,
        permutation=where.permutation,
        flips=where.flips,
        resampled=prepared.resampled,
        canonical_shape=where.shape,
        canonical_first_mm=where.first_mm,
        box_method=box.method,
        box_confidence=box.confidence,
        box_low_mm=box.low_mm(where),
        box_high_mm=box.high_mm(where),
        box_start=box.start,
        box_stop=box.stop,
        hu_p5=hu_histogram.tissue_percentile(counts, 5),
        hu_median=hu_histogram.tissue_percentile(counts, 50),
        hu_p95=hu_histogram.tissue_percentile(counts, 95),
        organs={name: bounds.in_mm(where) for name, bounds in sorted(prepared.organs.items())},
        instance_numbers=numbers,
        flags=prepared.flags,
        versions=VERSIONS,
    )
