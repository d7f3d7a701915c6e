"""Tables of a run that grow with its steps, such as the loss curve `history.csv`.

A resumed run has rows of the same steps as an uninterrupted one.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from voco_data.errors import InputError
from voco_models.processes import is_first_process

log = logging.getLogger(__name__)

HistoryRow = dict[str, float]
"""One row of the history: step, lr, loss, other scalars, seconds."""

HISTORY = "history.csv"
FIRST_COLUMNS = ("step", "lr", "loss")
LAST_COLUMNS = ("seconds",)


def read_history(run: Path, name: str = HISTORY) -> list[HistoryRow]:
    """Rows of `RUN/history.csv`, or of another table; oldest first; empty if there is no file.

    A last line without a line end is left out: it is incomplete, after a power failure. Raises
    InputError if another line has no number for each column, or no step.
    """
    path = run / name
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a table of numbers, cannot read it") from error
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    rows = []
    for number, row in enumerate(csv.DictReader(lines), start=2):
        try:
            if None in row:
                raise ValueError("more values than columns")
            numbers = {column: float(value) for column, value in row.items()}
            if not math.isfinite(numbers["step"]):
                raise ValueError("no step")
            rows.append(numbers)
        except (ValueError, TypeError, KeyError) as error:  # a text, fewer values, or no step
            raise InputError(
                f"{path}: line {number}: expected a step, and a number for each column; restore "
                "the file from a copy"
            ) from error
    return rows


def restore_history(
    run: Path, saved: list[HistoryRow] | None, *, after: int, every: int, last: int
) -> None:
    """Make `RUN/history.csv` that of the checkpoint at step `after`, before its run goes on.

    Rows that are missing or have other values are restored from `saved`, the rows in the
    checkpoint, with a warning: a power failure may lose rows that the checkpoint has. `every` and
    `last` are as for `History`. A checkpoint of an older version has no rows (None). Then
    InputError is raised if the table lacks a row, but for the last one, which a power failure may
    have torn.
    """
    path = run / HISTORY
    try:
        rows = read_history(run)
    except InputError:
        if saved is None:
            raise
        rows = []
    kept = _rows_to_keep(rows, after, every, last)
    if saved is None:
        _check_steps(path, [row["step"] for row in kept], after, every, last)
        return
    expected = [_texts(row) for row in _rows_to_keep(saved, after, every, last)]
    equal = [_texts(row) for row in kept if _texts(row) in expected]
    if len(equal) == len(kept) == len(expected) or not is_first_process():
        return
    log.warning(
        "%s: %d of the %d rows up to step %d are as in checkpoint.pt; all are restored from there",
        path,
        len(equal),
        len(expected),
        after,
    )
    _replace_table(path, list(saved[0]) if saved else [], saved)


def _check_steps(path: Path, found: Sequence[float], after: int, every: int, last: int) -> None:
    """Raise InputError if rows up to step `after` are missing, without others to restore them."""
    expected = [step for step in range(1, after + 1) if step % every == 0 or step == last]
    if not path.exists() and expected:
        log.warning("%s: found none, so the history begins after step %d", path, after)
    elif list(found) not in (expected, expected[:-1]):
        raise InputError(
            f"{path}: expected a row for every {every} steps up to step {after} of checkpoint.pt, "
            f"{len(expected)} rows, found {len(found)}; restore the file from a copy, or remove it "
            f"to go on with a history that begins after step {after}"
        )


class History:
    """Appends rows to a table of a run. Columns: step, lr, loss, the others by name, seconds.

    Of the named columns, those that a table lacks are left out. Only the first of several processes
    writes.
    """

    def __init__(
        self, run: Path, *, after: int, every: int, last: int, name: str = HISTORY
    ) -> None:
        """Continue after step `after`. A row covers `every` steps; `last` is the horizon.

        Removes later rows, and the row of an early stop (neither a multiple of `every` nor the
        `last` step), because an uninterrupted run would not have it.
        """
        self._path = run / name
        self.rows = _rows_to_keep(read_history(run, name), after, every, last)
        """The rows of the table."""
        self._columns = list(self.rows[0]) if self.rows else []
        if is_first_process():
            _replace_table(self._path, self._columns, self.rows)

    def append(self, row: dict[str, float]) -> None:
        """Append a row. All rows must have the columns of the first one."""
        is_first = not self._columns
        if is_first:
            middle = sorted(set(row) - {*FIRST_COLUMNS, *LAST_COLUMNS})
            ordered = [*FIRST_COLUMNS, *middle, *LAST_COLUMNS]
            self._columns = [column for column in ordered if column in row]
        self.rows.append({name: float(row[name]) for name in self._columns})
        if is_first_process():
            with self._path.open("a", newline="") as file:
                _write(file, self._columns, self.rows[-1:], header=is_first)


def _rows_to_keep(
    rows: Sequence[HistoryRow], after: int, every: int, last: int
) -> list[HistoryRow]:
    """Rows up to step `after`, without that of an early stop."""
    return [
        row
        for row in rows
        if row["step"] <= after and (row["step"] % every == 0 or row["step"] == last)
    ]


def _replace_table(path: Path, columns: Sequence[str], rows: Sequence[HistoryRow]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="") as file:
        if rows:
            _write(file, columns, rows, header=True)
    temporary.replace(path)


def _write(
    file: TextIO, columns: Sequence[str], rows: Sequence[HistoryRow], *, header: bool
) -> None:
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(map(_texts, rows))


def _texts(row: HistoryRow) -> dict[str, str]:
    """A step as a whole number, other values with all digits of the double."""
    return {
        name: str(int(value)) if name == "step" else repr(float(value))
        for name, value in row.items()
    }
