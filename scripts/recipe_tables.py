"""The tables of docs/recipes.md, from the recipes' dataclasses and their docstrings.

    python scripts/recipe_tables.py            write them into the page
    python scripts/recipe_tables.py --check    exit code 1 if the page differs

A table stands between the lines `<!-- options of PretrainRecipe -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, FinetuneRecipe
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES, PretrainRecipe
from voco_models.stages.projection_recipes import PROJECTION_RECIPES, ProjectionRecipe
from voco_models.stages.recipe_options import Option, describe_type, options_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"

RECIPES: dict[type, dict[str, Any]] = {
    PretrainRecipe: dict(PRETRAIN_RECIPES),
    FinetuneRecipe: dict(FINETUNE_RECIPES),
    ProjectionRecipe: dict(PROJECTION_RECIPES),
}
UNITS = {
    "total_steps": "steps",
    "warmup_steps": "steps",
    "log_every": "steps",
    "checkpoint_every": "steps",
    "epochs": "epochs",
    "slices": "slices",
    "slice_stride": "slices",
    "images_per_call": "slices",
    "n_random": "crops",
    "grid": "crops",
    "n_folds": "folds",
}
"""Units of options whose names do not end in one."""
SUFFIXES = {"_px": "px", "_hu": "HU", "_mm": "mm", "_deg": "degrees"}
BATCH_UNITS: dict[type, str] = {
    PretrainRecipe: "volumes",
    FinetuneRecipe: "series",
    ProjectionRecipe: "volumes",
}


def table(cls: type) -> str:
    """The options of a recipe in Markdown, a line each, with the values of the built-in recipes."""
    recipes = RECIPES[cls]
    heads = ["option", "type", "unit", *(f"`{name}`" for name in recipes), "meaning"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    types: dict[str, list[str]] = {}  # an option of two optimisers stands once
    options = list(options_of(cls))
    for option in options:
        types.setdefault(option.name, []).append(describe_type(option.hint))
    for option in {other.name: other for other in reversed(options)}.values():
        values = [_value(recipe, option) for recipe in recipes.values()]
        kind = " or ".join(dict.fromkeys(types[option.name]))
        lines.insert(2, _row([f"`{option.name}`", kind, unit(option), *values, meaning(option)]))
    return "\n".join(lines)


def unit(option: Option) -> str:
    """The unit of a value; empty where it has none."""
    name = option.name.rpartition(".")[2]
    if name == "batch_size":
        return BATCH_UNITS[option.owner]
    endings = (text for suffix, text in SUFFIXES.items() if name.endswith(suffix))
    return UNITS.get(name) or next(endings, "")


def meaning(option: Option) -> str:
    """The docstring below the field. KeyError if it has none."""
    name = option.name.rpartition(".")[2]
    text = " ".join(docstrings(option.owner)[name].split())
    return text.replace("|", "\\|")


def docstrings(cls: type) -> dict[str, str]:
    """Field -> the string that follows it in the class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = words
    return found


def _value(recipe: Any, option: Option) -> str:
    """What a built-in recipe has there; a dash if it has another kind of optimiser."""
    holder = recipe
    for part in option.name.split(".")[:-1]:
        holder = getattr(holder, part)
    if not isinstance(holder, option.owner):
        return f"({_toml(option.default)})"
    return _toml(getattr(holder, option.name.rpartition(".")[2]))


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(page: str) -> str:
    """The page with every table as it should be."""
    for cls in RECIPES:
        begin, end = f"<!-- options of {cls.__name__} -->\n", "\n<!-- end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        escaped = f"{begin}{table(cls)}{end}".replace("\\", r"\\")
        page, count = pattern.subn(escaped, page)
        if count != 1:
            raise ValueError(f"{PAGE.name}: expected one place for {cls.__name__}, found {count}")
    return page


def undocumented() -> list[str]:
    """Options without a docstring."""
    return sorted(
        {
            f"{option.owner.__name__}.{option.name.rpartition('.')[2]}"
            for cls in RECIPES
            for option in options_of(cls)
            if option.name.rpartition(".")[2] not in docstrings(option.owner)
        }
    )


def main() -> int:
    """Write the tables, or check them; returns the exit code."""
    text = PAGE.read_text()
    wanted = filled(text)
    if "--check" in sys.argv[1:]:
        return int(text != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
