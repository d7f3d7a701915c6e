"""Tables of a run that grow with its steps, such as the loss curve `history.csv`.

A resumed run has rows of the same steps as an uninterrupted one.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TextIO

from voco_models.processes import is_first_process

HISTORY = "history.csv"
FIRST_COLUMNS = ("step", "lr", "loss")
LAST_COLUMNS = ("seconds",)


def read_history(run: Path, name: str = HISTORY) -> list[dict[str, float]]:
    """Rows of `RUN/history.csv`, or of another table; oldest first; empty if there is no file.

    A last line without a line end is left out: it is incomplete, after a power failure.
    """
    path = run / name
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


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
        rows = [
            row
            for row in read_history(run, name)
            if row["step"] <= after and (row["step"] % every == 0 or row["step"] == last)
        ]
        self._columns = list(rows[0]) if rows else []
        if not is_first_process():
            return
        temporary = self._path.with_name(f".{name}.tmp")
        with temporary.open("w", newline="") as file:
            if rows:
                self._write(file, rows, header=True)
        temporary.replace(self._path)

    def append(self, row: dict[str, float]) -> None:
        """Append a row. All rows must have the columns of the first one."""
        if not is_first_process():
            return
        is_first = not self._columns
        if is_first:
            middle = sorted(set(row) - {*FIRST_COLUMNS, *LAST_COLUMNS})
            ordered = [*FIRST_COLUMNS, *middle, *LAST_COLUMNS]
            self._columns = [column for column in ordered if column in row]
        with self._path.open("a", newline="") as file:
            self._write(file, [row], header=is_first)

    def _write(self, file: TextIO, rows: list[dict[str, float]], *, header: bool) -> None:
        writer = csv.DictWriter(file, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _format(name, row[name]) for name in self._columns})


def _format(name: str, value: float) -> str:
    """A step as a whole number, other values with all digits of the double."""
    return str(int(value)) if name == "step" else repr(float(value))
