"""The rows that measure voco: one series into two stores, and the headers of a series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from voco_data.bench.series import entry_of
from voco_data.dicom import header_scanner
from voco_data.executors import SeriesTask, Target, fill_series
from voco_data.storage import Fence, FencedLocalStorage, LocalStorage
from voco_data.store import FINETUNE, PRETRAIN, InputDigests, lock_key, open_for_writing

ROWS = 64
"""Rows of a store. They are filled one after the other, so that every volume is a new file."""


def fill_stores(folder: Path, out: Path) -> Callable[[], None]:
    """What a worker does: the series in `folder` into the next row of two stores below `out`."""
    specs, targets = (PRETRAIN, FINETUNE), []
    for spec in specs:
        with open_for_writing(LocalStorage(out), spec) as writer:
            writer.assign_rows(sorted(str(row) for row in range(ROWS)))
        # `open_for_writing` revoked the token at its end; issue one, as a run that lasts does.
        fence = Fence.of_lock(out / lock_key(spec.name))
        store = FencedLocalStorage(out / spec.name, fence, fence.issue_token())
        targets.append(Target(store, spec, 0))
    input_digests = {target.store.name: InputDigests() for target in targets}
    entry = entry_of(folder, folder.parent)
    n_filled = 0

    def run() -> None:
        nonlocal n_filled
        row = n_filled % ROWS
        n_filled += 1
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
            input_digests,
        )
        if len(outcome.records) != len(specs):
            raise RuntimeError(f"the series was not stored: {outcome.reason} {outcome.detail}")

    return run


def read_headers(folder: Path, out: Path) -> Callable[[], None]:  # noqa: ARG001
    """The header of every file in `folder`, as the index reads it."""
    paths = sorted(folder.iterdir())
    scanner = header_scanner()

    def run() -> None:
        for path in paths:
            if scanner.read_header(path) is None:
                raise RuntimeError(f"{path.name} is not read by the fast path")

    return run
