"""A summary as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.summary import Summary, flatten

Row = Mapping[str, Any]

UNSHOWN = ("path",)
"""Columns that a person does without: the name says it, in half the width."""


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
            yield f"{name:<{width}}  {_text(name, value)}"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Aligned columns under their names: those of the first row that fit into a cell."""
    names = [name for name, value in rows[0].items() if name not in UNSHOWN and _fits(value)]
    cells = [names, *([_text(name, row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) for row in value)


def _fits(value: Any) -> bool:
    """Single values, and a shape such as a store's grid."""
    if isinstance(value, list):
        return all(isinstance(item, int) for item in value)
    return not isinstance(value, Mapping)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and any(part.endswith("bytes") for part in name.split(".")):
        return size(value)
    if isinstance(value, list):
        return ("x" if _fits(value) else ", ").join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def size(count: int) -> str:
    """Bytes in the unit that a person would name: `512 B`, `29.6 GB`. Steps of 1000."""
    amount, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while abs(amount) >= 999.95 and (larger := next(units, None)):
        amount, unit = amount / 1000, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
