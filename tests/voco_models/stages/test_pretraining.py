"""The stage: checks before it writes, the files of a run, and exact resume."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError, StoreCorrupt
from voco_data.store.keys import chunk_key
from voco_data.store.reader import Store
from voco_data.store.spec import PRETRAIN
from voco_models.data import resident as resident_module
from voco_models.data.resident import Residence
from voco_models.data.window import input_window
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.encoder import SliceEncoder
from voco_models.networks.registry import create_backbone
from voco_models.objectives.losses import LossOptions
from voco_models.objectives.voco2d import Voco2d, Voco2dConfig
from voco_models.stages.pretrain_plan import adapt_recipe
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES, PretrainRecipe, pretrain_recipe
from voco_models.stages.pretraining import pretrain
from voco_models.training import checkpoint
from voco_models.training.fit_config import FitConfig
from voco_models.training.history import read_history
from voco_models.training.train_state import TrainState

GRID = (4, 96, 96)
QUICK = PretrainRecipe(
    fit=FitConfig(total_steps=6, lr=1e-3, weight_decay=0.01, log_every=2, checkpoint_every=4),
    backbone=TINY_BACKBONE,
    voco=Voco2dConfig(projector_width=16, embedding=8, slice_stride=2),
    batch_size=3,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "stores", random_volumes(5, GRID))


def curve(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(run)]


def test_it_writes_a_run_that_another_stage_can_start_from(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = pretrain([store.path], run, recipe=QUICK, device="cpu")
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "backbone.json", "backbone.pt", "backbone.safetensors", "checkpoint.pt",
        "health.csv", "history.csv", "patients.json", "report.html", "run.json", "tensorboard",
    ]  # fmt: skip
    description = checkpoint.read_run(run)
    assert description["stage"] == "pretrain"
    provenance = description["provenance"]
    assert provenance["recipe"]["voco"]["loss"]["form"] == "weighted"
    assert provenance["stores"][0]["digest"] == store.digest
    assert provenance["stores"][0]["volumes"] == 5
    saved = checkpoint.load(run / "checkpoint.pt")
    assert saved["provenance"] == provenance
    backbone, origin = checkpoint.load_backbone(run)
    assert origin == provenance
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, saved["objective"][f"student.backbone.{name}"]), name
    assert [row["step"] for row in curve(run)] == [2, 4, 6]
    assert {"intra", "inter", "reg", "intra_student", "nonfinite", "rank"} <= set(curve(run)[0])
    result = json.loads(json.dumps(summary.to_json()))
    assert (result["first_step"], result["last_step"], result["volumes"]) == (0, 6, 5)
    assert result["backbone"] == str(run / "backbone.pt")
    assert result["notes"] == result["alarms"] == []


@pytest.mark.parametrize("resident", ["ram", "device"])
def test_volumes_in_memory_train_the_same_weights(
    store: Store, tmp_path: Path, resident: Residence
) -> None:
    pretrain([store.path], tmp_path / "a", recipe=QUICK, device="cpu")
    pretrain([store.path], tmp_path / "b", recipe=QUICK, device="cpu", resident=resident)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_volumes_that_do_not_fit_in_memory_write_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident_module, "free_bytes", lambda device: 1)
    with pytest.raises(InputError, match=r"5 volumes .* need 184320 bytes in RAM, 1 are free"):
        pretrain([store.path], tmp_path / "run", recipe=QUICK, device="cpu", resident="ram")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(store: Store, tmp_path: Path) -> None:
    pretrain([store.path], tmp_path / "whole", recipe=QUICK, device="cpu")
    pretrain([store.path], tmp_path / "parts", recipe=QUICK, device="cpu", max_steps=3)
    pretrain([store.path], tmp_path / "parts", recipe=QUICK, device="cpu", resume=True)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    one, other = (
        checkpoint.load_backbone(tmp_path / name)[0].state_dict() for name in ("whole", "parts")
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_changes_are_recorded_and_compared(store: Store, tmp_path: Path) -> None:
    run, changes = tmp_path / "run", ["fit.lr=2e-3", "fit.optimizer.kind=sgd"]
    settings: dict[str, Any] = {"recipe": QUICK, "device": "cpu"}
    pretrain([store.path], run, changes=changes, max_steps=2, **settings)
    recipe = checkpoint.read_run(run)["provenance"]["recipe"]
    assert recipe["fit"]["lr"] == 2e-3
    assert recipe["fit"]["optimizer"]["kind"] == "sgd"
    with pytest.raises(InputError, match=r"recipe\.fit\.lr was 0\.002, is 0\.001"):
        pretrain([store.path], run, resume=True, **settings)
    with pytest.raises(InputError, match=r"recipe\.fit\.optimizer was"):
        pretrain([store.path], run, changes=changes[:1], resume=True, **settings)
    pretrain([store.path], run, changes=changes, resume=True, **settings)
    pretrain([store.path], tmp_path / "whole", changes=changes, **settings)
    assert curve(run) == curve(tmp_path / "whole")


def test_the_seed_is_of_the_recipe(store: Store, tmp_path: Path) -> None:
    def losses(name: str, seed: int) -> list[float]:
        torch.manual_seed(len(name))  # the caller's generator must not matter
        recipe = replace(QUICK, fit=replace(QUICK.fit, seed=seed))
        pretrain([store.path], tmp_path / name, recipe=recipe, device="cpu", max_steps=2)
        return [row["loss"] for row in curve(tmp_path / name)]

    assert losses("a", 0) == losses("bb", 0)
    assert losses("ccc", 1) != losses("a2", 0)


@pytest.mark.parametrize("level", ["volume", "slice"])
def test_one_volume_trains_and_the_notes_say_how(
    tmp_path: Path, level: Any, caplog: pytest.LogCaptureFixture
) -> None:
    single = make_store(tmp_path / "stores", random_volumes(1, GRID))
    recipe = replace(QUICK, voco=replace(QUICK.voco, level=level))
    summary = pretrain([single.path], tmp_path / "run", recipe=recipe, device="cpu", max_steps=2)
    assert summary.last_step == 2
    assert any("inter-volume loss is off" in note for note in summary.notes)
    assert "only 1 volume" in caplog.text
    assert all(row["inter"] == 0 and row["intra"] > 0 for row in curve(tmp_path / "run"))
    pretrain([single.path], tmp_path / "run", recipe=recipe, device="cpu", resume=True)


def test_few_volumes_make_a_smaller_batch() -> None:
    assert adapt_recipe(QUICK, 3) == (QUICK, [])
    smaller, notes = adapt_recipe(QUICK, 2)
    assert smaller == replace(QUICK, batch_size=2)
    assert "batch size is 2 instead of 3" in notes[0]
    single, notes = adapt_recipe(QUICK, 1)
    assert (single.batch_size, single.voco.loss.inter) == (2, "off")
    assert len(notes) == 2


def test_several_stores_are_one_pool(store: Store, tmp_path: Path) -> None:
    more = make_store(tmp_path / "more", random_volumes(2, GRID, seed=9), profile="other")
    summary = pretrain(
        [store.path, more.path], tmp_path / "run", recipe=QUICK, device="cpu", max_steps=2
    )
    assert summary.volumes == 7
    stores = checkpoint.read_run(tmp_path / "run")["provenance"]["stores"]
    assert [entry["volumes"] for entry in stores] == [5, 2]


def test_bad_input_is_one_line_and_nothing_is_written(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    other_grid = make_store(tmp_path / "grid", random_volumes(2, (4, 64, 96)))
    undivided = make_store(tmp_path / "undivided", random_volumes(2, (4, 64, 64)))
    other_window = make_store(tmp_path / "window", random_volumes(2, GRID), level_hu=40.0)
    empty = make_store(tmp_path / "empty", random_volumes(1, GRID)[:0])
    (tmp_path / "plain").mkdir()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("at least one store", {"stores": []}),
        ("expected a store", {"stores": [tmp_path / "absent"]}),
        ("expected a store", {"stores": [tmp_path / "plain"]}),
        ("given twice", {"stores": [store.path, store.path]}),
        ("grid", {"stores": [store.path, other_grid.path]}),
        ("window level", {"stores": [store.path, other_window.path]}),
        ("no volumes", {"stores": [empty.path]}),
        ("multiples of 3", {"stores": [undivided.path]}),
        ("one of default, tiny", {"recipe": "huge"}),
        ("max steps", {"max_steps": 0}),
        ("expected cpu or cuda", {"device": "abacus"}),
        ("timm model", {"recipe": replace(QUICK, backbone="resnet1000")}),
        ("nothing to resume", {"resume": True}),
        ("expected a folder", {"out": store.path / "zarr.json"}),
    ]
    for message, changes in cases:
        settings: dict[str, Any] = {
            "stores": [store.path], "out": run, "recipe": QUICK, "device": "cpu", **changes,
        }  # fmt: skip
        with pytest.raises(InputError, match=message) as caught:
            pretrain(settings.pop("stores"), settings.pop("out"), **settings)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
        assert not run.exists()


def test_a_run_is_not_overwritten_nor_mixed(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain([store.path], run, recipe=QUICK, device="cpu", max_steps=2)

    def files() -> dict[Path, bytes]:
        paths = [p for p in run.rglob("*") if p.is_file() and p.name != ".lock"]
        return {path: path.read_bytes() for path in paths}

    before = files()
    with pytest.raises(InputError, match="already holds a run"):
        pretrain([store.path], run, recipe=QUICK, device="cpu")
    with pytest.raises(InputError, match=r"recipe\.batch_size was 3, is 2"):
        pretrain([store.path], run, recipe=replace(QUICK, batch_size=2), device="cpu", resume=True)
    grown = make_store(store.path.parent.parent / "grown", random_volumes(4, GRID))
    with pytest.raises(InputError, match="cannot resume: stores was"):
        pretrain([grown.path], run, recipe=QUICK, device="cpu", resume=True)
    assert files() == before


def test_a_corrupt_volume_ends_the_run_and_is_named(store: Store, tmp_path: Path) -> None:
    for row in range(5):
        (store.path / chunk_key(row)).write_bytes(b"short")
    with pytest.raises(StoreCorrupt, match="series-00"):
        pretrain([store.path], tmp_path / "run", recipe=QUICK, device="cpu")


def test_progress_is_logged(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="voco_models"):
        pretrain([store.path], tmp_path / "run", recipe=QUICK, device="cpu", max_steps=2)
    assert "step 2 of 6: loss " in caplog.text


@pytest.mark.parametrize("name", sorted(PRETRAIN_RECIPES))
def test_every_recipe_can_be_built(name: str) -> None:
    recipe = pretrain_recipe(name)
    with torch.device("meta"):
        backbone = create_backbone(recipe.backbone)
    backbone = backbone.to_empty(device="cpu")
    crop_px = recipe.voco.crop_plan((192, 192)).size
    encoder = SliceEncoder(backbone, crop_px, recipe.voco.encoder_options)
    objective = Voco2d(encoder, (192, 192), recipe.voco, input_window(None, PRETRAIN))
    assert objective.plan.size == (192 // recipe.voco.grid,) * 2
    assert json.loads(json.dumps(asdict(recipe)))["backbone"] == recipe.backbone


def test_the_default_recipe_is_the_published_one() -> None:
    recipe = pretrain_recipe("default")
    assert recipe.backbone == "efficientnetv2_rw_t"
    assert recipe.batch_size == 4
    fit = recipe.fit
    assert (fit.lr, fit.weight_decay, fit.amsgrad) == (1e-4, 0.01, True)
    assert (fit.warmup_steps, fit.total_steps) == (5_000, 250_000)
    voco = recipe.voco
    assert (voco.grid, voco.n_random, voco.target, voco.level) == (3, 2, "overlap", "volume")
    assert (voco.feature, voco.projector_width, voco.embedding) == ("map", 2048, 2048)
    assert (voco.teacher, voco.momentum) == ("ema", 0.9)
    assert voco.loss == LossOptions("weighted", "square", False, "one_way", "next", "squared")


def test_a_recipe_whose_batch_has_no_pair_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size >= 2"):
        replace(QUICK, batch_size=1)


def test_monitors_observe_and_change_no_loss(store: Store, tmp_path: Path) -> None:
    steps = []

    class StepMonitor:
        every = 2

        def observe(self, state: TrainState) -> None:
            steps.append(state.step)
            state.objective.eval()
            torch.rand(1)

    options: dict[str, Any] = {"recipe": QUICK, "device": "cpu"}
    pretrain([store.path], tmp_path / "observed", monitors=[StepMonitor()], **options)
    assert steps == [2, 4, 6]
    pretrain([store.path], tmp_path / "plain", **options)
    assert curve(tmp_path / "observed") == curve(tmp_path / "plain")
