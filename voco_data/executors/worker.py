"""The work on one series: decode it once, and write it to every store that lacks it."""

from __future__ import annotations

import logging
import math
import platform
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from voco_data.errors import SeriesRefused, VocoError, unwritable_error
from voco_data.executors.tasks import KnownInputs, SeriesOutcome, SeriesTask, Target
from voco_data.limits import deadline
from voco_data.preprocessing import (
    PreparedSeries,
    draw_organ_maps,
    find_boxes,
    prepare_series,
    resample_to_grid,
)
from voco_data.qc import preview
from voco_data.reasons import Reason
from voco_data.storage import WritableStorage
from voco_data.store import (
    Record,
    SeriesIdentity,
    StoreSpec,
    commit_volume,
    integrity,
    volume_checksum,
)
from voco_data.version import VERSION
from voco_data.volumes import Box, HuHistogram, Voxels

log = logging.getLogger(__name__)

MIN_VISIBLE_SHARE = 0.002
"""Least share of the voxels of a box that a window shows; the others are as dark or bright as air
or bone."""
VERSIONS = {"voco": VERSION, "numpy": np.__version__, "python": platform.python_version()}


def fill_batch(
    tasks: Sequence[SeriesTask],
    known_inputs: KnownInputs,
    limit_s: float = math.inf,
    *,
    is_retry: bool = False,
) -> list[SeriesOutcome]:
    """Fill stores with a batch of series, one in memory at a time.

    A series may take `limit_s` seconds to be decoded. `is_retry`: a worker that died may have
    committed some of them.
    """
    return [fill_series(task, known_inputs, limit_s, is_retry=is_retry) for task in tasks]


def fill_series(
    task: SeriesTask,
    known_inputs: KnownInputs,
    limit_s: float = math.inf,
    *,
    is_retry: bool = False,
) -> SeriesOutcome:
    """Decode one series, and commit it to the targets that do not hold it.

    `is_retry`: what a worker that died has committed is returned as it is. A series that cannot
    become a volume is an outcome with a reason. Raises VocoError for what ends the run: StoreBusy
    if the run is over, and errors of the storage.
    """
    try:
        committed = _committed_records(task) if is_retry and task.writes else {}
        digests = {record.input_digest for record in committed.values()}
        if len(committed) == len(task.targets) and len(digests) == 1:
            return SeriesOutcome(
                key=task.key,
                seen_key=task.seen_key,
                input_digest=digests.pop(),
                records=tuple(committed.values()),
                was_committed=True,
            )
        with deadline(limit_s):
            prepared = prepare_series(
                task.base,
                task.entry,
                task.targets[0].spec,
                task.given_box,
                task.burned_in,
            )
            digest = prepared.input_digest
            identity = SeriesIdentity(task.patient_id, task.study_uid, task.series_uid)
            lacking = [
                target
                for target in task.targets
                if task.writes and not known_inputs[target.store.name].holds(digest, identity)
            ]
            pictured = lacking or _without_preview(task, digest)
            crops = find_boxes(prepared, [target.spec for target in pictured])
            histograms = {
                box: HuHistogram.from_box(prepared.hu, box) for box in set(crops.values())
            }
            voxels = {
                target: _resample(prepared, crops[target.spec], target.spec, histograms)
                for target in lacking
                if target not in committed or committed[target].input_digest != digest
            }
        if pictured:  # before any record, so that a worker that dies leaves none without a preview
            box = crops[pictured[0].spec]
            with pictured[0].store.committing():
                _write_preview(task.root, prepared, box, histograms[box])
        records = [
            _commit(task, target, prepared, crops[target.spec], histograms, voxels[target])
            if target in voxels
            else committed[target]
            for target in lacking
        ]
        return SeriesOutcome(
            key=task.key, seen_key=task.seen_key, input_digest=digest, records=tuple(records)
        )
    except SeriesRefused as refusal:
        return _refusal_outcome(task, refusal.reason, refusal.detail)
    except VocoError:  # of the storage, or the run is over: it ends the run
        raise
    except OSError as error:  # a store that cannot be written ends the run
        raise unwritable_error(task.root, error) from error
    except MemoryError:
        return _refusal_outcome(task, Reason.WORKER_DIED, "out of memory")
    except Exception as error:  # noqa: BLE001  a bug refuses one series, and is reported
        frame = traceback.extract_tb(error.__traceback__)[-1]
        # Without the error's message: it may quote a header, which may name a patient.
        detail = f"{Path(frame.filename).name}:{frame.lineno}"
        log.error("a series failed inside voco at %s; please report this", detail)
        return _refusal_outcome(task, Reason.INTERNAL_ERROR, detail)


