"""A summary as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.summary import Summary, flatten

Row = Mapping[str, Any]


def lines(summary: Summary) -> Iterator[str]:
    """A `name  value` line for each entry, and a table for each list of rows.

    Entries that are empty are left out.
    """
    entries = {name: value for name, value in flatten(summary).items() if value not in (None, [])}
    width = max(map(len, entries), default=0)
    for name, value in entries.items():
        if _is_table(value):
            yield from table(value)
        else:
            yield f"{name:<{width}}  {_text(value)}"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Aligned columns under their names: those of the first row that hold single values."""
    names = [name for name, value in rows[0].items() if not isinstance(value, list | Mapping)]
    cells = [names, *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) for row in value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
