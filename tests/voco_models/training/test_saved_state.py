"""Fields of checkpoint.pt and backbone.pt of the wrong type or out of range: one line each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.voco_models.training.test_engine import CONFIG, PROVENANCE, run
from voco_data.errors import InputError
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.registry import create_backbone
from voco_models.networks.weight_files import write_safetensors
from voco_models.training import checkpoint
from voco_models.training.history import read_history

Payload = dict[str, Any]
WEIGHT, VARIANCE = "net.0.weight", "net.1.running_var"


def put(*path: Any, value: Any) -> Callable[[Payload], None]:
    """Set the value at a path of keys."""

    def change(payload: Payload) -> None:
        place: Any = payload
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[Payload], None]:
    """Remove the entry at a path of keys."""

    def change(payload: Payload) -> None:
        place: Any = payload
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def in_place(*path: Any, value: float) -> Callable[[Payload], None]:
    """Set the first number of the tensor at a path of keys."""

    def change(payload: Payload) -> None:
        place: Any = payload
        for key in path:
            place = place[key]
        place.view(-1)[0] = value

    return change


AVERAGES = ("optimizer", "state", 0)
GROUP = ("optimizer", "param_groups", 0)
BAD_CHECKPOINTS: dict[str, tuple[Callable[[Payload], None], str]] = {
    "step of 10^9": (put("step", value=10**9), "step: expected at most the 20 of the recipe"),
    "step of 10^30": (put("step", value=10**30), "step: expected a whole number"),
    "step negative": (put("step", value=-1), "step: expected a whole number"),
    "step bool": (put("step", value=True), "step: expected a whole number"),
    "step float": (put("step", value=7.0), "step: expected a whole number"),
    "step NaN": (put("step", value=math.nan), "step: expected a whole number"),
    "step text": (put("step", value="7"), "step: expected a whole number"),
    "step none": (put("step", value=None), "step: expected a whole number"),
    "step earlier": (put("step", value=5), "history: expected rows of rising steps"),
    "step of a tensor": (put("step", value=torch.tensor(7)), "step: expected a whole number"),
    "seconds negative": (put("seconds", value=-1.0), "seconds: expected a finite number"),
    "seconds NaN": (put("seconds", value=math.nan), "seconds: expected a finite number"),
    "seconds infinite": (put("seconds", value=math.inf), "seconds: expected a finite number"),
    "seconds text": (put("seconds", value="1"), "seconds: expected a finite number"),
    "seconds missing": (drop("seconds"), "got no seconds"),
    "step missing": (drop("step"), "got no step"),
    "weights missing": (drop("objective"), "got no objective"),
    "optimizer missing": (drop("optimizer"), "got no optimizer"),
    "provenance missing": (drop("provenance"), "got no provenance"),
    "another entry": (put("epoch", value=10**6), "got also 'epoch'"),
    "an entry with a number as name": (put(7, value=7), "got also 7"),
    "window number": (put("window", value=3), "window: expected a list"),
    "window longer": (
        lambda payload: payload["window"].extend(payload["window"]), "expected 3 rows"
    ),
    "window row of text": (put("window", 0, value="row"), "window: expected a list of rows"),
    "window text": (put("window", 0, "loss", value="low"), "window: expected a list of rows"),
    "window NaN": (put("window", 0, "loss", value=math.nan), "a finite loss"),
    "window without loss": (drop("window", 0, "loss"), "window: expected a list of rows"),
    "window of other columns": (drop("window", 1, "noise"), "window: expected a list of rows"),
    "history text": (put("history", value="step,loss"), "history: expected columns"),
    "history of another size": (
        put("history", "values", value=torch.zeros(1, 2, dtype=torch.float64)), "history: expected"
    ),
    "history float32": (put("history", "values", value=torch.zeros(1, 6)), "history: expected"),
    "history column twice": (put("history", "columns", 1, value="step"), "history: expected"),
    "history of a later step": (in_place("history", "values", value=8.0), "rows of rising steps"),
    "history NaN": (in_place("history", "values", value=math.nan), "rows of rising steps"),
    "provenance text": (put("provenance", value="toy"), "provenance: expected values by name"),
    "recipe of numbers": (put("provenance", "recipe", value=[1]), "provenance.recipe: expected"),
    "stage number": (put("provenance", "stage", value=3), "provenance.stage: expected a text"),
    "stores text": (put("provenance", "stores", value="x"), "provenance.stores: expected a list"),
    "weights list": (put("objective", value=[1]), "objective: expected a state dict"),
    "weight missing": (drop("objective", WEIGHT), f"{WEIGHT} is missing"),
    "weight of another name": (
        put("objective", "net.\n\x1b[31m", value=torch.zeros(1)), r"'net.\n\x1b[31m' is not of this"
    ),
    "weight of a number as name": (put("objective", 3, value=torch.zeros(1)), "no text"),
    "weight float64": (
        put("objective", WEIGHT, value=torch.zeros(8, 18, dtype=torch.float64)), "is float64"
    ),
    "weight int": (
        put("objective", WEIGHT, value=torch.zeros(8, 18, dtype=torch.int64)), "is int64"
    ),
    "weight complex": (
        put("objective", WEIGHT, value=torch.zeros(8, 18, dtype=torch.complex64)), "is complex64"
    ),
    "weight of another shape": (
        put("objective", WEIGHT, value=torch.zeros(18, 8)), "has the shape (18, 8)"
    ),
    "weight sparse": (
        put("objective", WEIGHT, value=torch.zeros(8, 18).to_sparse()), "cannot read it"
    ),
    "weight of numbers": (put("objective", WEIGHT, value=[0.0]), "is no tensor but list"),
    "weight NaN": (in_place("objective", WEIGHT, value=math.nan), "not finite"),
    "weight infinite": (in_place("objective", WEIGHT, value=math.inf), "not finite"),
    "variance negative": (in_place("objective", VARIANCE, value=-1.0), "has negative values"),
    "optimizer text": (put("optimizer", value="adam"), "optimizer: expected a state dict"),
    "optimizer empty": (put("optimizer", value={}), "expected state and param_groups"),
    "no averages": (put("optimizer", "state", value={}), "expected the averages of 6 parameters"),
    "averages of another parameter": (
        put("optimizer", "state", 99, value={}), "expected numbers of 6 parameters, got 99"
    ),
    "average missing": (drop(*AVERAGES, "exp_avg"), "parameter 0: expected exp_avg"),
    "average of another shape": (
        put(*AVERAGES, "exp_avg", value=torch.zeros(3)), "exp_avg has the shape (3,)"
    ),
    "average NaN": (in_place(*AVERAGES, "exp_avg", value=math.nan), "exp_avg has values"),
    "average int": (
        put(*AVERAGES, "exp_avg", value=torch.zeros(8, 18, dtype=torch.int64)), "exp_avg is int64"
    ),
    "average of squares negative": (
        in_place(*AVERAGES, "exp_avg_sq", value=-1.0), "exp_avg_sq has negative values"
    ),
    "steps of the optimiser": (in_place(*AVERAGES, "step", value=1e9), "step: expected 0 to 7"),
    "groups missing": (put("optimizer", "param_groups", value=[]), "expected 1 groups"),
    "group text": (put(*GROUP, value="all"), "group 0: expected options"),
    "parameters missing": (put(*GROUP, "params", value=[0]), "group 0: expected the parameters"),
    "betas": (put(*GROUP, "betas", value=(0.9, 2.0)), "group 0: betas: expected"),
    "weight decay": (put(*GROUP, "weight_decay", value=-5.0), "weight_decay: expected 0.01"),
    "weight decay bool": (put(*GROUP, "amsgrad", value=1), "amsgrad: expected True, got 1"),
    "learning rate": (put(*GROUP, "lr", value="high"), "group 0: lr: expected a finite number"),
    "fused": (put(*GROUP, "fused", value="yes"), "group 0: fused: expected true or false"),
}  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped at step 7, with 3 steps since the row of step 4."""
    out = tmp_path_factory.mktemp("stopped")
    run(out, max_steps=7)
    return out


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_a_bad_field_of_a_checkpoint_is_one_line(stopped: Path, tmp_path: Path, kind: str) -> None:
    change, message = BAD_CHECKPOINTS[kind]
    payload = checkpoint.load(stopped / checkpoint.CHECKPOINT)
    change(payload)
    checkpoint.save(tmp_path / checkpoint.CHECKPOINT, payload)
    (tmp_path / "history.csv").write_bytes((stopped / "history.csv").read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError) as caught:
        run(tmp_path, resume=True)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{tmp_path / checkpoint.CHECKPOINT}: ")
    assert "\n" not in text
    assert len(text) < 700
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_the_same_file_without_a_change_resumes(stopped: Path, tmp_path: Path) -> None:
    payload = checkpoint.load(stopped / checkpoint.CHECKPOINT)
    checkpoint.save(tmp_path / checkpoint.CHECKPOINT, payload)
    assert run(tmp_path, resume=True).finished
    # a lost history is made again from the checkpoint
    assert [row["step"] for row in read_history(tmp_path)] == [4, 8, 12, 16, 20]


