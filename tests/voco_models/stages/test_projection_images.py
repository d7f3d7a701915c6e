"""Training of 3D-to-2D networks on second images that are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.organ_stores import organ_store
from voco_data.errors import InputError
from voco_data.store import Store
from voco_models.networks import read_header, read_weights
from voco_models.stages.projection import project
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.training import FitConfig, Sgd
from voco_models.training.history import read_history

SERIES = 10
RECIPE = ProjectionRecipe(
    fit=FitConfig(
        total_steps=4, lr=0.1, weight_decay=1e-4, optimizer=Sgd(), log_every=1, checkpoint_every=2
    ),
    network="unet_2d",
    widths=(2, 2, 4, 4, 4),
    target="image",
    batch_size=4,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return organ_store(tmp_path_factory.mktemp("stores"), SERIES, masked=4)


def write_images(folder: Path, store: Store, planes: Any = ("coronal", "sagittal")) -> Path:
    """Images of the first 8 series: the brightest voxels, seen from the front and the side."""
    for row in range(8):
        volume = store.read(row).astype(np.float32) / 255
        series = folder / str(store.catalogue.set_index("row").loc[row, "series_uid"])
        series.mkdir(parents=True)
        for plane in planes:
            image = volume.max(axis=1 if plane == "coronal" else 2)
            np.save(series / f"{plane}.npy", image[::-1])
    return folder


@pytest.fixture(scope="module")
def images(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), store)


def train(
    store: Store, out: Path, images: Path | None, recipe: Any = RECIPE, **options: Any
) -> Any:
    return project([store.path], out, images=images, recipe=recipe, device="cpu", **options)


def curve(run: Path) -> pd.DataFrame:
    return pd.DataFrame(read_history(run)).drop(columns="seconds")


def test_series_without_an_image_are_left_out_and_counted(
    store: Store, images: Path, tmp_path: Path
) -> None:
    summary = train(store, tmp_path / "run", images)
    assert (summary.volumes, summary.patients, summary.target) == (8, 8, "image")
    assert summary.left_out == {"no image": 2}
    assert summary.notes == ()
    provenance = json.loads((tmp_path / "run" / "run.json").read_text())["provenance"]
    assert provenance["images"] == {"kinds": {"given": 16}, "coronal": 8, "sagittal": 8}


def test_given_maxima_are_learnt_as_the_pretext_maximum(
    store: Store, images: Path, tmp_path: Path
) -> None:
    """Without augmentation both have the same targets: the same series give the same losses."""
    still = replace(RECIPE, augmentation=type(RECIPE.augmentation)())
    train(store, tmp_path / "given", images, still)
    selected = tuple(f"patient-{row:03d}" for row in range(8))
    computed = replace(
        still, target="maximum", selection=replace(RECIPE.selection, patients=selected)
    )
    train(store, tmp_path / "computed", None, computed)
    pd.testing.assert_frame_equal(
        curve(tmp_path / "given"), curve(tmp_path / "computed"), rtol=2e-3
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_resumed_run_is_the_same_to_the_bit(
    store: Store, images: Path, tmp_path: Path, shuffled: bool
) -> None:
    recipe = replace(RECIPE, shuffled=shuffled)
    train(store, tmp_path / "whole", images, recipe)
    train(store, tmp_path / "parts", images, recipe, max_steps=3)
    train(store, tmp_path / "parts", images, recipe, resume=True)
    pd.testing.assert_frame_equal(
        curve(tmp_path / "parts"), curve(tmp_path / "whole"), check_exact=True
    )
    parts, whole = (tmp_path / run / "networks.safetensors" for run in ("parts", "whole"))
    assert parts.read_bytes() == whole.read_bytes()


def test_a_run_with_another_image_is_not_resumed(store: Store, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", store)
    train(store, tmp_path / "run", folder, max_steps=1)
    changed = next(folder.rglob("coronal.npy"))
    image = np.load(changed)
    image[3, 5] = 1 - image[3, 5]
    np.save(changed, image)
    with pytest.raises(InputError, match="cannot resume"):
        train(store, tmp_path / "run", folder, resume=True)


def test_a_plane_without_images_keeps_its_first_weights(store: Store, tmp_path: Path) -> None:
    """Its weights are those of a run that takes no step; both planes are there for `--init`."""
    folder = write_images(tmp_path / "images", store, ("coronal",))
    summary = train(store, tmp_path / "run", folder)
    (note,) = summary.notes
    assert note == "no series has a sagittal image: the sagittal network keeps its first weights"
    slow = replace(RECIPE, fit=replace(RECIPE.fit, lr=1e-30, weight_decay=0.0))
    train(store, tmp_path / "first", folder, slow, max_steps=1)
    after, before = (
        read_weights(tmp_path / run / "networks.safetensors") for run in ("run", "first")
    )
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        if name.startswith("sagittal"):
            assert torch.equal(after[name], tensor), name
    assert not torch.equal(after["coronal.head.weight"], before["coronal.head.weight"])
    organs = replace(RECIPE, target="organs", organs=("liver", "spleen"))
    train(store, tmp_path / "organs", None, organs, init=tmp_path / "run", max_steps=1)
    header = read_header(tmp_path / "organs" / "networks.safetensors")
    assert header["init"].startswith("run:")


@pytest.mark.parametrize(
    ("change", "given", "match"),
    [
        ({}, False, "target image: give --images, a folder or a table"),
        ({"target": "mean"}, True, "--images is for --set target=image, but the target is mean"),
        ({"target": "organs"}, True, "but the target is organs"),
        ({"target": "picture"}, True, "target must be organs, mean, maximum, depth or image"),
        ({"masks": 3}, True, "masks must be >= 1, and none for a target other than organs"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    store: Store, images: Path, tmp_path: Path, change: dict[str, Any], given: bool, match: str
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        train(store, tmp_path / "run", images if given else None, replace(RECIPE, **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_images_of_other_series_than_those_learnt_from_are_refused(
    store: Store, images: Path, tmp_path: Path
) -> None:
    last = replace(RECIPE, selection=replace(RECIPE.selection, patients=("patient-009",)))
    with pytest.raises(InputError, match="none of the 1 series that the run may learn from has an"):
        train(store, tmp_path / "run", images, last)
