"""3D-to-2D networks on arrays: pretrained on an en-face image, then on maps of lesions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voco_data.errors import InputError
from voco_models.networks import read_weights
from voco_models.stages.array_projection import predict_arrays, project_arrays
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.training import FitConfig, Sgd

GRID = (16, 64, 64)
RECIPE = ProjectionRecipe(
    fit=FitConfig(
        total_steps=4, lr=0.1, weight_decay=1e-4, optimizer=Sgd(), log_every=1, checkpoint_every=2
    ),
    network="unet_2d",
    widths=(8, 8, 16, 16, 16),
    target="image",
    batch_size=4,
)


def scans(n: int = 8) -> tuple[Any, Any]:
    """Volumes (n, Z, Y, X) with a dark disc at all depths of a bright layer, and the disc's map."""
    rng = np.random.default_rng(0)
    volumes = rng.integers(40, 60, (n, *GRID)).astype(np.uint8)
    z, x = np.mgrid[: GRID[0], : GRID[2]]
    lesions = np.empty((n, GRID[0], GRID[2]), bool)
    for volume, lesion in zip(volumes, lesions, strict=True):
        centre = rng.uniform((5, 18), (11, 46))
        lesion[...] = ((z - centre[0]) / 4) ** 2 + ((x - centre[1]) / 12) ** 2 < 1
        volume[:, 20:44] = np.where(lesion, 60, 200)[:, None]
    return volumes, lesions


def train(out: Path, maps: Any, recipe: ProjectionRecipe = RECIPE, **options: Any) -> Any:
    return project_arrays(scans()[0], maps, out, recipe=recipe, device="cpu", **options)


def image_of(lesions: Any) -> Any:
    """The second image: lesions are bright in it."""
    return (0.2 + 0.6 * lesions).astype(np.float32)


def test_from_an_image_to_lesions(tmp_path: Path) -> None:
    """The whole path: pretrain on the image, learn lesions, find them in other scans."""
    volumes, lesions = scans(12)
    project_arrays(
        volumes[:8], image_of(lesions[:8]), tmp_path / "image", recipe=RECIPE, device="cpu"
    )
    assert predict_arrays(tmp_path / "image", volumes[8:], device="cpu").shape == (4, 1, 16, 64)
    fit = replace(RECIPE.fit, total_steps=40)
    recipe = replace(RECIPE, fit=fit, target="organs", organs=("lesion",))
    summary = project_arrays(
        volumes[:8],
        lesions[:8, None],
        tmp_path / "lesions",
        init=tmp_path / "image",
        recipe=recipe,
        device="cpu",
    )
    assert summary.finished
    found = predict_arrays(tmp_path / "lesions", volumes[8:], device="cpu")[:, 0] > 0.5
    dice = 2 * (found & lesions[8:]).sum() / (found.sum() + lesions[8:].sum())
    assert dice > 0.8


def test_a_resumed_run_is_the_same_to_the_bit_and_one_plane_is_trained(tmp_path: Path) -> None:
    images = image_of(scans()[1])
    train(tmp_path / "whole", images)
    train(tmp_path / "parts", images, max_steps=3)
    train(tmp_path / "parts", images, resume=True)
    files = [tmp_path / run / "networks.safetensors" for run in ("parts", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    slow = replace(RECIPE, fit=replace(RECIPE.fit, lr=1e-30, weight_decay=0.0))
    train(tmp_path / "first", images, slow, max_steps=1)
    before, after = (
        read_weights(tmp_path / r / "networks.safetensors") for r in ("first", "whole")
    )
    same = {n for n in before if torch.equal(before[n], after[n])}
    assert {n for n in before if n.startswith("sagittal")} <= same
    assert "coronal.head.weight" not in same


def test_another_image_or_volume_is_not_resumed(tmp_path: Path) -> None:
    volumes, lesions = scans()
    train(tmp_path / "run", image_of(lesions), max_steps=1)
    with pytest.raises(InputError, match="cannot resume"):
        train(tmp_path / "run", image_of(~lesions), resume=True)
    volumes[3, 2, 1, 0] += 1
    with pytest.raises(InputError, match="cannot resume"):
        project_arrays(
            volumes, image_of(lesions), tmp_path / "run", recipe=RECIPE, device="cpu", resume=True
        )
    with pytest.raises(InputError, match="already holds a run"):
        train(tmp_path / "run", image_of(lesions))


def test_what_is_not_valid_is_not_learnt(tmp_path: Path) -> None:
    lesions = scans()[1]
    valid = np.ones(lesions.shape, bool)
    valid[:, :, 40:] = False
    for name, beyond in (("a", 0.0), ("b", 1.0)):
        images = np.where(valid, image_of(lesions), beyond)
        train(tmp_path / name, images, is_valid=valid, max_steps=2)
    a, b = (read_weights(tmp_path / run / "networks.safetensors") for run in ("a", "b"))
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_arrays_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    volumes, lesions = scans(2)
    images = image_of(lesions)
    organs = replace(RECIPE, target="organs", organs=("lesion",))
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (volumes.astype(float), images, {}, "expected uint8 .*, got float64"),
        (volumes[0], images, {}, r"got uint8 \(16, 64, 64\)"),
        (volumes[:, :15], images, {}, "Z divisible by 4"),
        (volumes, images[:1], {}, r"maps: expected \(2, 16, 64\) for the target image"),
        (volumes, images * 2, {}, "images from 0 to 1, without NaN"),
        (volumes, images * np.nan, {}, "images from 0 to 1, without NaN"),
        (volumes, images, {"is_valid": lesions[:1]}, r"is_valid: expected \(2, 16, 64\)"),
        (volumes, images, {"recipe": organs}, r"expected \(2, 1, 16, 64\) for the target organs"),
        (volumes, images[:, None], {"recipe": organs}, "expected bool and no is_valid"),
        (volumes, images, {"changes": ("target=mean",)}, "the target image or organs, got mean"),
    ]
    for given, maps, options, match in cases:
        with pytest.raises(InputError, match=match) as caught:
            project_arrays(
                given, maps, tmp_path / "run", **({"recipe": RECIPE, "device": "cpu"} | options)
            )
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="expected the folder of a finished run"):
        predict_arrays(tmp_path / "run", volumes)