def _refusal_outcome(task: SeriesTask, reason: Reason, detail: str) -> SeriesOutcome:
    return SeriesOutcome(key=task.key, seen_key=task.seen_key, reason=reason, detail=detail)


def _committed_records(task: SeriesTask) -> dict[Target, Record]:
    """Records of the same files in the rows of the task, if chunk and record are whole.

    When the run was planned these rows were not whole, so a worker of this run committed them.
    The store of a dry run keeps no records.
    """
    committed: dict[Target, Record] = {}
    for target in task.targets:
        store = target.store.as_readable()
        if store is None:
            continue
        record = integrity.check_row(store, target.spec, target.row).record
        if record is not None and (record.key, record.stat_digest) == (
            task.key,
            task.entry.stat_digest,
        ):
            committed[target] = record
    return committed


def _resample(
    prepared: PreparedSeries, box: Box, spec: StoreSpec, histograms: Mapping[Box, HuHistogram]
) -> Voxels:
    """The volume of one store. Raises SeriesRefused(NOT_HU) for one that shows nothing.

    All volumes are made before the first is committed: a series is in all stores of its rules, or
    in none.
    """
    low, high = spec.visible_hu
    share = histograms[box].share_between(low, high)
    voxels = resample_to_grid(prepared, box, spec)
    if share < MIN_VISIBLE_SHARE or voxels.min() == voxels.max():
        raise SeriesRefused(
            Reason.NOT_HU,
            f"the window of {spec.profile} shows a constant picture: {share:.2%} of the box lies "
            f"from {low:g} to {high:g} HU",
        )
    return voxels


def _commit(
    task: SeriesTask,
    target: Target,
    prepared: PreparedSeries,
    box: Box,
    histograms: Mapping[Box, HuHistogram],
    voxels: Voxels,
) -> Record:
    """Write the chunk of a volume, then its record."""
    record = _make_record(task, target, prepared, box, histograms[box], volume_checksum(voxels))
    commit_volume(target.store, record, voxels, target.spec.compression)
    return record


def _without_preview(task: SeriesTask, input_digest: str) -> list[Target]:
    """The first target, if all hold the series and its preview is lost or torn."""
    root = task.root.as_readable()
    if not task.writes or root is None or preview.is_whole(root, input_digest):
        return []
    return list(task.targets[:1])


def _write_preview(
    root: WritableStorage, prepared: PreparedSeries, box: Box, histogram: HuHistogram
) -> None:
    """Write the preview for the report. A series is committed without it if it cannot be drawn."""
    key = preview.key_of(prepared.input_digest)
    try:
        preview.write(root, key, prepared.hu, prepared.canonical.spacing_mm, box, histogram)
    except ValueError as error:
        log.warning("a preview could not be drawn (%s)", type(error).__name__)


def _make_record(
    task: SeriesTask,
    target: Target,
    prepared: PreparedSeries,
    box: Box,
    histogram: HuHistogram,
    chunk_checksum: str,
) -> Record:
    volume, canonical = prepared.volume, prepared.canonical
    numbers = volume.instance_numbers
    if prepared.resampled or canonical.permutation[0] != 0:  # not the scanner's slices
        numbers = ()
    elif canonical.flips[0]:
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
        spacing_mm=canonical.spacing_mm,
        origin_mm=volume.geometry.origin_mm,
        axes=volume.geometry.axes,
        native_spacing_mm=volume.geometry.spacing_mm,
        permutation=canonical.permutation,
        flips=canonical.flips,
        resampled=prepared.resampled,
        canonical_shape=canonical.shape,
        canonical_first_mm=canonical.first_mm,
        box_method=box.method,
        box_confidence=box.confidence,
        box_low_mm=box.low_mm(canonical),
        box_high_mm=box.high_mm(canonical),
        box_start=box.start,
        box_stop=box.stop,
        hu_p5=histogram.tissue_percentile(5),
        hu_median=histogram.tissue_percentile(50),
        hu_p95=histogram.tissue_percentile(95),
        organs={name: bounds.in_mm(canonical) for name, bounds in sorted(prepared.organs.items())},
        instance_numbers=numbers,
        flags=(*prepared.flags, *box.doubts),
        versions=VERSIONS,
        organ_maps=draw_organ_maps(prepared, box, target.spec),
    )
