"""One patient in JSON files of runs: splits, lists of patients, results by series.

- An item of a list that is an id, or an object that says the patient, is left out.
- An entry of an object whose key is an id is left out.
- In the `patients` of a selection an empty list would mean everybody. So the id is replaced there,
  and in any other value of a key of ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voco_data.withdrawal.names import WITHDRAWN, PatientNames, is_distinct, is_key_of_ids

LISTS_OF_PATIENTS = frozenset(("patients", "patient_ids", "test", "folds", "train", "val"))
"""Keys of lists and objects in which digits are ids."""
_SPLIT = "voco split"
_INDENTS = (None, 1, 2, 4)


def count_entries(path: Path, names: PatientNames) -> int:
    """Entries of a JSON file that are the patient's; 0 if it is no JSON."""
    try:
        return prune(json.loads(path.read_text()), names)[1]
    except ValueError:
        return 0


def write_without(path: Path, out: Path, names: PatientNames) -> None:
    """Write the JSON file at `path` without the patient's entries to `out`, in the same form."""
    text = path.read_text()
    value, _ = prune(json.loads(text), names)
    out.write_text(format_like(value, text))


def strings_of(value: Any) -> list[str]:
    """All keys and texts of a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in strings_of(item)]
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in (str(key), *strings_of(item))]
    return []


def prune(value: Any, names: PatientNames) -> tuple[Any, int]:
    """The JSON value without the patient, and how many entries were taken out of it."""
    pruned, count = _prune(value, names, ())
    if count and isinstance(pruned, dict) and pruned.get("format") == _SPLIT:
        _count_split(pruned, count)
    return pruned, count


def _prune(value: Any, names: PatientNames, keys: tuple[str, ...]) -> tuple[Any, int]:
    if isinstance(value, list):
        return _prune_list(value, names, keys)
    if isinstance(value, dict):
        return _prune_object(value, names, keys)
    return value, 0


def _prune_list(value: list[Any], names: PatientNames, keys: tuple[str, ...]) -> tuple[Any, int]:
    kept, count = [], 0
    is_selection = keys[-2:] == ("selection", "patients")
    for item in value:
        if isinstance(item, str) and _is_id(item, names, keys):
            count += 1
            kept += [WITHDRAWN] if is_selection else []
        elif isinstance(item, dict) and _is_of_patient(item, names):
            count += 1
        else:
            inner, found = _prune(item, names, keys)
            kept.append(inner)
            count += found
    return kept, count


def _prune_object(
    value: dict[str, Any], names: PatientNames, keys: tuple[str, ...]
) -> tuple[Any, int]:
    kept, count = {}, 0
    for key, item in value.items():
        if _is_id(key, names, keys):
            count += 1
        elif isinstance(item, str) and is_key_of_ids(key) and names.is_name(item):
            kept[key] = WITHDRAWN
            count += 1
        else:
            kept[key], found = _prune(item, names, (*keys, key))
            count += found
    return kept, count


def _is_id(text: str, names: PatientNames, keys: tuple[str, ...]) -> bool:
    is_expected = is_distinct(text) or bool(keys and keys[-1] in LISTS_OF_PATIENTS)
    return is_expected and names.is_name(text)


def _is_of_patient(item: Mapping[str, Any], names: PatientNames) -> bool:
    return any(
        isinstance(value, str) and is_key_of_ids(key) and names.is_name(value)
        for key, value in item.items()
    )


def _count_split(split: dict[str, Any], removed: int) -> None:
    """Correct the counts of a split file, and leave out additions of nobody."""
    for added in split["additions"]:
        added["count"] = len(added["test"]) + sum(map(len, added["folds"]))
    split["additions"] = [added for added in split["additions"] if added["count"]]
    split["withdrawn"] = split.get("withdrawn", 0) + removed


def format_like(value: Any, before: str) -> str:
    """JSON with the indent and the last line break that the file had."""
    lines = before.split("\n", 2)
    indent = None
    if len(lines) > 1 and lines[1].strip():
        indent = len(lines[1]) - len(lines[1].lstrip(" "))
    is_ascii = before.isascii()
    text = json.dumps(value, indent=indent if indent in _INDENTS else 1, ensure_ascii=is_ascii)
    return text + ("\n" if before.endswith("\n") else "")
