"""The loss curve of a run, `history.csv`: a row every `log_every` steps, also after a resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TextIO

HISTORY = "history.csv"
LEADING = ("step", "lr", "loss")
TRAILING = ("seconds",)


def read_history(run: Path) -> list[dict[str, float]]:
    """Rows of `RUN/history.csv`, oldest first; none where there is no file.

    A last line without a line end was not written whole, after a power failure, and is left out.
    """
    path = run / HISTORY
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


class History:
    """Appends rows to `RUN/history.csv`. Columns: step, lr, loss, the other parts, seconds."""

    def __init__(self, run: Path, *, after: int, every: int, last: int) -> None:
        """Continue after step `after`.

        Later rows are removed, and so is the row of an early stop (neither a multiple of `every`
        nor the `last` step), because an uninterrupted run would not have it.
        """
        self._path = run / HISTORY
        kept = [
            row
            for row in read_history(run)
            if row["step"] <= after and (row["step"] % every == 0 or row["step"] == last)
        ]
        self._columns = list(kept[0]) if kept else []
        temporary = self._path.with_name(f".{HISTORY}.tmp")
        with temporary.open("w", newline="") as file:
            if kept:
                self._write(file, kept, header=True)
        temporary.replace(self._path)

    def append(self, row: dict[str, float]) -> None:
        """Add one row; every row must have the parts of the first."""
        first = not self._columns
        if first:
            middle = sorted(set(row) - {*LEADING, *TRAILING})
            self._columns = [*LEADING, *middle, *TRAILING]
        with self._path.open("a", newline="") as file:
            self._write(file, [row], header=first)

    def _write(self, file: TextIO, rows: list[dict[str, float]], *, header: bool) -> None:
        writer = csv.DictWriter(file, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _format(name, row[name]) for name in self._columns})


def _format(name: str, value: float) -> str:
    """Steps as whole numbers, the rest with all digits that the double needs."""
    return str(int(value)) if name == "step" else repr(float(value))
