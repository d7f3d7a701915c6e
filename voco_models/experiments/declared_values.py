"""What declarations of all stages share: the TOML file, names of options, changes, and paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from voco_data.errors import InputError
from voco_data.storage import is_url, read_toml


def read_table(path: Path) -> dict[str, Any]:
    """The values of a declaration. Raises InputError if it cannot be read."""
    return read_toml(path, "experiment")


def check_tables(experiment: type, arm: type, table: Mapping[str, Any]) -> None:
    """Raise InputError if a table lacks options of a declaration or its arms, or has others.

    `experiment` and `arm` are the dataclasses of the options.
    """
    check_names(experiment, table, "")
    arms = table["arms"]
    if not isinstance(arms, dict) or not arms:
        raise InputError(f"experiment: expected at least one table [arms.NAME], got {arms!r}")
    for name, values in arms.items():
        if not isinstance(values, dict):
            raise InputError(f"experiment: arms.{name}: expected a table, got {values!r}")
        check_names(arm, values, f"arms.{name}.")


def check_names(cls: type, table: Mapping[str, Any], prefix: str) -> None:
    """Raise InputError for a name that is no field of `cls`, and for a field that is required."""
    known = [f.name for f in fields(cls)]
    for name in table:
        if name not in known:
            raise InputError(
                f"experiment: no option {prefix}{name}; expected some of {', '.join(known)}"
            )
    for f in fields(cls):
        is_required = f.default is MISSING and f.default_factory is MISSING
        if is_required and f.name not in table:
            raise InputError(f"experiment: {prefix}{f.name}: expected a value, got nothing")


def check_reference(reference: str, arms: Iterable[str]) -> None:
    """Raise InputError unless the reference is an arm."""
    if reference not in (names := list(arms)):
        raise InputError(
            f"experiment: reference: expected one of the arms {', '.join(names)}, got {reference!r}"
        )


def check_different(name: str, values: Sequence[float]) -> None:
    """Raise InputError unless there are values and none of them is there twice."""
    if not values or len(set(values)) < len(values):
        raise InputError(
            f"experiment: {name} must be one or more different numbers, got {list(values)}"
        )


def check_fractions(name: str, values: Sequence[float]) -> None:
    """Raise InputError for a fraction that is not above 0 and at most 1."""
    if not all(0 < fraction <= 1 for fraction in values):
        raise InputError(f"experiment: {name} must be above 0 and at most 1, got {list(values)}")


def check_changes(place: str, changes: Iterable[str], own: Mapping[str, str]) -> None:
    """Raise InputError for a change of a recipe that has no effect.

    `own` are the options that the experiment sets, and what to give instead. An option stands for
    its parts too: `selection` for `selection.layouts`.
    """
    for option in map(name_of_option, changes):
        for name, instead in own.items():
            if option == name or option.startswith(f"{name}."):
                raise InputError(f"experiment: {place}: {option} has no effect here; {instead}")


def name_of_option(change: str) -> str:
    """The name of the option in a change, `name=value`."""
    return change.partition("=")[0].strip()


def place_path(path: str, folder: Path) -> str:
    """A path relative to the folder of its declaration; a URL as it is."""
    return path if is_url(path) else str(folder / path)


def place_recipe(recipe: str, folder: Path) -> str:
    """The same for a recipe in a file; a name as it is."""
    return place_path(recipe, folder) if recipe.endswith(".toml") else recipe
