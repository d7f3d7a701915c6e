"""Remove retrainings that nobody needs, and checkpoints of finished ones.

Kept are the champion, its predecessor (a rollback brings it back), runs that changed in the last
days, runs that train, and every run whose backbone a kept run starts from. champion.json stays as
it is: the history names removed runs, too. No torch is loaded.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from voco_data.errors import InputError, StoreBusy, translate_unwritable
from voco_data.storage import locks
from voco_models.tracking.champion_changes import lock_champions
from voco_models.tracking.champions import FINETUNE_FOLDER, PRETRAIN_FOLDER, Champions
from voco_models.tracking.pins import PINS

DAYS: Final = 90
"""A run that has changed in so many days is kept."""
DAY_S: Final = 24 * 3600.0
RUN_NAME: Final = re.compile(r"retrain-\d{8}-\d{6}-[0-9a-f]{12}")
"""Name of the folder of a retraining. Other folders of RUNS are never touched."""
REMOVING: Final = ".removing-"
"""Begins the name of a folder while it is removed. A killed removal leaves it."""
CHECKPOINT, BACKBONE, LOCK = "checkpoint.pt", "backbone.pt", ".lock"
"""Files of a training, see `voco_models.training.checkpoint` and `run_lock`."""


@dataclass(frozen=True, slots=True)
class OldFiles:
    """The folder of a retraining, or a checkpoint, that is not needed."""

    what: Literal["retraining", "checkpoint", "removal"]
    path: Path
    why: str
    bytes: int

    def to_json(self) -> dict[str, object]:
        """As `voco retention --json` prints it."""
        return {"what": self.what, "name": str(self.path), "why": self.why, "bytes": self.bytes}


def remove_old_runs(runs: Path, *, days: float = DAYS, yes: bool = False) -> list[OldFiles]:
    """List what is not needed in RUNS; with `yes`, remove it, while nobody changes the champion.

    Raises InputError, with nothing removed, if RUNS is no folder or its champion.json is damaged.
    VocoError if a file cannot be removed.
    """
    if not runs.is_dir():
        raise InputError(f"{runs}: expected the folder of the flow retrain's runs")
    if not days >= 0:
        raise InputError(f"days: expected a number of at least 0, got {days}")
    with lock_champions(runs) as champions:
        found = list(_find(runs, champions, time.time() - days * DAY_S))
        if yes:
            with translate_unwritable(runs):
                for files in found:
                    _remove(files)
    return found


def _find(runs: Path, champions: Champions, oldest: float) -> Iterator[OldFiles]:
    for path in sorted(runs.glob(f"{REMOVING}*")):
        yield OldFiles("removal", path, "its removal was interrupted", _size(path))
    folders = [path for path in sorted(runs.iterdir()) if RUN_NAME.fullmatch(path.name)]
    young = {path.name for path in folders if _last_change(path) > oldest or _is_locked(path)}
    named = {champions.champion, champions.predecessor} - {None}
    kept = _with_backbones({*young, *map(str, named)}, _backbones(folders, champions))
    for folder in folders:
        finished = champions.find(folder.name) is not None
        if folder.name not in kept:
            why = champions.status(folder.name) if finished else "it did not finish"
            yield OldFiles("retraining", folder, why, _size(folder))
        elif finished and not _is_locked(folder):
            checkpoint = folder / PRETRAIN_FOLDER / CHECKPOINT
            if checkpoint.is_file() and checkpoint.with_name(BACKBONE).is_file():
                why = "of a finished training, whose weights stay"
                yield OldFiles("checkpoint", checkpoint, why, checkpoint.stat().st_size)


def _backbones(folders: Iterable[Path], champions: Champions) -> dict[str, str]:
    """Run to the run that made its backbone, also of runs that did not finish."""
    backbones = {run.run: run.backbone for run in champions.runs}
    for folder in folders:
        if folder.name not in backbones and (folder / PINS).exists():
            try:
                backbones[folder.name] = str(
                    json.loads((folder / PINS).read_text())["backbone"]["folder"]
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{folder / PINS}: expected the pins of a retraining, cannot read them; remove "
                    "this folder by hand if nobody needs it"
                ) from error
    return {run: PurePosixPath(folder).parts[0] for run, folder in backbones.items()}


def _with_backbones(kept: set[str], backbones: Mapping[str, str]) -> set[str]:
    """These runs, and those whose backbones they start from."""
    found = kept | {backbones[run] for run in kept if run in backbones}
    return found if found == kept else _with_backbones(found, backbones)


def _remove(files: OldFiles) -> None:
    if files.what == "checkpoint":
        files.path.unlink(missing_ok=True)
        return
    path = files.path
    if files.what == "retraining":  # a half-removed run must not look like a run
        path = path.rename(path.with_name(REMOVING + path.name))
    shutil.rmtree(path)


def _is_locked(folder: Path) -> bool:
    """Whether a process trains in a retraining."""
    for stage in (PRETRAIN_FOLDER, FINETUNE_FOLDER):
        lock = folder / stage / LOCK
        if lock.exists():
            try:
                with locks.hold_lock(lock, repairs=False):
                    pass
            except StoreBusy:
                return True
    return False


def _last_change(folder: Path) -> float:
    """The newest time of change of the files, locks left out; of an empty folder its own."""
    times = [p.stat().st_mtime for p in folder.rglob("*") if p.is_file() and p.name != LOCK]
    return max(times, default=folder.stat().st_mtime)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
