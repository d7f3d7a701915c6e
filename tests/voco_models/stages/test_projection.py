"""Training of 3D-to-2D networks on stores with masks, and the boxes that they give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.organ_stores import GRID, ORGANS, organ_store
from tests.support.small_stores import make_store, random_volumes
from voco_data.cropping import read_boxes
from voco_data.errors import InputError
from voco_data.selection.exposure import SeenPatients
from voco_data.selection.split_file import read_split, update_split
from voco_data.store import Store, read_record
from voco_data.withdrawal.taint import is_tainted, mark_tainted
from voco_models.networks.weight_files import read_header, read_weights, write_safetensors
from voco_models.stages.localisation import localise
from voco_models.stages.projection import project
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.training import FitConfig, Sgd, checkpoint
from voco_models.training.history import read_history

SERIES, MASKED = 14, 12
RECIPE = ProjectionRecipe(
    fit=FitConfig(
        total_steps=4,
        lr=0.1,
        weight_decay=1e-4,
        optimizer=Sgd(),
        log_every=1,
        checkpoint_every=2,
    ),
    widths=(2, 2, 4, 4, 4),
    organs=ORGANS,
    batch_size=4,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return organ_store(tmp_path_factory.mktemp("stores"), SERIES, masked=MASKED)


def train(store: Store, out: Path, recipe: ProjectionRecipe = RECIPE, **options: Any) -> Any:
    return project([store.path], out, recipe=recipe, device="cpu", **options)


def curve(run: Path) -> pd.DataFrame:
    return pd.DataFrame(read_history(run)).drop(columns="seconds")


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that has learnt the organs, and its split."""
    folder = tmp_path_factory.mktemp("trained")
    update_split(store.path, folder / "split.json", test_share=0.3, n_folds=2)
    longer = replace(RECIPE, fit=replace(RECIPE.fit, total_steps=50, log_every=10))
    longer = replace(longer, network="unet_2d", widths=(8, 8, 16, 16, 16))
    summary = train(store, folder / "run", longer, split=folder / "split.json")
    assert set(summary.left_out) == {"test", "no mask used"}
    return folder / "run", folder / "split.json"


