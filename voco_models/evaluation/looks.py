"""The record of looks at a run's test set, `RUN/evaluations.json`.

The test set is opened once. Calibration and thresholds are fitted before, on out-of-fold
predictions. A score that was chosen among several looks is no longer the score of unseen patients,
so every further look is asked for with `--again`, and counted where the scores stand.

    {"format": "voco evaluations", "version": 1,
     "looks": [{"kind": "evaluation", "time": "2026-03-01T03:00:00Z", "voco": "0.1.0", "out": ".",
                "against": null,
                "sha256": {"decision.json": ..., "predictions.parquet": ..., ...},
                "results": {"metrics.json": ..., "report.html": ...}}]}

`kind` is `evaluation` or `comparison`. `out` is relative to the run, so that a moved run keeps it.
Looks of versions that had no record are unknown. A lock file beside the record lets one process at
a time open the test set: another one must know of this look.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from voco_data.errors import InputError, VocoError
from voco_data.storage import atomic, locks
from voco_data.version import VERSION
from voco_data.withdrawal import Withdrawals
from voco_models.evaluation import predictions
from voco_models.evaluation.decision import DECISION_FILE

FILE = "evaluations.json"
FORMAT, FORMAT_VERSION = "voco evaluations", 1
LABELS_FILE = "labels.parquet"
FROZEN = (DECISION_FILE, predictions.FILE, LABELS_FILE)
"""Files of a run that may not change after its test set was opened, but for a forgotten patient."""

LOCK_S = 600.0
"""Time to wait for another process that evaluates or compares the run."""

Kind = Literal["evaluation", "comparison"]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the test set of a run."""

    kind: Kind
    time: str
    """UTC, ISO 8601."""
    voco: str
    """Version of this software."""
    out: str
    """Folder of the results, relative to the run."""
    sha256: Mapping[str, str]
    """Digests of the files `FROZEN`."""
    against: str | None = None
    """The other run of a comparison, relative to this one."""
    results: Mapping[str, str] = field(default_factory=dict)
    """Digests of the files of an evaluation that were written to the run itself."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A permitted look at the test set of `run`, which `record` writes down."""

    run: Path
    look: Look
    earlier: tuple[Look, ...]
    is_new: bool
    """False if an evaluation that has been recorded already is completed."""

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the run, with this one."""
        return self._count("evaluation")

    @property
    def comparisons(self) -> int:
        """Number of comparisons of the run with others, with this one."""
        return self._count("comparison")

    def record(self) -> None:
        """Append a new look to `RUN/evaluations.json`. VocoError if it cannot be written."""
        if self.is_new:
            _write_looks(self.run, (*self.earlier, self.look))

    def record_results(self, names: Sequence[str]) -> None:
        """Record the digests of the files of a complete evaluation, if they are in the run itself.

        VocoError if it cannot be written.
        """
        if self.look.out != ".":
            return
        look = replace(self.look, results={name: _digest(self.run / name) for name in names})
        _write_looks(
            self.run, [look if each == self.look else each for each in read_looks(self.run)]
        )

    def _count(self, kind: Kind) -> int:
        looks = (*self.earlier, self.look) if self.is_new else self.earlier
        return sum(look.kind == kind for look in looks)


@contextmanager
def hold_records(*runs: Path) -> Iterator[None]:
    """Let no other process open the test sets of `runs`, from before the look until it is recorded.

    Raises StoreBusy if another one does for more than `LOCK_S`. Of a folder that cannot be written
    no look is recorded, so it is not locked.
    """
    with ExitStack() as stack:
        # In one order, so that two comparisons do not wait for one another.
        for run in sorted({run.resolve() for run in runs}):
            if os.access(run, os.W_OK):
                stack.enter_context(locks.hold_lock(run / f".{FILE}.lock", wait_seconds=LOCK_S))
        yield


def open_for_evaluation(
    run: Path, out: Path, results: Sequence[str], *, again: bool = False, resume: bool = False
) -> Opening:
    """Ask for an evaluation of `run` that writes the files `results` to `out`.

    An evaluation to the same folder that lacks one of its files was interrupted, and is completed
    without a new look. With `resume`, also a complete one is made again: the caller knows that it
    is a retry. Raises InputError for a second look without `again`, and if a file of `FROZEN`
    changed since the first look. Raises VocoError if the look could not be recorded.
    """
    earlier = read_looks(run)
    look = _make_look(run, "evaluation", out)
    _check_unchanged(run, look, earlier)
    evaluations = [e for e in earlier if e.kind == "evaluation"]
    same_folder = [e for e in evaluations if e.out == look.out]
    is_complete = all((out / name).exists() for name in results)
    if same_folder and (resume or not is_complete):
        return Opening(run, same_folder[-1], earlier, is_new=False)
    if evaluations and not again:
        raise InputError(
            f"{run}: the test set was opened at {evaluations[0].time} and is opened once; "
            "the results are in "
            f"{os.path.normpath(run / evaluations[-1].out)}; give --again for another look, "
            "which is counted"
        )
    _check_writable(run)
    return Opening(run, look, earlier, is_new=True)


def open_for_comparison(run: Path, out: Path, against: Path) -> Opening:
    """Ask for a comparison of `run` with the run `against`, written to `out`.

    Comparisons are counted and need no `--again`. One that is made again, to the same folder with
    the same run, is the same look. Raises InputError if a file of `FROZEN` changed since the first
    look, and VocoError if the look could not be recorded.
    """
    earlier = read_looks(run)
    look = _make_look(run, "comparison", out, against)
    _check_unchanged(run, look, earlier)
    is_new = not any(
        e.kind == look.kind and (e.out, e.against) == (look.out, look.against) for e in earlier
    )
    if is_new:
        _check_writable(run)
    return Opening(run, look, earlier, is_new)


def read_looks(run: Path) -> tuple[Look, ...]:
    """The looks at the test set of `run`, oldest first; none without a record."""
    path = run / FILE
    try:
        data = json.loads(path.read_text())
        if (data["format"], data["version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError("another format")
        return tuple(_parse_look(look) for look in data["looks"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the record of looks at the test set, cannot read it; restore the "
            "file, or fine-tune a new run"
        ) from error


def _parse_look(values: Any) -> Look:
    look = Look(**values)
    if not isinstance(look.sha256, dict) or not isinstance(look.results, dict):
        raise TypeError("expected the digests of files")
    return look


def _check_writable(run: Path) -> None:
    """VocoError if a look could not be recorded: before the test set is opened."""
    if not os.access(run, os.W_OK):
        raise VocoError(
            f"{run}: cannot record that the test set is opened, the folder is read-only; make it "
            "writable, or evaluate a copy"
        )


def _write_looks(run: Path, looks: Sequence[Look]) -> None:
    data = {"format": FORMAT, "version": FORMAT_VERSION, "looks": [asdict(look) for look in looks]}
    try:
        atomic.write_text(run / FILE, json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise VocoError(
            f"{run / FILE}: cannot record that the test set was opened ({error.strerror})"
        ) from error


def _make_look(run: Path, kind: Kind, out: Path, against: Path | None = None) -> Look:
    return Look(
        kind=kind,
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        voco=VERSION,
        out=_relative(out, run),
        sha256={name: _digest(run / name) for name in FROZEN},
        against=None if against is None else _relative(against, run),
    )


def _relative(path: Path, run: Path) -> str:
    """`path` as seen from `run`, with forward slashes."""
    return Path(os.path.relpath(path.resolve(), run.resolve())).as_posix()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path}: expected a file of a finished fine-tuning run, cannot read it"
        ) from error


def _check_unchanged(run: Path, look: Look, earlier: Sequence[Look]) -> None:
    """InputError if a file differs from what it was at the first look."""
    if not earlier:
        return
    first, withdrawals = earlier[0], Withdrawals.read(run)
    for name, digest in first.sha256.items():
        now = look.sha256.get(name, "")
        if withdrawals.is_unfinished(name, now):
            raise InputError(
                f"{run / name}: holds a patient who was forgotten; complete it with the same voco "
                "forget"
            )
        if not withdrawals.explains(name, digest, now):
            raise InputError(
                f"{run / name}: changed since the test set was opened at {first.time}; what is "
                "made after that is not scored; restore the file, or fine-tune a new run"
            )
