"""`voco bench localisers`: equal masks for all, boxes of true maps, and a table of known errors."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.organ_stores import GRID, ORGANS, ShapeMasks, make_shapes, organ_store
from voco_data.errors import InputError
from voco_data.selection.exposure import SeenPatients
from voco_data.selection.split_file import read_split
from voco_data.store import Store
from voco_data.store.archive_mask import ArchiveMask
from voco_models.bench import localisers
from voco_models.bench.localiser_training import Setting, read_organ_volumes, train_unet
from voco_models.bench.volume_segmentation import VolumeSegmentation
from voco_models.data import ProjectionAugmentation
from voco_models.data.window import input_window
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.stages.series_geometry import read_records
from voco_models.training import FitConfig, Sgd

SERIES, MASKED, LEARNT = 16, 14, 4
RECIPE = ProjectionRecipe(
    fit=FitConfig(
        total_steps=20, lr=0.1, weight_decay=1e-4, optimizer=Sgd(), log_every=10, warmup_steps=5
    ),
    widths=(4, 8, 8, 8, 8),
    organs=ORGANS,
    batch_size=4,
)
NETWORKS = ("unet_2d", "unet_3d")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return organ_store(tmp_path_factory.mktemp("stores"), SERIES, masked=MASKED)


class CountedMasks(ShapeMasks):
    """It also remembers which rows were read in 3D."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, MASKED)
        self.drawn: set[int] = set()

    def read(self, rows: Collection[int], *, on_grid: bool = False) -> Iterator[ArchiveMask]:
        if on_grid:
            self.drawn |= set(rows)
        yield from super().read(rows, on_grid=on_grid)


@pytest.fixture(scope="module")
def table(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], CountedMasks, Path]:
    pytest.importorskip("monai")
    out, masks = tmp_path_factory.mktemp("bench"), CountedMasks(store)
    found = localisers.bench(
        store, masks, recipe=RECIPE, networks=NETWORKS, n_masks=LEARNT, out=out, device="cpu"
    )
    return found, masks, out


def rows_of(patients: Collection[str]) -> set[int]:
    return {int(patient.removeprefix("patient-")) for patient in patients}


def test_all_learn_from_the_same_masks_and_are_scored_on_others(
    table: tuple[dict[str, Any], CountedMasks, Path],
) -> None:
    found, masks, out = table
    seen = SeenPatients.read(out / "seed-0" / "unet_2d")
    assert seen is not None
    learnt = rows_of(seen.stores[0].contents)
    assert len(learnt) == LEARNT
    assert masks.drawn == learnt
    test = rows_of(read_split(out / "split.json").test) & set(range(MASKED))
    assert set(masks.rows) == learnt | test
    assert not learnt & test
    assert found["test_series"] == len(test)
    assert found["learnt_from"] == [{"seed": 0, "patients": LEARNT, "series": LEARNT}]


def test_the_table_has_what_each_localiser_found_and_took(
    table: tuple[dict[str, Any], CountedMasks, Path], store: Store
) -> None:
    found, _, out = table
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["profile", "mean_box", "unet_2d", "unet_3d", "unet_3d_time"]
    faces = {row["faces"] for name, row in rows.items() if name != "profile"}
    assert len(faces) == 1
    assert rows["profile"]["faces"] == 0  # it finds no organ, and these have no bowel
    for name in ("unet_2d", "unet_3d"):
        assert rows[name]["steps"] == 20
        assert rows[name]["training_s"] > 0
    reference, alike, timed = (rows[name] for name in ("unet_2d", "unet_3d", "unet_3d_time"))
    expected = round(20 * reference["training_s"] / alike["training_s"])
    assert timed["steps"] == max(1, expected)
    assert alike["parameters"] == timed["parameters"] != reference["parameters"]
    assert alike["saved_bytes"] > reference["saved_bytes"] > 4 * np.prod(GRID)
    assert rows["mean_box"]["parameters"] is None
    _, organs = make_shapes(SERIES)
    seen = SeenPatients.read(out / "seed-0" / "unet_2d")
    assert seen is not None
    test = rows_of(read_split(out / "split.json").test) & set(range(MASKED))
    errors = []
    for organ in ORGANS:
        places = {row: np.argwhere(organs[row][organ]) for row in range(MASKED)}
        ends = {
            row: np.concatenate([p.min(axis=0), p.max(axis=0) + 1]) for row, p in places.items()
        }
        mean = np.mean([ends[row] for row in rows_of(seen.stores[0].contents)], axis=0)
        for row in test:
            is_inside = np.concatenate([ends[row][:3] >= 1, ends[row][3:] <= np.array(GRID) - 1])
            errors += np.abs(mean - ends[row])[is_inside].tolist()
    assert rows["mean_box"]["faces"] == len(errors)
    assert rows["mean_box"]["median"] == pytest.approx(np.median(errors))
    assert rows["mean_box"]["p95_mm"] == pytest.approx(np.percentile(errors, 95))


