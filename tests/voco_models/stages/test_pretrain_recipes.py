"""Every built-in recipe takes a step, and the authors' preset is the table of docs/method.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import GRID, QUICK, curve
from voco_data.store.reader import Store
from voco_models.data.sampling import epoch_order
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES, pretrain_recipe
from voco_models.stages.pretraining import pretrain
from voco_models.stages.recipe_options import options_of
from voco_models.training import checkpoint

SMALL = ["backbone=test_byobnet", "voco.projector_width=16", "voco.embedding=8", "fit.log_every=1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores"), random_volumes(5, GRID))


@pytest.mark.parametrize("name", PRETRAIN_RECIPES)
def test_every_recipe_takes_steps(name: str, store: Store, tmp_path: Path) -> None:
    summary = pretrain(
        [store.path], tmp_path / "run", recipe=name, changes=SMALL, device="cpu", max_steps=2
    )
    assert summary.last_step == 2
    first, second = curve(tmp_path / "run")
    assert all(np.isfinite(list(row.values())).all() for row in (first, second))
    assert first["intra"] != second["intra"]


def test_both_backbones_and_both_grids_have_a_recipe() -> None:
    made = {
        (recipe.backbone, recipe.voco.grid)
        for name in ("default", "default_s", "grid4", "grid4_s")
        for recipe in [pretrain_recipe(name)]
    }
    backbones = ("efficientnetv2_rw_t", "efficientnetv2_rw_s")
    assert made == {(backbone, grid) for backbone in backbones for grid in (3, 4)}
    assert pretrain_recipe("grid4").voco.encode_px == 64
    assert pretrain_recipe("grid4").voco.crop_plan((384, 384)).size == (96, 96)


# Row of the table "Paper against code" -> option and value of the authors' code.
AUTHORS: dict[int, dict[str, Any]] = {
    2: {"voco.target": "overlap"},
    3: {"voco.loss.form": "weighted", "voco.loss.negatives": "square"},
    4: {"voco.loss.legacy_clamp": True},
    5: {"voco.loss.direction": "one_way"},
    6: {"voco.loss.inter": "next"},
    7: {"voco.loss.reg": "squared"},
    8: {"voco.level": "volume"},
    9: {"voco.teacher": "legacy", "voco.momentum": 0.9, "voco.momentum_end": 0.9},
    10: {"voco.projector_width": 2048, "voco.embedding": 2048},
    11: {"voco.feature": "map"},
    12: {"voco.n_random": 2},
    13: {"voco.grid": 3, "voco.encode_px": None},
    14: {"backbone": "efficientnet_b0"},
    22: {"shuffle": False},
}
SETTINGS = {
    "fit.lr": 1e-4, "fit.weight_decay": 0.01, "fit.amsgrad": True, "fit.warmup_steps": 5_000,
    "fit.total_steps": 250_000, "batch_size": 4, "fit.amp": True,
}  # fmt: skip


def value_of(recipe: Any, name: str) -> Any:
    for part in name.split("."):
        recipe = getattr(recipe, part)
    return recipe


@pytest.mark.parametrize("row", AUTHORS)
def test_the_authors_preset_is_the_table(row: int) -> None:
    recipe = pretrain_recipe("authors")
    assert {name: value_of(recipe, name) for name in AUTHORS[row]} == AUTHORS[row]
    assert {name: value_of(recipe, name) for name in SETTINGS} == SETTINGS


# Row of the table -> the changes that give our other options.
OPTIONS: dict[int, list[str]] = {
    2: ["voco.target=iou"],
    3: ["voco.loss.form=plain", "voco.loss.negatives=log"],
    4: ["voco.loss.legacy_clamp=true"],
    5: ["voco.loss.direction=symmetric"],
    6: ["voco.loss.inter=all_pairs", "voco.loss.inter=off"],
    7: ["voco.loss.reg=abs", "voco.loss.reg=off"],
    8: ["voco.level=slice"],
    9: ["voco.teacher=legacy", "voco.momentum_end=0.99"],
    11: ["voco.feature=gap"],
    12: ["voco.n_random=1", "voco.n_random=5"],
    13: ["voco.grid=4"],
    22: ["shuffle=false"],
    23: ["voco.volume_augment.rotate_deg=10"],
}


@pytest.mark.parametrize("change", [change for row in OPTIONS.values() for change in row])
def test_every_option_of_the_table_trains(change: str, store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain([store.path], run, recipe=QUICK, changes=[change], device="cpu", max_steps=2)
    assert np.isfinite(curve(run)[-1]["loss"])
    name = change.partition("=")[0]
    recorded: Any = checkpoint.read_run(run)["provenance"]["recipe"]
    for part in name.split("."):
        recorded = recorded[part]
    assert name in {option.name for option in options_of(type(QUICK))}


def test_options_added_later_are_recorded_when_changed_only(store: Store, tmp_path: Path) -> None:
    """So that runs from before they existed can be resumed."""
    pretrain([store.path], tmp_path / "run", recipe=QUICK, device="cpu", max_steps=1)
    recipe = checkpoint.read_run(tmp_path / "run")["provenance"]["recipe"]
    assert not {"shuffle", "recompute"} & set(recipe)
    assert "volume_augment" not in recipe["voco"]
    assert "accumulate" not in recipe["fit"]


def test_without_shuffling_partners_stay(store: Store, tmp_path: Path) -> None:
    assert epoch_order(6, 0, epoch=5, shuffle=False).tolist() == list(range(6))
    assert epoch_order(6, 0, epoch=5, rank=1, world=2, shuffle=False).tolist() == [1, 3, 5]
    assert sorted(epoch_order(6, 0, epoch=5)) == list(range(6))


def test_recomputed_activations_change_no_loss(store: Store, tmp_path: Path) -> None:
    """Nor the statistics of batch norm, which the backward pass would update a second time."""
    plain, recomputed = tmp_path / "plain", tmp_path / "recomputed"
    settings: dict[str, Any] = {"device": "cpu", "changes": ["fit.accumulate=2"], "max_steps": 4}
    pretrain([store.path], plain, recipe=QUICK, **settings)
    pretrain([store.path], recomputed, recipe=replace(QUICK, recompute=True), **settings)
    assert curve(plain) == curve(recomputed)
    states = [checkpoint.load(run / "checkpoint.pt")["objective"] for run in (plain, recomputed)]
    for name, tensor in states[0].items():
        assert (tensor == states[1][name]).all(), name