def test_boxes_of_patients_left_out_are_found(
    store: Store, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    """After a short training the faces are off by about a voxel."""
    run, split = trained
    test = set(read_split(split).test)
    found = localise(run, store, tmp_path / "boxes.csv", box="liver", margin_mm=0.0)
    assert found.found >= SERIES - 1
    table = pd.read_csv(tmp_path / "boxes.csv").set_index("patient_id")
    errors = []
    for row in range(MASKED):
        record = read_record(store.storage, row)
        assert record is not None
        if record.patient_id not in test or record.patient_id not in table.index:
            continue
        line = table.loc[record.patient_id]
        low, high = record.organs["liver"]
        ends = [line[f"{axis}_low_mm"] for axis in "zyx"], [line[f"{a}_high_mm"] for a in "zyx"]
        errors += [*(np.array(ends[0]) - low), *(np.array(ends[1]) - high)]
    assert len(errors) >= 6
    assert np.median(np.abs(errors)) < 2.0


def test_the_table_is_one_that_preprocess_takes(
    store: Store, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, _ = trained
    for name in ("boxes.csv", "boxes.parquet"):
        summary = localise(run, store, tmp_path / name, box="liver", margin_mm=2.0)
        boxes = read_boxes(tmp_path / name)
        assert len(boxes) == summary.found > 0
        for box in boxes.values():
            assert box.made_by == summary.made_by
            assert box.method == "projection"
            assert box.x_low_mm < box.x_high_mm


def test_masks_choose_nested_patients(store: Store, tmp_path: Path) -> None:
    seen = {}
    for count in (3, 6):
        run = tmp_path / str(count)
        summary = train(store, run, replace(RECIPE, masks=count), max_steps=1)
        assert (summary.patients, summary.volumes) == (count, count)
        known = SeenPatients.read(run)
        assert known is not None
        seen[count] = set(known.stores[0].contents)
    assert seen[3] < seen[6]


def test_all_weights_but_the_head_are_transferred(store: Store, tmp_path: Path) -> None:
    pretext = replace(RECIPE, target="mean")
    assert train(store, tmp_path / "pretext", pretext).volumes == SERIES  # no masks are needed
    mark_tainted(tmp_path / "pretext", "0123", "2026-03-01T03:00:00Z")
    before = checkpoint.load(tmp_path / "pretext" / "checkpoint.pt")["objective"]
    slow = replace(RECIPE, fit=replace(RECIPE.fit, lr=1e-12, weight_decay=0.0))
    train(store, tmp_path / "organs", slow, init=tmp_path / "pretext", max_steps=1)
    after = checkpoint.load(tmp_path / "organs" / "checkpoint.pt")["objective"]
    assert is_tainted(tmp_path / "organs")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "running" in name or "batches" in name:
            continue
        if ".head." in name:
            assert tensor.shape[0] == 1
            assert after[name].shape[0] == len(ORGANS)
        else:
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("target", ["organs", pytest.param("maximum", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_same_to_the_bit(store: Store, tmp_path: Path, target: Any) -> None:
    recipe = replace(RECIPE, target=target)
    train(store, tmp_path / "whole", recipe)
    train(store, tmp_path / "parts", recipe, max_steps=3)
    train(store, tmp_path / "parts", recipe, resume=True)
    pd.testing.assert_frame_equal(
        curve(tmp_path / "parts"), curve(tmp_path / "whole"), check_exact=True
    )
    parts, whole = (tmp_path / run / "networks.safetensors" for run in ("parts", "whole"))
    assert parts.read_bytes() == whole.read_bytes()


def test_a_run_with_other_masks_is_not_resumed(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "run", max_steps=1)
    other = organ_store(tmp_path / "other", SERIES, masked=MASKED - 1)
    with pytest.raises(InputError, match="cannot resume"):
        train(other, tmp_path / "run", resume=True)


def test_first_weights_that_are_not_finite_are_refused(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "pretext", max_steps=1)
    path = tmp_path / "pretext" / "networks.safetensors"
    weights, text = read_weights(path), json.dumps(read_header(path))
    name = next(n for n, t in weights.items() if n[0] == "c" and t.is_floating_point())
    weights[name].view(-1)[0] = float("inf")
    write_safetensors(path, weights, text)
    with pytest.raises(InputError, match=f"init: {name} has values that are not finite"):
        train(store, tmp_path / "run", init=tmp_path / "pretext", max_steps=1)
    assert not (tmp_path / "run").exists()


def test_weights_that_have_seen_test_patients_are_refused(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "pretext", replace(RECIPE, target="mean"), max_steps=1)
    split = tmp_path / "split.json"
    update_split(store.path, split, test_share=0.3, n_folds=2)
    with pytest.raises(InputError, match="test patients; give one that has not"):
        train(store, tmp_path / "run", split=split, init=tmp_path / "pretext")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"masks": 50}, "masks: expected at most 12, the patients with masks, got 50"),
        ({"organs": ("bowel",)}, "none of the 14 series has a mask of bowel"),
        ({"target": "masks"}, "target must be organs, mean"),
        ({"network": "unet"}, "network must be one of fpn"),
        ({"widths": (2, 2)}, "expected 5 widths"),
        ({"shuffled": True}, "shuffled is for targets other than organs"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    store: Store, tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        train(store, tmp_path / "run", replace(RECIPE, **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_grid_that_the_networks_cannot_take_is_one_line(tmp_path: Path) -> None:
    odd = make_store(tmp_path / "stores", random_volumes(4, (15, 60, 64)))
    with pytest.raises(InputError, match="Z divisible by 4") as caught:
        train(odd, tmp_path / "run", replace(RECIPE, target="mean"))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_localised_is_one_line(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "organs", max_steps=1)
    train(store, tmp_path / "pretext", replace(RECIPE, target="mean"), max_steps=1)
    other = make_store(tmp_path / "stores", random_volumes(2, GRID))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"run": tmp_path / "none"}, "finished run of voco project"),
        ({"run": tmp_path / "pretext"}, "expected a run with the target organs, got mean"),
        ({"store": other}, "give a store of the same spec"),
        ({"box": "heart"}, "expected abdomen, kidney or one of liver, spleen, got 'heart'"),
        ({"out": tmp_path / "boxes.txt"}, "expected a file .csv or .parquet"),
        ({"margin_mm": -1.0}, "expected 0 to below 1000 mm"),
    ]
    for change, match in cases:
        options: dict[str, Any] = {
            "run": tmp_path / "organs", "store": store, "out": tmp_path / "boxes.csv", **change,
        }  # fmt: skip
        with pytest.raises(InputError, match=match) as caught:
            localise(options.pop("run"), options.pop("store"), options.pop("out"), **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "boxes.csv").exists()
