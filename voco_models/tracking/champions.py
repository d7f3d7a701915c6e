"""The champion of a folder of retrainings, its challengers and the history: RUNS/champion.json.

    {"format": "voco champion", "version": 2, "champion": <name of the run's folder>,
     "runs": [{"run": ..., "backbone": ..., "finished": ..., "digests": {...}, "learnt": {...}}],
     "history": [{"time": ..., "event": ..., "run": ..., "before": ..., "reason": ...,
                  "scored": {...}}],
     "sha256": <of the rest>}

The champion follows from the history. The digest shows an edit by hand. The version before the last
change is in RUNS/champion.previous.json. Files of version 1 lack `learnt` and `scored`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from voco_data import withdrawal
from voco_data.errors import InputError, VocoError
from voco_data.storage import atomic
from voco_models.tracking.scores import ScoredRun

CHAMPION_FILE, PREVIOUS_FILE = "champion.json", "champion.previous.json"
FORMAT, VERSION = "voco champion", 2
READABLE = (1, 2)
"""Versions that are read. The next change writes the newest one."""
PRETRAIN_FOLDER, FINETUNE_FOLDER, EVALUATE_FOLDER = "pretrain", "finetune", "evaluate"
"""Folders inside the folder of a retraining."""

Kind = Literal["promoted", "kept", "promoted by hand", "rolled back"]
"""What happened to a run. `kept`: as a challenger. `rolled back`: it is champion again."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a retraining had to learn from."""

    patients: int
    """With labels."""
    unlabelled: int
    series: int
    """In the store for fine-tuning."""
    new_series: int | None
    """Those that the retraining before did not have; None if its pins are gone."""
    backbone: str
    """Why it pretrained, or did not."""


@dataclass(frozen=True, slots=True)
class RetrainedRun:
    """One finished retraining."""

    run: str
    """Name of its folder in RUNS."""
    backbone: str
    """Folder of the pretraining that it starts from, relative to RUNS."""
    finished: str
    """UTC, ISO 8601."""
    digests: Mapping[str, str]
    """Of what it was made from: rows, labels, recipes."""
    learnt: Learnt | None = None
    """None in files of version 1."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the history."""

    time: str
    """UTC, ISO 8601."""
    event: Kind
    run: str
    before: str | None
    """The champion before the event."""
    reason: str
    scored: ScoredRun | None = None
    """Of the end of a retraining; None if it has no score, and in files of version 1."""


