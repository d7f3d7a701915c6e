"""The values of a recipe that a run records.

A resumed run must have the same values. An option that was added later is therefore recorded only
if it differs from its default. The default must be what the code did before, so that older runs can
still be resumed.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Any

WHEN_CHANGED = MappingProxyType({"recorded": "when changed"})
"""Metadata of a dataclass field that was added after runs without it were made."""


def values_to_record(recipe: Any) -> dict[str, Any]:
    """The fields of a recipe, a frozen dataclass, as plain values."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.metadata == WHEN_CHANGED and value == default_of(field):
            continue
        values[field.name] = values_to_record(value) if dataclasses.is_dataclass(value) else value
    return values


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass field; `dataclasses.MISSING` if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
