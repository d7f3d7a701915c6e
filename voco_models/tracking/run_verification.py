"""Check the files of training runs: by their digests, or by reading them where there are none.

A run that has ended has digests of all its files. Of a run that trains, that was stopped, or that
an older version wrote, every file is read: it is whole if it can be. Nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voco_data.errors import InputError, VocoError
from voco_data.selection import PinnedRows, SeenPatients, read_split
from voco_data.storage import parquet
from voco_data.withdrawal import TAINTED, Withdrawals, is_tainted, read_mark
from voco_models.evaluation import looks, report
from voco_models.networks import read_header, read_weights
from voco_models.tracking.pins import LABELS, PINS, ROWS, SPLIT, read_pins
from voco_models.training import (
    CAPTURE,
    Fault,
    checkpoint,
    find_faults,
    hash_file,
    list_artifacts,
    read_history,
    read_state,
)

FINISHED_FILES = (*looks.FROZEN, SPLIT)
FINISHED_FOLD_FILES = ("checkpoint.pt", "history.csv", "predictions.parquet")
"""Files that a finished fine-tuning run has."""
PINNED = (PINS, ROWS, SPLIT, LABELS)
"""Files of the pins of a retraining."""


@dataclass(frozen=True, slots=True)
class VerifiedRun:
    """The result for one run."""

    run: str
    stage: str
    result: str
    """`ok`, or the first problem."""
    files: int
    """Number of files that were checked."""
    digests: bool
    """Whether they were compared with digests. If not, they were only read."""
    problems: tuple[str, ...]
    """One line each, with the path of the file."""


@dataclass(frozen=True, slots=True)
class VerifyRunsSummary:
    """Result of the verification of runs."""

    runs: tuple[VerifiedRun, ...]

    def to_json(self) -> dict[str, object]:
        """As `voco run verify --json` prints it."""
        rows = [asdict(run) for run in self.runs]
        for row in rows:
            del row["problems"]
        return {"runs": rows, "problems": [line for run in self.runs for line in run.problems]}


def verify_runs(folders: Sequence[str | Path]) -> VerifyRunsSummary:
    """Check run folders, and folders of retrainings with the runs in them.

    Raises InputError, before anything is checked, if one of `folders` is neither.
    """
    found = [run for folder in folders for run in _find_runs(Path(folder))]
    return VerifyRunsSummary(tuple(map(_verify, found)))


def _find_runs(folder: Path) -> list[Path]:
    """The run at `folder`; of a retraining, its pins and the runs in it."""
    if (folder / PINS).is_file():
        return [folder, *sorted(path.parent for path in folder.glob(f"*/{checkpoint.RUN_FILE}"))]
    if (folder / checkpoint.RUN_FILE).exists() or list_artifacts(folder, None):
        return [folder]
    raise InputError(
        f"{folder}: expected the folder of a voco run, with {checkpoint.RUN_FILE}, or of a "
        f"retraining, with {PINS}"
    )


def _verify(run: Path) -> VerifiedRun:
    if (run / PINS).is_file():
        return _result(
            run, "retraining", "ok: its files can be read", PINNED, list(_read_pins(run))
        )
    try:
        description = checkpoint.read_run(run)
    except InputError:
        state = "unreadable" if (run / checkpoint.RUN_FILE).exists() else "missing"
        return _result(run, "", "", (), [f"{run / checkpoint.RUN_FILE}: {state}"])
    stage = str(description.get("stage", ""))
    try:
        if description.get(checkpoint.FILES) is None:
            files, ok = list_artifacts(run, stage), _explain_no_digests(description)
            problems = [*_read_files(run, files), *_find_missing(run, description)]
        else:
            faults = list(find_faults(run, description))
            table, ok = description[checkpoint.FILES], "ok"
            files = list(table) if isinstance(table, dict) else []
            if _was_removed_by_retention(run, description, faults):
                faults, ok = [], "ok, without checkpoint.pt, which voco retention removes"
            problems = [f"{run}/{fault.text}" for fault in faults]
        for path, problem in _check_records(run):
            if not any(line.startswith(f"{path}: ") for line in problems):
                problems.append(problem)
    except VocoError as error:  # the record of forgotten patients cannot be read
        return _result(run, stage, "", (), [str(error)])
    is_compared = description.get(checkpoint.FILES) is not None
    return _result(run, stage, ok, files, problems, digests=is_compared)


def _result(
    run: Path,
    stage: str,
    ok: str,
    files: Sequence[str],
    problems: Sequence[str],
    *,
    digests: bool = False,
) -> VerifiedRun:
    first = "".join(problems[:1]).removeprefix(f"{run}/")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return VerifiedRun(
        run=str(run),
        stage=stage,
        result=f"{first}{more}" if problems else ok,
        files=len(files),
        digests=digests,
        problems=tuple(problems),
    )


def _explain_no_digests(description: Mapping[str, Any]) -> str:
    if checkpoint.FILES in description:
        return "ok, has not ended: its files can be read"
    return "ok, of an older version without digests: its files can be read"


def _was_removed_by_retention(
    run: Path, description: Mapping[str, Any], faults: Sequence[Fault]
) -> bool:
    """Whether all that is missing is the checkpoint of a pretraining in a retraining."""
    is_pretraining = description.get("stage") == "pretrain" and (run.parent / PINS).is_file()
    return is_pretraining and [fault.text for fault in faults] == [
        f"{checkpoint.CHECKPOINT}: missing"
    ]


def _read_files(run: Path, files: Sequence[str]) -> Iterator[str]:
    """A line for each file that cannot be read."""
    for name in files:
        try:
            _reader_of(name)(run / name)
        except VocoError as error:
            yield str(error)


def _reader_of(name: str) -> Callable[[Path], object]:
    """The function that reads a file, and raises InputError if it is damaged."""
    path = Path(name)
    by_name: dict[str, Callable[[Path], object]] = {
        checkpoint.CHECKPOINT: read_state,
        checkpoint.BACKBONE: checkpoint.load_backbone,
        SPLIT: read_split,
        "patients.json": lambda path: SeenPatients.read(path.parent),
    }
    by_suffix: dict[str, Callable[[Path], object]] = {
        ".csv": lambda path: read_history(path.parent, path.name),
        ".parquet": lambda path: parquet.read_frame(path, "a table of a run"),
        ".safetensors": lambda path: (read_header(path), read_weights(path)),
        ".json": _read_json,
        ".html": _read_page,
    }
    return by_name.get(path.name) or by_suffix[path.suffix]


def _find_missing(run: Path, description: Mapping[str, Any]) -> Iterator[str]:
    """Files that a finished fine-tuning run lacks; other runs may have stopped at any moment."""
    if description.get("stage") != "finetune" or description.get("finished") is not True:
        return
    recipe = description.get("recipe")
    n_folds = recipe.get("n_folds") if isinstance(recipe, dict) else None
    if type(n_folds) is not int:
        yield f"{run / checkpoint.RUN_FILE}: changed, it has no recipe with n_folds"
        return
    folds = [f"fold-{i}/{name}" for i in range(n_folds) for name in FINISHED_FOLD_FILES]
    for name in (*FINISHED_FILES, *folds):
        if not (run / name).exists():
            yield f"{run / name}: missing"


def _check_records(run: Path) -> Iterator[tuple[Path, str]]:
    """File and problem of what is written after the end: evaluations, marks, a captured step."""
    readers: dict[str, Callable[[Path], object]] = {
        TAINTED: lambda path: read_mark(path.parent),
        report.METRICS: _read_json,
        CAPTURE: checkpoint.load,
    }
    for name, read in readers.items():
        if (run / name).exists():
            try:
                read(run / name)
            except InputError as error:
                yield run / name, str(error)
    try:
        recorded = _digests_of_looks(run)
    except InputError as error:
        yield run / looks.FILE, str(error)
        return
    withdrawals = Withdrawals.read(run)
    for name, digest in recorded.items():
        path = run / name
        if not path.exists():
            if path.suffix != ".html" or not (withdrawals.entries or is_tainted(run)):
                yield path, f"{path}: missing"
        elif path.is_file() and not withdrawals.explains(name, digest, hash_file(path)):
            yield path, f"{path}: changed since the test set was opened"


def _digests_of_looks(run: Path) -> dict[str, str]:
    """File to digest: of what was scored at the first look at the test set, also in older versions,
    and of the results of the last evaluation that was written to the run itself.
    """
    opened = looks.read_looks(run)
    evaluations = [look for look in opened if look.kind == "evaluation" and look.out == "."]
    scored = opened[0].sha256 if opened else {}
    return {**scored, **(evaluations[-1].results if evaluations else {})}


def _read_pins(folder: Path) -> Iterator[str]:
    """A line for each file of the pins of a retraining that cannot be read."""
    readers: dict[str, Callable[[], object]] = {
        PINS: lambda: read_pins(folder),
        ROWS: lambda: PinnedRows.read(folder / ROWS),
        SPLIT: lambda: read_split(folder / SPLIT),
        LABELS: lambda: _read_text(folder / LABELS),
    }
    for read in readers.values():
        try:
            read()
        except VocoError as error:
            yield str(error)


def _read_json(path: Path) -> object:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: unreadable, expected a JSON object") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: unreadable, expected a JSON object")
    return data


def _read_page(path: Path) -> object:
    text = _read_text(path)
    if not text.rstrip().endswith("</html>"):
        raise InputError(f"{path}: torn, it does not end as a page")
    return text


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: unreadable, expected text") from error
