"""Names of runs, and choices on the form."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from prefect.utilities.names import generate_slug

from flows import run_names
from flows.parameter_types import FinetuneRecipeName, PretrainRecipeName, ProjectionRecipeName
from flows.run_names import describe_run, is_generated
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES
from voco_models.stages.projection_recipes import PROJECTION_RECIPES


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (
            {"stores": ["/s/a-1.zarr", "s3://b/a-2.zarr/"], "out": "/r/x", "recipe": "a"},
            "x a on a-1.zarr, a-2.zarr → x",
        ),
        ({"source": "/data/ratic", "root": "s3://bucket/stores"}, "x on ratic → stores"),
        ({"run": "runs/7", "store": "/s/f.zarr", "out": None}, "x on 7"),
        ({"recipe": "mine/own.toml", "file": "arms.toml"}, "x own.toml on arms.toml"),
        ({}, "x"),
    ],
)  # fmt: skip
def test_a_name_says_what_runs_on_what(parameters: dict[str, Any], name: str) -> None:
    assert describe_run("x", parameters) == name


def test_names_of_prefect_are_recognised_and_those_of_people_are_kept() -> None:
    assert all(is_generated(generate_slug(2)) for _ in range(200))
    for given in ("march-cohort", "tuesday", "pretrain default on a → b", "a-b-c"):
        assert not is_generated(given)


def test_a_given_name_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_names, "flow_run", _Run("march-cohort"))
    assert run_names.name_run() == "march-cohort"
    monkeypatch.setattr(run_names, "flow_run", _Run(generate_slug(2)))
    assert run_names.name_run() == "evaluate on 7"


class _Run:
    def __init__(self, name: str) -> None:
        self.name = name
        self.flow_name = "evaluate"
        self.parameters = {"run": "runs/7"}


@pytest.mark.parametrize(
    ("choices", "recipes"),
    [
        (PretrainRecipeName, PRETRAIN_RECIPES),
        (FinetuneRecipeName, FINETUNE_RECIPES),
        (ProjectionRecipeName, PROJECTION_RECIPES),
    ],
)
def test_all_recipes_are_choices(choices: Any, recipes: Any) -> None:
    literal, path = get_args(choices)
    assert get_args(literal) == tuple(recipes)
    assert path is str
