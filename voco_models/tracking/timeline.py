"""The timeline of a folder of retrainings, from champion.json and the folders of the runs.

A retraining that failed or was stopped is not in champion.json. Its folder with its pins tells of
it. One that failed before its inputs were pinned, and one that found nothing new, leave nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from voco_data.errors import InputError
from voco_models.tracking.champions import (
    EVALUATE_FOLDER,
    FINETUNE_FOLDER,
    PRETRAIN_FOLDER,
    Champions,
    Kind,
    Learnt,
    folders_are_tainted,
    read_champions,
)
from voco_models.tracking.learnt import describe_learnt
from voco_models.tracking.pins import PINS, read_pins
from voco_models.tracking.scores import ScoredRun

NOT_FINISHED: Literal["not finished"] = "not finished"
_DUE = re.compile(r"retrain-(\d{8}-\d{6})-")
_REACHED = (
    (EVALUATE_FOLDER, "the evaluation"),
    (FINETUNE_FOLDER, "fine-tuning"),
    (PRETRAIN_FOLDER, "pretraining"),
)
"""Folders of the stages, the last one first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline: a retraining, or a change of the champion by hand."""

    time: str
    """UTC, `2026-03-01 03:00`: when the run was due; of a change by hand, when it was made."""
    what: Kind | Literal["not finished"]
    run: str
    """Name of the run's folder."""
    reason: str
    champion: str | None
    """Name of the champion afterwards."""
    learnt: Learnt | None = None
    backbone: str | None = None
    """Name of the run whose backbone it starts from."""
    scored: ScoredRun | None = None
    tainted: bool = False
    """Whether it has learnt from a patient who was forgotten since."""
    folder_bytes: int | None = None
    """Size of the run's folder; None if it was removed, and for a change by hand."""

    @property
    def by_hand(self) -> bool:
        """Whether somebody changed the champion."""
        return self.what in ("promoted by hand", "rolled back")


def read_timeline(runs: Path) -> list[Entry]:
    """All entries, oldest first.

    The history has the order in which retrainings finished. Those that did not finish are placed
    by the time when they were due. Raises InputError if champion.json is damaged.
    """
    champions = read_champions(runs)
    entries = [_read_event(runs, champions, number) for number in range(len(champions.history))]
    for entry in _find_unfinished(runs, champions):
        later = (i for i, e in enumerate(entries) if not e.by_hand and e.time > entry.time)
        place = next(later, len(entries))
        before = entries[place - 1].champion if place else None
        entries.insert(place, replace(entry, champion=before))
    return entries


def _read_event(runs: Path, champions: Champions, number: int) -> Entry:
    event = champions.history[number]
    run = champions.find(event.run)
    assert run is not None  # the history names no other
    after = Champions(champions.runs, champions.history[: number + 1]).champion
    entry = Entry(_minutes(event.time), event.event, event.run, event.reason, after)
    if entry.by_hand:
        return entry
    return replace(
        entry,
        time=_due_of(event.run) or entry.time,
        learnt=run.learnt,
        backbone=run.backbone.partition("/")[0],
        scored=event.scored,
        tainted=folders_are_tainted(runs, run.run, run.backbone),
        folder_bytes=_measure(runs / run.run),
    )


def _find_unfinished(runs: Path, champions: Champions) -> list[Entry]:
    """Retrainings with pins that are not in champion.json, by the time when they were due."""
    folders = [path.parent for path in runs.glob(f"*/{PINS}")]
    unknown = [folder for folder in folders if champions.find(folder.name) is None]
    return sorted((_read_unfinished(folder) for folder in unknown), key=lambda entry: entry.time)


def _read_unfinished(folder: Path) -> Entry:
    learnt, backbone = None, None
    tainted = folders_are_tainted(folder.parent, folder.name)
    advice = (
        "a patient withdrew since, so start another retraining"
        if tainted
        else "it still runs, or its flow run can be retried"
    )
    try:
        pins = read_pins(folder)
        assert pins is not None  # the file is there
        learnt = describe_learnt(pins, None)
        learnt = None if learnt is None else replace(learnt, new_series=None)
        backbone = pins.backbone.folder.partition("/")[0]
        stage = next((text for name, text in _REACHED if (folder / name).exists()), None)
        came = f"it came to {stage}" if stage else "its inputs were pinned, and nothing was trained"
        reason = f"{came}; {advice}"
    except InputError as error:  # damaged pins: the other lines are shown
        reason = str(error)
    return Entry(
        time=_due_of(folder.name) or _modified(folder / PINS),
        what=NOT_FINISHED,
        run=folder.name,
        reason=reason,
        champion=None,
        learnt=learnt,
        backbone=backbone,
        tainted=tainted,
        folder_bytes=_measure(folder),
    )


def _due_of(name: str) -> str | None:
    """When the run of a folder was due, by its name."""
    found = _DUE.match(name)
    if found is None:
        return None
    return f"{datetime.strptime(found[1], '%Y%m%d-%H%M%S'):%Y-%m-%d %H:%M}"


def _minutes(time: str) -> str:
    return time[:16].replace("T", " ")


def _modified(path: Path) -> str:
    return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M}"


def _measure(folder: Path) -> int | None:
    """Bytes of all files in a folder; None if there is none."""
    if not folder.is_dir():
        return None
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
