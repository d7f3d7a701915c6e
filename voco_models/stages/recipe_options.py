"""Recipes from a name, a TOML file, and single changes such as `fit.lr=1e-3`.

A recipe is a tree of frozen dataclasses. An option has the dotted name and the type of its field.
Values are not converted, with two exceptions: a whole number is accepted for a number, and the text
`none` for None, because TOML has no null. Every error is an InputError of one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from voco_data.errors import InputError
from voco_data.storage import parse_toml, read_toml
from voco_models.recorded_options import default_of

R = TypeVar("R")

BASE = "base"
"""Key of a TOML file that names the built-in recipe which it changes."""
NAME = "name"
KIND = "kind"
"""Field that tells apart the dataclasses of a union."""
NONE = "none"
MAX_INTEGER = 2**63 - 1
"""Largest whole number of a recipe: that of tensors and of JSON's other readers."""

_PRIMITIVES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One value that a recipe file or `--set` can change."""

    name: str
    """Dotted name of the field."""
    hint: Any
    """Type of the field."""
    default: Any
    """Default of the field; `dataclasses.MISSING` if a value is required."""
    owner: type
    """Dataclass of the field."""


def resolve_recipe(
    cls: type[R], built_in: Mapping[str, R], recipe: str | Path | R, changes: Sequence[str] = ()
) -> R:
    """The recipe of a name, of a `.toml` file, or a recipe itself, with `changes`.

    Each change is `name=value`, with the value in TOML's syntax or a bare word. Where changes make
    a difference, a recipe's `name` gets the ending `, changed`. Raises InputError for an unknown
    recipe or option, a wrong type, or a value out of range.
    """
    loaded = _load_recipe(cls, built_in, recipe)
    if not changes:
        return loaded
    values = _merge_options(cls, dataclasses.asdict(loaded), parse_changes(changes))  # type: ignore[call-overload]
    changed = build_recipe(cls, values)
    if changed != loaded and NAME in values and values[NAME] == getattr(loaded, NAME):
        return build_recipe(cls, values | {NAME: f"{values[NAME]}, changed"})
    return changed


def recipe_label(recipe: str | Path | Any, changes: Sequence[str] = ()) -> str:
    """The name of a recipe in a run: its name, the stem of its file, or `custom`.

    With `changes`, the name ends with `, changed`.
    """
    if not isinstance(recipe, str | Path):
        return "custom"
    name = Path(recipe).stem if _is_file(recipe) else str(recipe)
    return f"{name}, changed" if changes else name


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Nested tables of `name=value` texts. A later value replaces an earlier one of its name."""
    table: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        keys = [key.strip() for key in name.split(".")]
        if not equals or not all(keys):
            raise InputError(f"set: expected name=value, such as seed=1, got {change!r}")
        subtable = table
        for key in keys[:-1]:
            if not isinstance(subtable.setdefault(key, {}), dict):
                raise InputError(f"set: {name} changes a part of what another change replaces")
            subtable = subtable[key]
        subtable[keys[-1]] = _parse_value(text.strip())
    return table


def build_recipe(cls: type[R], values: Mapping[str, Any]) -> R:
    """A recipe of the class `cls` from nested values.

    Raises InputError for a value of another type than its field.
    """
    recipe: R = _convert(values, cls, "")
    return recipe


