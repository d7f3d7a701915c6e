"""The results of an experiment, and their files.

OUT/runs.csv        one line for each run, with its scores
OUT/tables.md       the tables
OUT/report.html     the same as a page
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from voco_data.errors import VocoError
from voco_data.storage import atomic

log = logging.getLogger(__name__)

RUNS_TABLE, TABLES, REPORT = "runs.csv", "tables.md", "report.html"

Row = dict[str, str]
"""A line of a table: texts by column."""


@dataclass(frozen=True, slots=True)
class Results:
    """The comparison of all runs of an experiment."""

    tables: Mapping[str, Sequence[Row]]
    """By title; empty ones are left out."""
    runs: pd.DataFrame
    """A line for each trial."""
    page: str
    test_patients: int
    scores: list[dict[str, object]]
    """A line for each cell: its place, and each score with its interval; see `Score`."""

    def write(self, out: Path) -> None:
        """Write the files, and log the tables. Raises VocoError if they cannot be written."""
        texts = [f"## {name}\n\n{format_table(rows)}" for name, rows in self.tables.items() if rows]
        try:
            atomic.write_text(out / RUNS_TABLE, self.runs.to_csv(index=False))
            atomic.write_text(out / TABLES, "\n\n".join(texts) + "\n")
            atomic.write_text(out / REPORT, self.page)
        except OSError as error:
            raise VocoError(f"{out}: cannot write the results ({error.strerror})") from error
        log.info("%s", "\n\n".join(texts))


def format_table(rows: Sequence[Row]) -> str:
    """A table as Markdown, with columns of equal width."""
    if not rows:
        return ""
    rows = [{_escape(column): _escape(text) for column, text in row.items()} for row in rows]
    columns = list(rows[0])
    widths = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}

    def line(values: Mapping[str, str]) -> str:
        return "| " + " | ".join(values[c].ljust(widths[c]) for c in columns) + " |"

    rule = "|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|"
    return "\n".join([line({c: c for c in columns}), rule, *map(line, rows)])


def _escape(text: str) -> str:
    """A text that does not end its cell: names of arms may be any."""
    return " ".join(text.split()).replace("|", "\\|")
