"""A stage's summary as plain JSON values: what `--json` prints and what artifacts show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, TypeAlias

Summary: TypeAlias = dict[str, Any]
"""What a stage reports: numbers, texts, paths as texts, and mappings or lists of them."""


def plain(summary: Mapping[str, Any]) -> Summary:
    """The summary with paths as texts and undefined numbers (NaN, infinity) as None.

    JSON has no NaN: a score that is undefined, say of a class nobody has, is null.
    """
    return {str(key): _plain_value(value) for key, value in summary.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flatten(summary: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in summary.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