@dataclass(frozen=True, slots=True)
class Champions:
    """The finished retrainings of a folder, oldest first, and what happened to them."""

    runs: tuple[RetrainedRun, ...] = ()
    history: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        names = [run.run for run in self.runs]
        if len(set(names)) < len(names):
            raise InputError("a run is listed twice")
        for event in self.history:
            if event.run not in names:
                raise InputError(f"the history names {event.run}, which is not among the runs")

    @property
    def champion(self) -> str | None:
        """Name of the champion; None before the first promotion."""
        reign = self._reigns()
        return reign[-1] if reign else None

    @property
    def predecessor(self) -> str | None:
        """The champion before this one, which a rollback brings back."""
        reign = self._reigns()
        return reign[-2] if len(reign) > 1 else None

    def _reigns(self) -> list[str]:
        """Champions in order, without those that were rolled back."""
        reigns: list[str] = []
        for event in self.history:
            if event.event == "rolled back":
                reigns.pop()
            elif event.event != "kept":
                reigns.append(event.run)
        return reigns

    @property
    def last(self) -> RetrainedRun | None:
        """The retraining that finished last."""
        return self.runs[-1] if self.runs else None

    def find(self, name: str) -> RetrainedRun | None:
        """The run of this name."""
        return next((run for run in self.runs if run.run == name), None)

    def status(self, name: str) -> str:
        """`champion`, `former champion` or `challenger`."""
        if name == self.champion:
            return "champion"
        crowned = {event.run for event in self.history if event.event != "kept"}
        return "former champion" if name in crowned else "challenger"

    def with_event(self, event: Event, run: RetrainedRun | None = None) -> Champions:
        """With one more event, and perhaps one more run."""
        runs = self.runs if run is None else (*self.runs, run)
        return replace(self, runs=runs, history=(*self.history, event))

    def to_json(self) -> str:
        """The text of the file."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "champion": self.champion,
            "runs": [asdict(run) for run in self.runs],
            "history": [asdict(event) for event in self.history],
        }
        return json.dumps(values | {"sha256": _digest(values)}, indent=1) + "\n"

    def describe(self, runs: Path) -> dict[str, Any]:
        """What `voco champion` prints: the champion, all runs, the history."""
        return {
            "champion": self.champion,
            "champion_tainted": self.champion is not None and is_tainted(runs, self, self.champion),
            "predecessor": self.predecessor,
            "runs": [
                {
                    "run": run.run,
                    "status": self.status(run.run),
                    "tainted": is_tainted(runs, self, run.run),
                    "finished": run.finished,
                    "backbone": run.backbone,
                }
                for run in self.runs
            ],
            "history": [asdict(event) for event in self.history],
        }


def read_champions(runs: Path) -> Champions:
    """Read RUNS/champion.json; nothing is in it if there is none.

    Raises InputError, of one line, if the file is torn, was edited, or is of another version.
    """
    path = runs / CHAMPION_FILE
    try:
        return _parse(json.loads(path.read_text()))
    except FileNotFoundError:
        return Champions()
    # IndexError: a rollback without a champion before
    except (OSError, ValueError, KeyError, TypeError, IndexError, InputError) as error:
        reason = str(error) if isinstance(error, InputError) else "it cannot be read"
        raise InputError(
            f"{path}: expected the file as voco wrote it, but {reason}; restore it, for instance "
            f"from {PREVIOUS_FILE} beside it"
        ) from error


def write_champions(runs: Path, champions: Champions) -> None:
    """Write RUNS/champion.json atomically, and keep the version before. VocoError if it fails."""
    path = runs / CHAMPION_FILE
    try:
        if path.exists():
            atomic.write_bytes(runs / PREVIOUS_FILE, path.read_bytes())
        atomic.write_text(path, champions.to_json())
    except OSError as error:
        raise VocoError(f"{path}: cannot write the champion ({error.strerror})") from error


def find_champions(folders: Iterable[Path]) -> list[Path]:
    """Folders of the champions under `folders`, at any depth, with their stages and backbones.

    Raises InputError as `read_champions`.
    """
    files = {file for folder in folders for file in folder.rglob(CHAMPION_FILE)}
    found: set[Path] = set()
    for runs in sorted(file.parent for file in files):
        champions = read_champions(runs)
        if champions.champion is not None:
            run = champions.find(champions.champion)
            assert run is not None  # a champion is among the runs
            folder = runs / run.run
            found |= {folder, folder / FINETUNE_FOLDER, folder / PRETRAIN_FOLDER}
            found.add(runs / run.backbone)
    return sorted(found)


def is_tainted(runs: Path, champions: Champions, name: str) -> bool:
    """Whether a run, its classifier or its backbone has learnt from a withdrawn patient."""
    run = champions.find(name)
    backbone = [] if run is None else [run.backbone]
    return folders_are_tainted(runs, name, *backbone)


def folders_are_tainted(runs: Path, *names: str) -> bool:
    """Whether a folder in RUNS, or one of its two stages or the folder around it, is tainted."""
    for name in names:
        folder = runs / name
        around = [folder.parent] if len(PurePosixPath(name).parts) > 1 else []
        for place in (folder, *around, folder / FINETUNE_FOLDER, folder / PRETRAIN_FOLDER):
            if withdrawal.is_tainted(place):
                return True
    return False


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _parse(data: Any) -> Champions:
    values = dict(data)
    digest = values.pop("sha256")
    if values["format"] != FORMAT or values["version"] not in READABLE:
        raise InputError("it is of another version")
    if digest != _digest(values):
        raise InputError("it was edited")
    champions = Champions(
        runs=tuple(_parse_run(run) for run in values["runs"]),
        history=tuple(_parse_event(event) for event in values["history"]),
    )
    places = [place for run in champions.runs for place in (run.run, run.backbone)]
    outside = [place for place in places if not {"..", "/"}.isdisjoint(PurePosixPath(place).parts)]
    unknown = [str(e.event) for e in champions.history if e.event not in get_args(Kind)]
    if outside or unknown or champions.champion != values["champion"]:
        raise InputError(f"its parts do not agree ({', '.join(outside + unknown) or 'champion'})")
    return champions


def _parse_run(values: Mapping[str, Any]) -> RetrainedRun:
    learnt = values.get("learnt")
    return RetrainedRun(**{**values, "learnt": None if learnt is None else Learnt(**learnt)})


def _parse_event(values: Mapping[str, Any]) -> Event:
    scored = values.get("scored")
    return Event(**{**values, "scored": None if scored is None else ScoredRun.from_json(scored)})
