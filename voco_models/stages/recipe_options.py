"""Recipes from a name, a TOML file, and single changes such as `fit.lr=1e-3`.

A recipe is a tree of frozen dataclasses. An option has the dotted name of its field and the type
of that field; nothing is converted, except that a whole number may stand for a number and the text
`none` for no value, as TOML has no null. Every error is an InputError of one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from voco_data.errors import InputError
from voco_models.training import default_of

R = TypeVar("R")

BASE = "base"
"""Key of a TOML file: the built-in recipe that it changes."""
NAME = "name"
KIND = "kind"
"""Field that distinguishes the dataclasses which an option may hold."""
NONE = "none"

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
    """Dotted."""
    hint: Any
    """Its type."""
    default: Any
    """`dataclasses.MISSING` where it must be given."""
    owner: type
    """The dataclass that it is a field of."""


def resolve(
    cls: type[R], built_in: Mapping[str, R], recipe: str | Path | R, changes: Sequence[str] = ()
) -> R:
    """The recipe of a name or of a `.toml` file, or a recipe as it is, with `changes` made.

    Each change is `name=value`, the value in TOML's syntax or a bare word. A recipe with a `name`
    is renamed where it differs from what was named. InputError for an unknown recipe or option, a
    wrong type, or a value out of range.
    """
    found = _load(cls, built_in, recipe)
    if not changes:
        return found
    values = _merge(cls, dataclasses.asdict(found), parse_changes(changes))  # type: ignore[call-overload]
    changed = build(cls, values)
    if changed != found and NAME in values and values[NAME] == getattr(found, NAME):
        return build(cls, values | {NAME: f"{values[NAME]}, changed"})
    return changed


def label(recipe: str | Path | Any, changes: Sequence[str] = ()) -> str:
    """How a run names its recipe: its name, the stem of its file, or `custom`; then `, changed`."""
    if not isinstance(recipe, str | Path):
        return "custom"
    name = Path(recipe).stem if _is_file(recipe) else str(recipe)
    return f"{name}, changed" if changes else name


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Nested tables of `name=value` texts; of two values for one name the later one counts."""
    table: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        keys = [key.strip() for key in name.split(".")]
        if not equals or not all(keys):
            raise InputError(f"set: expected name=value, such as seed=1, got {change!r}")
        inner = table
        for key in keys[:-1]:
            if not isinstance(inner.setdefault(key, {}), dict):
                raise InputError(f"set: {name} changes a part of what another change replaces")
            inner = inner[key]
        inner[keys[-1]] = _parse_value(text.strip())
    return table


def build(cls: type[R], values: Mapping[str, Any]) -> R:
    """The dataclass of these nested values, each checked against the type of its field."""
    recipe: R = _typed(values, cls, "")
    return recipe


