"""Fine-tuning with recomputed activations, a moving average and mixup: exact, resumed, refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.support.small_finetune import RECIPE, small_cohort
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_models.data.loader import Loader
from voco_models.evaluation.predictions import probability_columns, read_predictions
from voco_models.networks import Recompute
from voco_models.networks.backbones import TimmBackbone
from voco_models.stages.finetune_plan import make_plan
from voco_models.stages.finetune_predictions import predict_fold
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.finetuning import _build_objective, _make_fit_config, finetune
from voco_models.training import checkpoint, prepare, take_step
from voco_models.training.history import read_history

OPTIONS: dict[str, dict[str, Any]] = {
    "off": {},
    "blocks": {"recompute": "blocks"},
    "parts": {"images_per_call": 3},
    "calls": {"images_per_call": 3, "recompute": "calls"},
    "average": {"ema_decay": 0.5},
    "mixup": {"mixup_alpha": 0.4},
    "all": {"recompute": "blocks", "ema_decay": 0.5, "mixup_alpha": 0.4},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return small_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def runs(cohort: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run with each of `OPTIONS`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in OPTIONS.items():
        finetune(*cohort, folder / name, recipe=recipe_of(options), device="cpu")
    return {name: folder / name for name in OPTIONS}


def recipe_of(options: dict[str, Any]) -> FinetuneRecipe:
    return dataclasses.replace(RECIPE, **options)


def curve(run: Path) -> pd.DataFrame:
    return pd.DataFrame(read_history(run / "fold-1")).drop(columns="seconds")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = checkpoint.load(run / "fold-1" / "checkpoint.pt")[
        "objective"
    ]
    return weights


@pytest.mark.parametrize(("recomputed", "kept"), [("blocks", "off"), ("calls", "parts")])
def test_recomputed_activations_change_no_bit(
    runs: dict[str, Path], recomputed: str, kept: str
) -> None:
    """Losses, weights and batch norm's statistics; there is dropout in the head."""
    pd.testing.assert_frame_equal(curve(runs[recomputed]), curve(runs[kept]), check_exact=True)
    one, other = weights_of(runs[recomputed]), weights_of(runs[kept])
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_parts_are_another_run_than_the_whole(runs: dict[str, Path]) -> None:
    assert not curve(runs["parts"]).equals(curve(runs["off"]))


@pytest.mark.parametrize(
    "name",
    [
        "calls",
        "all",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("blocks", "average", "mixup")),
    ],
)
def test_a_stopped_run_ends_as_if_never_stopped(
    cohort: tuple[Store, Path], runs: dict[str, Path], tmp_path: Path, name: str
) -> None:
    out, recipe = tmp_path / "run", recipe_of(OPTIONS[name])
    finetune(*cohort, out, recipe=recipe, device="cpu", max_steps=3)
    finetune(*cohort, out, recipe=recipe, device="cpu", resume=True)
    pd.testing.assert_frame_equal(curve(out), curve(runs[name]), check_exact=True)
    one, other = weights_of(out), weights_of(runs[name])
    assert all(torch.equal(one[key], other[key]) for key in other)
    pd.testing.assert_frame_equal(
        read_predictions(out / "predictions.parquet"),
        read_predictions(runs[name] / "predictions.parquet"),
        check_exact=True,
    )


def test_a_mixture_of_options_trains_otherwise(runs: dict[str, Path]) -> None:
    """The average does not touch the training; mixup does."""
    pd.testing.assert_frame_equal(curve(runs["average"]), curve(runs["off"]), check_exact=True)
    pd.testing.assert_frame_equal(curve(runs["all"]), curve(runs["mixup"]), check_exact=True)
    assert not curve(runs["mixup"]).equals(curve(runs["off"]))


def test_the_average_of_the_steps_predicts(
    cohort: tuple[Store, Path], runs: dict[str, Path]
) -> None:
    """The average of a fold by hand, from the weights after each step, and its predictions."""
    store, labels = cohort
    plan = make_plan(store, labels, recipe_of(OPTIONS["average"]), init="scratch")
    series = plan.training_series(1)
    objective = _build_objective(plan, 1, series)
    config = _make_fit_config(plan, 1)
    device = torch.device("cpu")
    state = prepare(objective, config, device)
    loader = Loader(
        plan.items_of(series),
        batch_size=plan.recipe.batch_size,
        seed=config.seed,
        device=device,
        targets=plan.classes_of(series),
    )
    key = "classifier.head.heads.heads.liver.weight"
    expected = objective.state_dict()[key].clone()
    batches = loader.batches_from(0)
    for _ in range(plan.count_steps(1)):
        take_step(state, [next(batches)], config)
        expected = 0.5 * expected + 0.5 * objective.state_dict()[key]
    batches.close()
    saved = weights_of(runs["average"])
    average = saved[key.replace("classifier.", "average.")]
    torch.testing.assert_close(average, expected)
    assert not torch.equal(average, saved[key])
    objective.load_state_dict(saved)
    columns = probability_columns(plan.targets)
    found = read_predictions(runs["average"] / "fold-1" / "predictions.parquet")[columns]
    for network, same in ((objective.average, True), (objective.classifier, False)):
        table = predict_fold(plan, 1, network, device, None)[columns]
        assert table.equals(found) == same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": 0.4, "batch_size": 3}, "needs an even batch_size"),
        ({"mixup_alpha": 0.4, "head": "transformer"}, "knows where slices are in the body"),
        ({"recompute": "calls"}, "needs images_per_call"),
        ({"ema_decay": -0.1}, "ema_decay must be from 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        recipe_of(options)
    assert "\n" not in str(caught.value)


def test_a_backbone_that_cannot_recompute_is_refused_before_anything_is_written(
    cohort: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: TimmBackbone, enabled: bool) -> None:
        raise InputError(f"backbone {self.name}: turn recompute off, got {enabled}")

    monkeypatch.setattr(TimmBackbone, "set_recompute", refuse)
    with pytest.raises(InputError, match="turn recompute off"):
        finetune(*cohort, tmp_path / "run", recipe=recipe_of({"recompute": "blocks"}))
    assert not (tmp_path / "run").exists()


def test_an_older_run_resumes_without_the_options(runs: dict[str, Path]) -> None:
    """What is off is not recorded, so the recipes of older runs are as they were."""
    recorded = checkpoint.read_run(runs["off"])["recipe"]
    assert not {"recompute", "ema_decay", "mixup_alpha"} & set(recorded)
    value: Recompute = "blocks"
    assert checkpoint.read_run(runs["blocks"])["recipe"]["recompute"] == value


@pytest.mark.parametrize("amp_cpu", [False, True])
def test_amp_cpu_trains_in_bf16_and_predicts_in_float32(
    cohort: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp_cpu: bool
) -> None:
    types: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    forward = torch.nn.Conv2d.forward

    def recording_forward(layer: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        output = forward(layer, images)
        types[torch.is_grad_enabled()].add(output.dtype)
        return output

    monkeypatch.setattr(torch.nn.Conv2d, "forward", recording_forward)
    finetune(*cohort, tmp_path / "run", recipe=recipe_of({"amp_cpu": amp_cpu}), device="cpu")
    assert types[True] == {torch.bfloat16 if amp_cpu else torch.float32}
    assert types[False] == {torch.float32}
