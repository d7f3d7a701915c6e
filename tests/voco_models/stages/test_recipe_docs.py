"""docs/recipes.md lists every option of every recipe as the code has it, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import recipe_tables
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.pretrain_recipes import PretrainRecipe, pretrain_recipe
from voco_models.stages.recipe_options import options_of

TEXT = recipe_tables.PAGE.read_text()


def test_every_option_has_a_docstring() -> None:
    assert recipe_tables.undocumented() == []


def test_the_tables_are_those_of_the_code() -> None:
    assert recipe_tables.filled(TEXT) == TEXT, "run python scripts/recipe_tables.py"


@pytest.mark.parametrize("cls", [PretrainRecipe, FinetuneRecipe])
def test_a_table_has_every_option_once(cls: type) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", recipe_tables.table(cls), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == {option.name for option in options_of(cls)}


def test_a_changed_default_is_seen() -> None:
    assert "| `fit.lr` | a number |  | 0.0001 | 0.001 |" in TEXT
    assert recipe_tables.filled(TEXT.replace("| 0.0001 | 0.001 |", "| 0.0002 | 0.001 |")) == TEXT


def test_the_examples_are_recipes(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(example)
    recipe = pretrain_recipe(path, ["fit.lr=5e-4", "voco.loss.inter=off"])
    assert (recipe.batch_size, recipe.fit.lr, recipe.voco.loss.inter) == (8, 5e-4, "off")
    assert pretrain_recipe("default", ["fit.optimizer.kind=sgd", "fit.amsgrad=false"])