def options_of(cls: type, prefix: str = "") -> Iterator[Option]:
    """Every option of a dataclass, depth first; of those in one place, each kind's."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        kinds = _dataclasses_in(hint)
        for kind in kinds:
            yield from options_of(kind, f"{name}.")
        if not kinds:
            yield Option(name, hint, default_of(field), cls)


def describe_type(hint: Any) -> str:
    """What a value of this type looks like, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _or([str(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        known = [describe_type(part) for part in arguments if part is not types.NoneType]
        return _or(known + [NONE] * (types.NoneType in arguments))
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        inner = describe_type(arguments[0]).removeprefix("a ")
        if inner.startswith("list of"):
            inner = inner.replace("list", "lists", 1)
        else:
            inner += "s"
        return f"a list of {inner}" if many else f"a list of {len(arguments)} {inner}"
    if dataclasses.is_dataclass(hint):
        return "a table of options"
    return _PRIMITIVES[hint]


def _load(cls: type[R], built_in: Mapping[str, R], recipe: str | Path | R) -> R:
    if isinstance(recipe, cls):
        return recipe
    assert isinstance(recipe, str | Path)
    if not _is_file(recipe):
        if recipe not in built_in:
            known = ", ".join(built_in)
            raise InputError(
                f"recipe: expected one of {known}, or the path of a .toml file, got {recipe!r}"
            )
        return built_in[str(recipe)]
    table = _read(Path(recipe))
    base = table.pop(BASE, None)
    if NAME in get_type_hints(cls):
        table.setdefault(NAME, Path(recipe).stem)
    try:
        values = {} if base is None else dataclasses.asdict(_base(built_in, base))  # type: ignore[call-overload]
        return build(cls, _merge(cls, values, table))
    except InputError as error:
        raise InputError(f"{recipe}: {error}") from error


def _is_file(recipe: str | Path) -> bool:
    return isinstance(recipe, Path) or recipe.endswith(".toml")


def _base(built_in: Mapping[str, R], name: Any) -> R:
    if not isinstance(name, str) or name not in built_in:
        known = ", ".join(built_in)
        raise InputError(f"recipe: {BASE}: expected one of {known}, got {name!r}")
    return built_in[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot read the recipe ({error.strerror})") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise InputError(f"{path}: expected a recipe in TOML, got: {error}") from error


def _parse_value(text: str) -> Any:
    """A value in TOML's syntax; what is none is a text."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _merge(
    cls: type,
    values: Mapping[str, Any],
    table: Mapping[str, Any],
    prefix: str = "",
    root: type | None = None,
) -> dict[str, Any]:
    """`values` of a dataclass with those of `table` in their place. InputError for other names.

    `cls` is what the names below `prefix` belong to in a recipe of type `root`.
    """
    root = root or cls
    merged, hints = dict(values), get_type_hints(cls)
    for name, value in table.items():
        if name not in hints:
            raise _unknown(root, f"{prefix}{name}", value)
        kinds = _dataclasses_in(hints[name])
        if not kinds:
            merged[name] = value
            continue
        full = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            raise InputError(f"recipe: {full}: expected a table of options, got {value!r}")
        before = merged.get(name, {})
        kind = _kind_of(kinds, {KIND: before.get(KIND)} | dict(value), full)
        kept = before if value.get(KIND, before.get(KIND)) == before.get(KIND) else {}
        merged[name] = _merge(kind, kept, value, f"{full}.", root)
    return merged


def _typed(value: Any, hint: Any, name: str) -> Any:
    """The value as the type wants it: lists become tuples, tables dataclasses."""
    origin, arguments = get_origin(hint), get_args(hint)
    kinds = _dataclasses_in(hint)
    if kinds:
        return _dataclass(value, kinds, name)
    if origin in (Union, types.UnionType):
        if types.NoneType in arguments and value in (None, NONE):
            return None
        (inner,) = (part for part in arguments if part is not types.NoneType)
        if _fits(value, inner):
            return _typed(value, inner, name)
    elif origin is tuple and isinstance(value, list | tuple):
        many = arguments[-1] is Ellipsis
        if many or len(value) == len(arguments):
            parts = arguments[:1] * len(value) if many else arguments
            return tuple(
                _typed(item, part, f"{name}[{i}]")
                for i, (item, part) in enumerate(zip(value, parts, strict=True))
            )
    elif _fits(value, hint):
        return float(value) if hint is float else value
    raise InputError(f"recipe: {name}: expected {describe_type(hint)}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a single value has this type; a list is looked at item by item."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _dataclass(value: Any, kinds: Sequence[type], name: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"recipe: {name}: expected a table of options, got {value!r}")
    cls, prefix = _kind_of(kinds, value, name), f"{name}." if name else ""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name not in value and default_of(field) is dataclasses.MISSING:
            raise InputError(
                f"recipe: {prefix}{field.name}: expected {describe_type(hints[field.name])}, "
                f"got nothing; give it, or a {BASE} that has it"
            )
    return cls(**{key: _typed(item, hints[key], f"{prefix}{key}") for key, item in value.items()})


def _dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses that may stand in a place of this type."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [part for part in parts if dataclasses.is_dataclass(part) and isinstance(part, type)]


def _kind_of(kinds: Sequence[type], value: Mapping[str, Any], name: str) -> type:
    """The dataclass whose `kind` the value names; the first one if it names none."""
    if len(kinds) == 1 or value.get(KIND) is None:
        return kinds[0]
    by_kind = {get_args(get_type_hints(cls)[KIND])[0]: cls for cls in kinds}
    if value[KIND] not in by_kind:
        raise InputError(
            f"recipe: {name}.{KIND}: expected {_or(list(by_kind))}, got {value[KIND]!r}"
        )
    return by_kind[value[KIND]]


def _unknown(root: type, name: str, value: Any) -> InputError:
    """Names the option that is spelt most like it, of those with the same last part if any."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    known = [option.name for option in options_of(root)]
    alike = [other for other in known if other.split(".")[-1] == name.split(".")[-1]]
    near = difflib.get_close_matches(name, alike or known, n=1, cutoff=0.0)
    return InputError(f"recipe: no option {name}; did you mean {near[0]}?")


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
