"""Our way, whole: what a worker does with a series, into two stores that miss it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from voco_data.bench.series import entry_of
from voco_data.executors.tasks import SeriesTask, Target
from voco_data.executors.worker import fill_series
from voco_data.storage.local import FencedLocalStorage, LocalStorage
from voco_data.storage.locks import Fence
from voco_data.store.index import InputDigests
from voco_data.store.spec import FINETUNE, PRETRAIN
from voco_data.store.writer import writing

ROWS = 64
"""Rows that are filled one after the other, so that every volume is a new file."""


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Fill the next row of both stores below `out` with the series in `folder`."""
    specs, targets = (PRETRAIN, FINETUNE), []
    for spec in specs:
        with writing(LocalStorage(out), spec) as writer:
            writer.assign(sorted(str(row) for row in range(ROWS)))
        # The run above is over; here is another that lasts.
        fence = Fence(out / f".{spec.name}.fence")
        targets.append(Target(FencedLocalStorage(out / spec.name, fence, fence.open()), spec, 0))
    known = {target.store.name: InputDigests() for target in targets}
    entry = entry_of(folder, folder.parent)
    done = 0

    def run() -> None:
        nonlocal done
        row = done % ROWS
        done += 1
        outcome = fill_series(
            SeriesTask(
                key=str(row),
                base=folder.parent,
                entry=entry,
                layout="dicom",
                ids="kept",
                patient_id="bench",
                study_uid="bench",
                series_uid=str(row),
                source=folder.name,
                targets=tuple(replace(target, row=row) for target in targets),
                root=LocalStorage(out),
            ),
            known,
        )
        if len(outcome.records) != len(specs):
            raise RuntimeError(f"the series was not stored: {outcome.reason} {outcome.detail}")

    return run
