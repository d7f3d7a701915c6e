"""Recipes from files and single changes: what they give, and what is refused in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from voco_data.errors import InputError
from voco_models.recorded_options import values_to_record
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, FinetuneRecipe, finetune_recipe
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES, PretrainRecipe, pretrain_recipe
from voco_models.stages.recipe_options import build_recipe, describe_type, options_of, recipe_label
from voco_models.training.optimizers import AdamW, Sgd

PRETRAIN = PRETRAIN_RECIPES["tiny"]
NAMES = "default, tiny, small, default_s, grid4, grid4_s, authors"
VOCO = PRETRAIN.voco
FINETUNE = FINETUNE_RECIPES["tiny"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("fit.lr=1e-2", replace(PRETRAIN, fit=replace(PRETRAIN.fit, lr=0.01))),
        ("fit.lr = 1", replace(PRETRAIN, fit=replace(PRETRAIN.fit, lr=1.0))),
        ("fit.clip_norm=0.5", replace(PRETRAIN, fit=replace(PRETRAIN.fit, clip_norm=0.5))),
        ("fit.clip_norm=none", PRETRAIN),
        ("compile=false", replace(PRETRAIN, compile=False)),
        ("backbone=resnet18", replace(PRETRAIN, backbone="resnet18")),
        ('backbone="resnet18"', replace(PRETRAIN, backbone="resnet18")),
        ("voco.encode_px=32", replace(PRETRAIN, voco=replace(VOCO, encode_px=32))),
        (
            "voco.loss.form=plain",
            replace(
                PRETRAIN,
                voco=replace(PRETRAIN.voco, loss=replace(PRETRAIN.voco.loss, form="plain")),
            ),
        ),
        (
            "fit={seed=4, log_every=2}",
            replace(PRETRAIN, fit=replace(PRETRAIN.fit, seed=4, log_every=2)),
        ),
    ],
)
def test_a_change_of_pretraining(change: str, expected: PretrainRecipe) -> None:
    assert pretrain_recipe("tiny", [change]) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["lr=1e-2", "lr=1e-3"], {"lr": 0.001}),
        (["window_hu=[0, 100]"], {"window_hu": (0.0, 100.0)}),
        (["window_hu=none"], {"window_hu": None}),
        (
            ["head=bilstm", "pooling=mean", "attention_weight=0", "flips=[[], [1, 2]]"],
            {"head": "bilstm", "pooling": "mean", "attention_weight": 0.0, "flips": ((), (1, 2))},
        ),
        (["class_weights=[1, 2, 3.5]"], {"class_weights": (1.0, 2.0, 3.5)}),
        (["view.slices=12"], {"view": replace(FINETUNE.view, slices=12)}),
        (["optimizer.betas=[0.9, 0.95]"], {"optimizer": AdamW(betas=(0.9, 0.95))}),
        (["optimizer.kind=sgd"], {"optimizer": Sgd()}),
        # In any order: the kind decides which options there are.
        (["optimizer.momentum=0.5", "optimizer.kind=sgd"], {"optimizer": Sgd(momentum=0.5)}),
    ],
)
def test_changes_of_fine_tuning(changes: list[str], expected: dict[str, Any]) -> None:
    expected = {"name": "tiny, changed", **expected}
    assert finetune_recipe("tiny", changes) == replace(FINETUNE, **expected)


def test_a_width_that_the_transformer_cannot_divide_is_refused() -> None:
    changes = ["head=transformer", "pooling=mean", "attention_weight=0"]
    assert finetune_recipe("tiny", [*changes, "hidden=12"]).hidden == 12
    with pytest.raises(InputError, match="must be a multiple of 4, got 10"):
        finetune_recipe("tiny", [*changes, "hidden=10"])


def test_a_change_to_what_it_was_is_none() -> None:
    assert finetune_recipe("tiny", [f"lr={FINETUNE.lr}"]) == FINETUNE
    assert finetune_recipe("tiny", ["name=mine"]) == replace(FINETUNE, name="mine")
    assert finetune_recipe(FINETUNE) is FINETUNE
    assert finetune_recipe(FINETUNE, ["seed=1"]).seed == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["fit.lrr=1"], "no option fit.lrr; did you mean fit.lr?"),
        (["lr=1"], "no option lr; did you mean fit.lr?"),
        (["optimizer.kind=sgd"], "no option optimizer.kind; did you mean fit.optimizer.kind?"),
        (["bach_size=3"], "did you mean batch_size?"),
        (["fit.lr=fast"], "fit.lr: expected a number, got 'fast'"),
        (["fit.lr=nan"], "fit.lr: expected a number, got nan"),
        (["fit.lr=true"], "fit.lr: expected a number, got True"),
        (["fit.lr=-1"], "lr must be > 0"),
        (["batch_size=2.5"], "batch_size: expected a whole number, got 2.5"),
        (
            ["batch_size=" + "9" * 40],
            "batch_size: expected a whole number, got 9",
        ),
        (["batch_size=" + "9" * 5000], "batch_size: expected a whole number, got '9"),
        (["fit.lr=" + "9" * 400], "fit.lr: expected a number, got 9"),
        (["fit.lr=" + "[" * 5000], "fit.lr: expected a number, got '[["),
        (["batch_size=true"], "batch_size: expected a whole number, got True"),
        (["batch_size=0", "voco.loss.inter=off"], "batch_size must be >= 1, got 0"),
        (["compile=1"], "compile: expected true or false, got 1"),
        (["backbone=5"], "backbone: expected a text, got 5"),
        (["voco.loss.form=plane"], "voco.loss.form: expected weighted or plain, got 'plane'"),
        (["voco.momentum=2"], "momentum and momentum_end must be from 0 to 1"),
        (["fit=3"], "fit: expected a table of options, got 3"),
        (["fit.optimizer.kind=adam"], "fit.optimizer.kind: expected adamw or sgd, got 'adam'"),
        (["fit.optimizer.kind=sgd"], "amsgrad needs the optimizer adamw, got sgd"),
        (["fit.optimizer.betas=[0.9]"], "expected a list of 2 numbers, got [0.9]"),
        (["fit.optimizer.betas=[0.9, 1]"], "betas must be from 0 to below 1"),
        (["fit.optimizer.eps=0"], "eps must be > 0"),
        (["fit.clip_norm=0"], "clip_norm must be > 0 or none, got 0.0"),
        (["fit.clip_norm=low"], "fit.clip_norm: expected a number or none, got 'low'"),
        (["fit.optimizer={kind='sgd', momentum=1.5}", "fit.amsgrad=false"], "momentum must be"),
        (["seed"], "expected name=value"),
        (["=1"], "expected name=value"),
        (["fit..lr=1"], "expected name=value"),
        (["fit=3", "fit.lr=1"], "another change"),
        (["compile=true\nbatch_size=1"], "compile: expected true or false"),
    ],
    ids=str,
)
def test_a_bad_change_is_one_line(changes: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        pretrain_recipe("tiny", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs=0", "epochs must be >= 1, got 0"),
        ("n_folds=1", "n_folds must be >= 2, got 1"),
        ("lr=0", "lr must be > 0"),
        ("dropout=1", "dropout must be from 0 to below 1"),
        ("warmup_fraction=1.5", "warmup_fraction must be in 0..1"),
        ("patient=median", "patient: expected mean or max, got 'median'"),
        ("flips=[[0]]", "flips needs at least one view"),
        ("flips=[]", "flips needs at least one view"),
        ("flips=[1]", "flips[0]: expected a list of whole numbers, got 1"),
        ("window_hu=[0]", "window_hu: expected a list of 2 numbers, got [0]"),
        ("class_weights=[0, 1, 2]", "class_weights must be > 0"),
        ("view.reduce=crop", "view.reduce: expected average or subsample"),
        ("augmentation.flip_z=2", "probabilities of an augmentation"),
        ("images_per_call=0", "images_per_call must be >= 1 or none"),
        ("batch_size=1", "feature_norm = batch of the head organ_queries needs batch_size >= 2"),
        ("fit.lr=1", "no option fit.lr; did you mean lr?"),
        ("recompute=true", "recompute: expected off, blocks or calls, got True"),
        ("recompute=calls", "recompute = calls needs images_per_call"),
        ("ema_decay=1", "ema_decay must be from 0 to below 1, got 1.0"),
        ("mixup_alpha=-1", "mixup_alpha must be >= 0, got -1.0"),
        ("mixup_alpha=0.4", "the head organ_queries knows where slices are in the body"),
    ],
)
def test_a_bad_change_of_fine_tuning_is_one_line(change: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        finetune_recipe("tiny", [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_changes_a_base(tmp_path: Path) -> None:
    text = 'base = "tiny"\nbatch_size = 2\n[fit]\nlr = 2e-3\n[voco.loss]\ninter = "off"\n'
    path = write(tmp_path, text)
    loss = replace(PRETRAIN.voco.loss, inter="off")
    expected = replace(
        PRETRAIN,
        batch_size=2,
        fit=replace(PRETRAIN.fit, lr=2e-3),
        voco=replace(PRETRAIN.voco, loss=loss),
    )
    assert pretrain_recipe(path) == pretrain_recipe(str(path)) == expected
    changed = pretrain_recipe(str(path), ["fit.seed=3"])
    assert changed == replace(expected, fit=replace(expected.fit, seed=3))


def test_a_file_names_a_fine_tuning_recipe(tmp_path: Path) -> None:
    assert finetune_recipe(write(tmp_path, 'base = "tiny"\n')) == replace(FINETUNE, name="mine")
    path = write(tmp_path, 'base = "tiny"\nname = "other"\nseed = 2\n')
    assert finetune_recipe(path) == replace(FINETUNE, name="other", seed=2)


def test_a_file_without_a_base_has_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "[fit]\ntotal_steps = 9\nlr = 0.1\nweight_decay = 0\n")
    recipe = pretrain_recipe(path)
    assert (recipe.fit.total_steps, recipe.fit.weight_decay) == (9, 0.0)
    assert recipe == PretrainRecipe(fit=recipe.fit)


@pytest.mark.parametrize("recipe", [*PRETRAIN_RECIPES.values(), *FINETUNE_RECIPES.values()])
def test_a_recorded_recipe_reads_back(recipe: Any) -> None:
    """As JSON, which turns tuples into lists: what `run.json` holds."""
    values = json.loads(json.dumps(values_to_record(recipe)))
    assert build_recipe(type(recipe), values) == recipe
    sgd = Sgd(momentum=0.8, decayed="matrices")
    other = (
        replace(recipe, optimizer=sgd)
        if isinstance(recipe, FinetuneRecipe)
        else replace(recipe, fit=replace(recipe.fit, optimizer=sgd, amsgrad=False))
    )
    assert build_recipe(type(recipe), json.loads(json.dumps(values_to_record(other)))) == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base = 'huge'",
            f"mine.toml: recipe: base: expected one of {NAMES}, got 'huge'",
        ),
        (
            "base = 3",
            f"base: expected one of {NAMES}, got 3",
        ),
        ("[fit]\nlr = 0.1", "fit.total_steps: expected a whole number, got nothing"),
        ("batch_size = 3", "fit: expected a table of options, got nothing"),
        ("base = 'tiny'\n[fitt]\nlr = 0.1", "no option fitt.lr; did you mean fit.lr?"),
        ("base = 'tiny'\nfit.lr = '1'", "fit.lr: expected a number, got '1'"),
        ("base = 'tiny'\nbackbone = 2026-01-01", "backbone: expected a text"),
        ("base = tiny", "cannot be read as TOML (Invalid value (at line 1"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        pretrain_recipe(write(tmp_path, text))
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=rf"one of {NAMES}, or the path of a \.toml file",
    ):
        pretrain_recipe("tinny")
    with pytest.raises(InputError, match="one of default, code, tiny, or the path"):
        finetune_recipe("tinny")
    with pytest.raises(InputError, match=r"none\.toml: cannot be read \(No such file"):
        pretrain_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="expected UTF-8 text"):
        pretrain_recipe(tmp_path / "binary.toml")


def test_a_run_names_its_recipe() -> None:
    assert recipe_label("tiny") == "tiny"
    assert recipe_label("tiny", ["seed=1"]) == "tiny, changed"
    assert recipe_label("folder/mine.toml") == recipe_label(Path("folder/mine.toml")) == "mine"
    assert recipe_label(PRETRAIN) == "custom"


def test_every_option_has_a_type_in_words() -> None:
    for cls in (PretrainRecipe, FinetuneRecipe):
        options = list(options_of(cls))
        assert len({option.name for option in options}) < len(options)  # `kind` of two optimisers
        for option in options:
            assert describe_type(option.hint)
    types = {option.name: describe_type(option.hint) for option in options_of(FinetuneRecipe)}
    assert types["flips"] == "a list of lists of whole numbers"
    assert types["window_hu"] == "a list of 2 numbers or none"
    assert types["optimizer.fused"] == "auto, on or off"


def test_options_that_runs_do_not_record_are_as_before() -> None:
    """What a run recorded before the optimiser was an option, key by key."""
    record = values_to_record(PRETRAIN)
    assert list(record) == ["fit", "backbone", "voco", "batch_size", "compile"]
    assert list(record["fit"]) == [
        "total_steps", "lr", "weight_decay", "warmup_steps", "amsgrad", "final_lr_fraction",
        "clip_norm", "log_every", "checkpoint_every", "seed", "amp",
    ]  # fmt: skip
    assert "optimizer" not in FINETUNE.to_json()
    later = {
        "optimizer", "selection", "groups", "label_fraction", "steps", "recompute", "ema_decay",
        "mixup_alpha",
        "slice_weight",
        "finding_share",
        "amp_cpu",
    }  # fmt: skip
    assert set(FINETUNE.to_json()) == {f.name for f in dataclasses.fields(FINETUNE)} - later


RECORDS = {
    ("pretrain", "default"): "35f71b04b2c4",
    ("pretrain", "tiny"): "3899ccd741a5",
    ("finetune", "default"): "fa3cecfa4407",
    ("finetune", "code"): "7f8a0e53b168",
    ("finetune", "tiny"): "164f5e679908",
}
"""SHA-256 of what a run of the built-in recipes recorded before the optimiser was an option; of the
fine-tuning recipe `tiny`, since it has the head `organ_queries`."""


@pytest.mark.parametrize(("stage", "name"), RECORDS)
def test_runs_record_the_built_in_recipes_as_before(stage: str, name: str) -> None:
    """So a run that was stopped before can be resumed. A recipe changed on purpose changes this."""
    recipes: dict[str, Any] = {**(PRETRAIN_RECIPES if stage == "pretrain" else FINETUNE_RECIPES)}
    text = json.dumps(values_to_record(recipes[name]), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == RECORDS[stage, name]
