"""Changes of RUNS/champion.json: a retraining ended, a promotion by hand, a rollback.

One process at a time changes the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from voco_data.errors import InputError
from voco_data.selection import now
from voco_data.storage import locks
from voco_data.withdrawal import TAINTED
from voco_models.tracking.champions import (
    CHAMPION_FILE,
    FINETUNE_FOLDER,
    Champions,
    Event,
    Kind,
    RetrainedRun,
    is_tainted,
    read_champions,
    write_champions,
)
from voco_models.tracking.promotion import Verdict

LOCK_S = 60.0
"""Time to wait for another process that changes the file."""


@contextmanager
def lock_champions(runs: Path) -> Iterator[Champions]:
    """The champions of RUNS, which no other process changes while the block runs."""
    with locks.hold_lock(runs / f".{CHAMPION_FILE}.lock", wait_seconds=LOCK_S):
        yield read_champions(runs)


def record_run(runs: Path, run: RetrainedRun, verdict: Verdict, against: str | None) -> Champions:
    """Record a finished retraining and its verdict; a run that is recorded already stays so.

    `against` is the champion that it was compared with. If another run is champion by now, or the
    run is tainted by now, it is kept as a challenger.
    """
    with lock_champions(runs) as champions:
        if champions.find(run.run) is not None:
            return champions
        promoted, reason = verdict.promoted, verdict.reason
        if promoted and champions.champion != against:
            promoted = False
            reason = f"the champion changed to {champions.champion} meanwhile; not compared with it"
        kind: Kind = "promoted" if promoted else "kept"
        event = replace(_event(champions, kind, run.run, reason), scored=verdict.scored)
        changed = champions.with_event(event, run)
        write_champions(runs, changed)
        return changed


def promote_by_hand(runs: Path, name: str, reason: str) -> Champions:
    """Make a run champion. `name` is its folder, in `runs` or as a path.

    Raises InputError for a run that is unknown, gone, tainted or champion already.
    """
    with lock_champions(require_champions(runs)) as champions:
        run = _find_run(runs, champions, name)
        if run == champions.champion:
            raise InputError(f"{run} is the champion already")
        _check_usable(runs, champions, run)
        return _change(runs, champions, "promoted by hand", run, reason)


def roll_back(runs: Path, reason: str) -> Champions:
    """Make the champion before this one champion again.

    Raises InputError if there is none, or if it is gone or tainted.
    """
    with lock_champions(require_champions(runs)) as champions:
        run = champions.predecessor
        if run is None:
            raise InputError(f"{runs / CHAMPION_FILE}: no champion before this one to roll back to")
        _check_usable(runs, champions, run)
        return _change(runs, champions, "rolled back", run, reason)


def require_champions(runs: Path) -> Path:
    """The folder itself. Raises InputError if it has no RUNS/champion.json."""
    if not (runs / CHAMPION_FILE).exists():
        raise InputError(
            f"{runs}: expected the folder of retrainings with {CHAMPION_FILE}, found none; the "
            "flow retrain makes it"
        )
    return runs


def _change(runs: Path, champions: Champions, kind: Kind, run: str, reason: str) -> Champions:
    changed = champions.with_event(_event(champions, kind, run, reason))
    write_champions(runs, changed)
    return changed


def _event(champions: Champions, kind: Kind, run: str, reason: str) -> Event:
    return Event(now(), kind, run, champions.champion, reason)


def _find_run(runs: Path, champions: Champions, name: str) -> str:
    path = Path(name)
    inside = path.resolve().parent == runs.resolve()
    wanted = path.name if inside else name
    if champions.find(wanted) is None:
        known = ", ".join(run.run for run in champions.runs) or "none"
        raise InputError(f"{name}: expected a finished retraining of {runs}: {known}")
    return wanted


def _check_usable(runs: Path, champions: Champions, run: str) -> None:
    if is_tainted(runs, champions, run):
        raise InputError(
            f"{run} has learnt from a withdrawn patient ({TAINTED}) and cannot be champion; "
            "retrain, or promote another run"
        )
    if not (runs / run / FINETUNE_FOLDER).is_dir():
        raise InputError(
            f"{runs / run}: its classifier is gone; restore the folder, or promote another run"
        )