def options_of(cls: type, prefix: str = "") -> Iterator[Option]:
    """Every option of a dataclass, depth first, with the options of every kind of a union."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        kinds = _dataclasses_in(hint)
        for kind in kinds:
            yield from options_of(kind, f"{name}.")
        if not kinds:
            yield Option(name, hint, default_of(field), cls)


def describe_type(hint: Any) -> str:
    """A type in words, such as `a whole number`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict:
        return f"a table of {describe_type(arguments[1]).removeprefix('a ')}s by name"
    if origin is Literal:
        return _join_with_or([str(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        members = [describe_type(part) for part in arguments if part is not types.NoneType]
        return _join_with_or(members + [NONE] * (types.NoneType in arguments))
    if origin is tuple:
        any_length = arguments[-1] is Ellipsis
        items = describe_type(arguments[0]).removeprefix("a ")
        if items.startswith("list of"):
            items = items.replace("list", "lists", 1)
        else:
            items += "s"
        return f"a list of {items}" if any_length else f"a list of {len(arguments)} {items}"
    if dataclasses.is_dataclass(hint):
        return "a table of options"
    return _PRIMITIVES[hint]


def _load_recipe(cls: type[R], built_in: Mapping[str, R], recipe: str | Path | R) -> R:
    if isinstance(recipe, cls):
        return recipe
    assert isinstance(recipe, str | Path)
    if not _is_file(recipe):
        if recipe not in built_in:
            names = ", ".join(built_in)
            raise InputError(
                f"recipe: expected one of {names}, or the path of a .toml file, got {recipe!r}"
            )
        return built_in[str(recipe)]
    table = read_toml(Path(recipe), "recipe")
    base = table.pop(BASE, None)
    if NAME in get_type_hints(cls):
        table.setdefault(NAME, Path(recipe).stem)
    try:
        values = {} if base is None else dataclasses.asdict(_base_recipe(built_in, base))  # type: ignore[call-overload]
        return build_recipe(cls, _merge_options(cls, values, table))
    except InputError as error:
        raise InputError(f"{recipe}: {error}") from error


def _is_file(recipe: str | Path) -> bool:
    return isinstance(recipe, Path) or recipe.endswith(".toml")


def _base_recipe(built_in: Mapping[str, R], name: Any) -> R:
    if not isinstance(name, str) or name not in built_in:
        names = ", ".join(built_in)
        raise InputError(f"recipe: {BASE}: expected one of {names}, got {name!r}")
    return built_in[name]


def _parse_value(text: str) -> Any:
    """A value in TOML's syntax; any other text as it is."""
    try:
        table = parse_toml(f"value = {text}")
    except ValueError:
        return text
    return table["value"] if len(table) == 1 else text


def _merge_options(
    cls: type,
    values: Mapping[str, Any],
    table: Mapping[str, Any],
    prefix: str = "",
    root: type | None = None,
) -> dict[str, Any]:
    """`values` of a dataclass, updated with those of `table`.

    `cls` is the dataclass at the dotted name `prefix` in a recipe of the class `root`. Raises
    InputError for a name that is no option.
    """
    root = root or cls
    merged, hints = dict(values), get_type_hints(cls)
    for name, value in table.items():
        if name not in hints:
            raise _unknown_option_error(root, f"{prefix}{name}", value)
        kinds = _dataclasses_in(hints[name])
        if not kinds:
            merged[name] = value
            continue
        full = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            raise InputError(f"recipe: {full}: expected a table of options, got {value!r}")
        old = merged.get(name, {})
        kind = _choose_kind(kinds, {KIND: old.get(KIND)} | dict(value), full)
        is_same_kind = value.get(KIND, old.get(KIND)) == old.get(KIND)
        merged[name] = _merge_options(kind, old if is_same_kind else {}, value, f"{full}.", root)
    return merged


def _convert(value: Any, hint: Any, name: str) -> Any:
    """The value as an instance of the type: lists become tuples, and tables dataclasses."""
    origin, arguments = get_origin(hint), get_args(hint)
    kinds = _dataclasses_in(hint)
    if kinds:
        return _build_dataclass(value, kinds, name)
    if origin in (Union, types.UnionType):
        if types.NoneType in arguments and value in (None, NONE):
            return None
        (member,) = (part for part in arguments if part is not types.NoneType)
        if _has_type(value, member):
            return _convert(value, member, name)
    elif origin is dict and isinstance(value, Mapping):
        return {key: _convert(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    elif origin is tuple and isinstance(value, list | tuple):
        any_length = arguments[-1] is Ellipsis
        if any_length or len(value) == len(arguments):
            item_types = arguments[:1] * len(value) if any_length else arguments
            return tuple(
                _convert(item, item_type, f"{name}[{i}]")
                for i, (item, item_type) in enumerate(zip(value, item_types, strict=True))
            )
    elif _has_type(value, hint):
        return float(value) if hint is float else value
    raise InputError(f"recipe: {name}: expected {describe_type(hint)}, got {value!r}")


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value has this type. `_convert` checks the items of a list."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple)
    if type(value) is int and hint in (int, float):
        return abs(value) <= MAX_INTEGER
    if hint is float:
        return type(value) is float and math.isfinite(value)
    return type(value) is hint


def _build_dataclass(value: Any, kinds: Sequence[type], name: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"recipe: {name}: expected a table of options, got {value!r}")
    cls, prefix = _choose_kind(kinds, value, name), f"{name}." if name else ""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name not in value and default_of(field) is dataclasses.MISSING:
            raise InputError(
                f"recipe: {prefix}{field.name}: expected {describe_type(hints[field.name])}, "
                f"got nothing; give it, or a {BASE} that has it"
            )
    return cls(**{key: _convert(item, hints[key], f"{prefix}{key}") for key, item in value.items()})


def _dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses of a type: itself, or the members of a union."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [part for part in parts if dataclasses.is_dataclass(part) and isinstance(part, type)]


def _choose_kind(kinds: Sequence[type], value: Mapping[str, Any], name: str) -> type:
    """The dataclass that the `kind` of the value names; the first one if it names none."""
    if len(kinds) == 1 or value.get(KIND) is None:
        return kinds[0]
    by_kind = {get_args(get_type_hints(cls)[KIND])[0]: cls for cls in kinds}
    if value[KIND] not in by_kind:
        raise InputError(
            f"recipe: {name}.{KIND}: expected {_join_with_or(list(by_kind))}, got {value[KIND]!r}"
        )
    return by_kind[value[KIND]]


def _unknown_option_error(root: type, name: str, value: Any) -> InputError:
    """An error that suggests the option with the most similar name.

    Options with the same last part come first.
    """
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    options = [option.name for option in options_of(root)]
    same_field = [other for other in options if other.split(".")[-1] == name.split(".")[-1]]
    similar = difflib.get_close_matches(name, same_field or options, n=1, cutoff=0.0)
    return InputError(f"recipe: no option {name}; did you mean {similar[0]}?")


def _join_with_or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
