"""A stage's summary: as plain JSON values, for `--json` and artifacts, and as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeAlias

from flows.terminal_text import escape_controls, shorten

Summary: TypeAlias = dict[str, Any]
"""Results of a stage: numbers, texts, paths as texts, and mappings or lists of them."""

Row: TypeAlias = Mapping[str, Any]

HIDDEN_COLUMNS = ("path",)
"""Columns that are left out of tables: the name contains the same in half the width."""


def to_json_values(summary: Mapping[str, Any]) -> Summary:
    """Replace paths by texts, and numbers that are not finite by None, as JSON has no NaN.

    An example is the score of a class without patients.
    """
    return {str(key): _plain_value(value) for key, value in summary.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return to_json_values(value)
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flatten(summary: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one level with dotted names; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in summary.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def format_lines(summary: Summary) -> Iterator[str]:
    """Iterate over lines: `name  value` for each entry, and a table for each list of rows.

    Empty entries are left out.
    """
    entries = {name: value for name, value in flatten(summary).items() if value not in (None, [])}
    width = max(map(len, entries), default=0)
    for name, value in entries.items():
        if _is_table(value):
            yield from format_table(value)
        else:
            yield f"{name:<{width}}  {_format_value(name, value)}"


def format_table(rows: Sequence[Row]) -> Iterator[str]:
    """Iterate over lines of aligned columns with a head. Values that fit no cell are left out."""
    names = [
        name for name, value in rows[0].items() if name not in HIDDEN_COLUMNS and _fits_cell(value)
    ]
    cells = [names] + [[_format_cell(name, row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _format_cell(name: str, value: Any) -> str:
    """A value on one line, so short that no id stretches the table."""
    return shorten(escape_controls(_format_value(name, value)).replace("\n", "\\n"))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) for row in value)


def _fits_cell(value: Any) -> bool:
    """Whether a value fits into a cell: single values, and a shape such as a store's grid."""
    if isinstance(value, list):
        return all(isinstance(item, int) for item in value)
    return not isinstance(value, Mapping)


def _format_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and any(part.endswith("bytes") for part in name.split(".")):
        return format_bytes(value)
    if isinstance(value, list):
        return ("x" if _fits_cell(value) else ", ").join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_bytes(count: int) -> str:
    """Format a number of bytes with a decimal unit: `512 B`, `29.6 GB`."""
    amount, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while abs(amount) >= 999.95 and (larger := next(units, None)):
        amount, unit = amount / 1000, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