def test_a_checkpoint_of_an_older_version_has_no_rows_and_resumes(
    stopped: Path, tmp_path: Path
) -> None:
    payload = checkpoint.load(stopped / checkpoint.CHECKPOINT)
    del payload["history"]
    checkpoint.save(tmp_path / checkpoint.CHECKPOINT, payload)
    (tmp_path / "history.csv").write_bytes((stopped / "history.csv").read_bytes())
    assert run(tmp_path, resume=True).finished
    assert [row["step"] for row in read_history(tmp_path)] == [4, 8, 12, 16, 20]


BAD_BACKBONES: dict[str, tuple[Callable[[Payload], None], str]] = {
    "name number": (put("name", value=3), "name: expected the name of a backbone, got 3"),
    "name empty": (put("name", value=""), "name: expected the name of a backbone"),
    "name of control characters": (put("name", value="a\x1b[31m\n"), "name: expected the name"),
    "name of a million characters": (put("name", value="a" * 10**6), "name: expected the name"),
    "name unknown": (put("name", value="resnet19"), "expected the name of a timm model"),
    "family unknown": (put("name", value="hf-hub:a/b"), "expected a timm model or FAMILY:MODEL"),
    "name of another network": (put("name", value="test_resnet"), "is missing"),
    "no channels": (put("in_chans", value=0), "in_chans: expected a whole number from 1 to 64"),
    "channels absurd": (put("in_chans", value=10**9), "in_chans: expected a whole number"),
    "channels bool": (put("in_chans", value=True), "in_chans: expected a whole number"),
    "channels float": (put("in_chans", value=1.0), "in_chans: expected a whole number"),
    "channels of another stem": (put("in_chans", value=3), "has the shape"),
    "weights text": (put("weights", value="x"), "weights: expected a state dict"),
    "weights missing": (drop("weights"), "got no weights"),
    "another entry": (put("labels", value=[]), "got also 'labels'"),
    "provenance none": (put("provenance", value=None), "provenance: expected values by name"),
    "recipe text": (put("provenance", "recipe", value="x"), "provenance.recipe: expected"),
    "selection list": (put("provenance", "selection", value=[]), "provenance.selection: expected"),
    "store text": (put("provenance", "stores", value=["x"]), "values by name for each store"),
    "seen patients": (put("provenance", "seen_patients", value=3), "expected a text, got 3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    return checkpoint.save_backbone(folder, create_backbone(TINY_BACKBONE), {"stage": "pretrain"})


@pytest.mark.parametrize("kind", BAD_BACKBONES)
def test_a_bad_field_of_a_backbone_is_one_line(
    backbone_file: Path, tmp_path: Path, kind: str
) -> None:
    change, message = BAD_BACKBONES[kind]
    refused(backbone_file, tmp_path, change, message)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_of_a_backbone_are_finite(
    backbone_file: Path, tmp_path: Path, value: float
) -> None:
    first = next(iter(create_backbone(TINY_BACKBONE).state_dict()))
    refused(backbone_file, tmp_path, in_place("weights", first, value=value), "not finite")
    twice = torch.zeros(1, dtype=torch.float64)
    refused(backbone_file, tmp_path, put("weights", first, value=twice), f"{first} has the shape")


BAD_CARDS: dict[str, tuple[Payload, str]] = {
    "name": ({"architecture": 3}, "name: expected the name of a backbone"),
    "channels": ({"in_chans": 10**9}, "in_chans: expected a whole number"),
    "provenance": ({"provenance": "x"}, "provenance: expected values by name"),
    "recipe": ({"provenance": {"recipe": 3}}, "provenance.recipe: expected values by name"),
}


@pytest.mark.parametrize("kind", BAD_CARDS)
def test_a_bad_field_in_the_card_of_an_exported_backbone_is_one_line(
    tmp_path: Path, kind: str
) -> None:
    values, message = BAD_CARDS[kind]
    card = {"architecture": TINY_BACKBONE, "in_chans": 1, "provenance": {}}
    path, weights = tmp_path / "a.safetensors", create_backbone(TINY_BACKBONE).plain_weights()
    write_safetensors(path, weights, json.dumps(card))
    checkpoint.load_backbone(path)
    write_safetensors(path, weights, json.dumps(card | values))
    with pytest.raises(InputError) as caught:
        checkpoint.load_backbone(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    weights[next(iter(weights))].view(-1)[0] = math.nan
    write_safetensors(path, weights, json.dumps(card))
    with pytest.raises(InputError, match="expected finite weights"):
        checkpoint.load_backbone(path)


def refused(file: Path, folder: Path, change: Callable[[Payload], None], message: str) -> None:
    payload = checkpoint.load(file)
    change(payload)
    path = folder / checkpoint.BACKBONE
    checkpoint.save(path, payload)
    with pytest.raises(InputError) as caught:
        checkpoint.load_backbone(path)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 700


def test_the_config_and_provenance_of_these_tests_are_those_of_the_engine() -> None:
    """The numbers in the messages above."""
    assert CONFIG.total_steps == 20
    assert PROVENANCE["stage"] == "toy"