def test_a_second_call_goes_on_with_what_was_trained(
    table: tuple[dict[str, Any], CountedMasks, Path], store: Store
) -> None:
    found, _, out = table
    again = localisers.bench(
        store,
        ShapeMasks(store, MASKED),
        recipe=RECIPE,
        networks=NETWORKS,
        n_masks=LEARNT,
        out=out,
        device="cpu",
    )
    for former, row in zip(found["rows"], again["rows"], strict=True):
        for column in ("name", "median", "steps", "training_s", "kept", "parameters"):
            assert row[column] == former[column] or np.isnan(row[column])


class TrueOrgans(nn.Module):
    """It finds the organs of the volumes of `organ_store` by their values."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        stored = (inputs[:, 0] + 1) / 2 * 255
        liver, spleen = stored > 150, (stored > 95) & (stored < 150)
        return 20.0 * torch.stack([liver, spleen], dim=1).float() - 10.0


def test_boxes_of_a_true_segmentation_are_off_by_less_than_half_a_voxel(
    store: Store, tmp_path: Path
) -> None:
    """A face lies 0.4 voxels inside of the edge of the last marked one, see `find_interval`.

    It is half a voxel, less 0.1: from 0 to 1, the threshold 0.4 comes before the half.
    """
    records = read_records(store, list(range(6)))
    recipe = dataclasses.replace(RECIPE, fit=dataclasses.replace(RECIPE.fit, checkpoint_every=1))
    setting = Setting(store, recipe, tmp_path / "no", tmp_path, records[:3], torch.device("cpu"))
    window = input_window(None, store.spec)
    objective = VolumeSegmentation(TrueOrgans(), ProjectionAugmentation(), window)
    coronal, sagittal = objective.predict_maps(torch.from_numpy(store.read(0)))
    maps = store.read_organ_maps([0], ORGANS)
    np.testing.assert_array_equal(coronal > 0.5, maps.coronal[0])
    np.testing.assert_array_equal(sagittal > 0.5, maps.sagittal[0])
    examples = read_organ_volumes(ShapeMasks(store, MASKED), records[3:], ORGANS, GRID)
    assert examples.rows == [3, 4, 5]

    class Frozen(TrueOrgans):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs) * self.scale

    found = train_unet(setting, "unet_3d", examples, lambda *_: Frozen(), steps=1)
    for record, boxes in zip(records, found.boxes, strict=False):
        for organ, (low, high) in record.organs.items():
            np.testing.assert_allclose(boxes[organ].low_mm, np.add(low, 0.4), atol=0.01)
            np.testing.assert_allclose(boxes[organ].high_mm, np.subtract(high, 0.4), atol=0.01)


def test_the_loss_of_a_true_segmentation_is_near_0_and_of_another_organ_not(store: Store) -> None:
    from voco_models.data import Batch

    window = input_window(None, store.spec)
    objective = VolumeSegmentation(TrueOrgans(), ProjectionAugmentation(), window)
    examples = read_organ_volumes(
        ShapeMasks(store, MASKED), read_records(store, [0, 1]), ORGANS, GRID
    )
    volumes = torch.from_numpy(np.stack([store.read(row) for row in (0, 1)]))
    batch = Batch(volumes, torch.arange(2), 0, examples.targets)
    assert objective(batch)["loss"] < 0.01
    swapped = dict(examples.targets) | {"organ_volumes": examples.targets["organ_volumes"].flip(1)}
    assert objective(dataclasses.replace(batch, targets=swapped))["loss"] > 0.5


def test_without_monai_the_others_are_compared(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    monkeypatch.delitem(sys.modules, "voco_models.bench.peers.monai_unet", raising=False)
    found = localisers.bench(
        store,
        ShapeMasks(store, MASKED),
        recipe=RECIPE,
        networks=NETWORKS,
        n_masks=LEARNT,
        steps=2,
        seeds=2,
        out=tmp_path,
        device="cpu",
    )
    names = [row["name"] for row in found["rows"]]
    assert names == ["profile", "mean_box", "unet_2d", "unet_3d"]
    assert found["rows"][-1]["unit"] == "not installed"
    assert [row["seed"] for row in found["by_seed"] if row["localiser"] == "unet_2d"] == [0, 1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"networks": ("unet",)}, "network: expected some of fpn"),
        ({"networks": ("unet_3d",)}, "expected at least one of fpn"),
        ({"seeds": 0}, "seeds: expected at least 1"),
        ({"margin_mm": -1.0}, "margin: expected 0"),
        ({"n_masks": 13}, "masks: expected at most"),
        ({"recipe": dataclasses.replace(RECIPE, target="mean")}, "expected the target organs"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    store: Store, tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    options: dict[str, Any] = {"recipe": RECIPE, "networks": NETWORKS, "out": tmp_path}
    with pytest.raises(InputError, match=match) as caught:
        localisers.bench(store, ShapeMasks(store, MASKED), **options | change)
    assert "\n" not in str(caught.value)


def test_masks_that_the_archive_lacks_are_one_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks the masks of") as caught:
        localisers.bench(
            store, ShapeMasks(store, 1), recipe=RECIPE, networks=NETWORKS, out=tmp_path
        )
    assert "\n" not in str(caught.value)
