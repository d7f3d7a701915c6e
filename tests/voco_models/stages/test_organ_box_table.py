"""Boxes of organs from a table: where they reach, what masks tell first, and errors of one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.store.organ_maps import Silhouette, encode_silhouette
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_models.objectives.classification import ORGAN_BOXES
from voco_models.stages.finetune_plan import make_plan
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.finetuning import finetune
from voco_models.stages.organ_box_table import read_organ_boxes
from voco_models.stages.series_geometry import read_geometry
from voco_models.training import checkpoint, read_history

COLUMNS = ["z_low", "y_low", "x_low", "z_high", "y_high", "x_high"]
BOX = (1.0, 8.0, 0.0, 3.0, 24.0, 16.0)
QUERIES: FinetuneRecipe = dataclasses.replace(
    RECIPE, head="organ_queries", pooling="stages", attention_weight=0.5, epochs=1
)


def write_table(
    path: Path, series: Sequence[str], boxes: Sequence[Sequence[object]], organ: str = "liver"
) -> Path:
    """A table of `voco localise` with the boxes of one organ."""
    table = pd.DataFrame(boxes, columns=[f"{organ}_{name}_mm" for name in COLUMNS])
    table.insert(0, "series_uid", list(series))
    table.to_csv(path, index=False)
    return path


def masked(record: Record) -> Record:
    """Row 0 has a liver, row 1 has none and its mask says so, row 2 has no mask."""
    silhouette = encode_silhouette(Silhouette(np.zeros((4, 6), bool), np.zeros((4, 6), bool)))
    organs = {"liver": ((0.0, 0.0, 0.0), (1.0, 3.0, 3.0))} if record.row == 0 else {}
    maps = {"liver": silhouette} if record.row < 2 else {}
    return dataclasses.replace(record, organs=organs, organ_maps=maps)


def test_a_mask_tells_before_the_table(tmp_path: Path) -> None:
    """The stored box has 4 x 6 x 6 mm. Depths are below its superior end."""
    store = make_store(tmp_path, random_volumes(3, (4, 6, 6)), change=masked)
    uids = store.catalogue.sort_values("row")["series_uid"].tolist()
    file = write_table(tmp_path / "boxes.csv", uids, [(1, 2, 3, 3, 4, 6)] * 3)
    boxes = read_organ_boxes(file, ("liver", "spleen"), uids)
    found = read_geometry(store, [0, 1, 2], ("liver", "spleen"), boxes).organ_boxes
    torch.testing.assert_close(found[0, 0], torch.tensor([[3.0, 0, 0], [4.0, 0.5, 0.5]]))
    assert found[1, 0].isnan().all()
    torch.testing.assert_close(found[2, 0], torch.tensor([[1.0, 1 / 3, 0.5], [3.0, 2 / 3, 1.0]]))
    assert found[:, 1].isnan().all()


def test_an_organ_that_was_not_found_has_no_box(tmp_path: Path) -> None:
    nothing = [float("nan")] * 6
    for suffix in ("csv", "parquet"):
        file = tmp_path / f"boxes.{suffix}"
        write_table(tmp_path / "boxes.csv", ["a", "1"], [BOX, nothing])
        if suffix == "parquet":
            table = pd.read_csv(tmp_path / "boxes.csv", dtype={"series_uid": str})
            table.to_parquet(file)
        boxes = read_organ_boxes(file, ("liver",), ["a", "1", "other"])
        assert boxes == {"a": {"liver": (BOX[:3], BOX[3:])}, "1": {}}


@pytest.mark.parametrize(
    ("series", "boxes", "organ", "message"),
    [
        (["a", "a"], [BOX, BOX], "liver", "row 2: a second row of series a; leave one"),
        (["b"], [BOX], "liver", "names no series of the store; .* such as a"),
        (["a"], [BOX], "heart", "columns such as liver_z_low_mm"),
        (["a"], [(*BOX[:5], float("inf"))], "liver", "row 1: expected a box whose low ends"),
        (["a"], [(*BOX[:5], float("nan"))], "liver", "row 1: expected a box whose low ends"),
        (["a"], [(3.0, *BOX[1:])], "liver", "row 1: expected a box whose low ends"),
        (["a"], [(*BOX[:5], "high")], "liver", "row 1: expected numbers in mm"),
    ],
)
def test_a_bad_table_is_one_line(
    tmp_path: Path, series: list[str], boxes: list[tuple[object, ...]], organ: str, message: str
) -> None:
    file = write_table(tmp_path / "boxes.csv", series, boxes, organ)
    with pytest.raises(InputError, match=message) as caught:
        read_organ_boxes(file, ("liver", "spleen"), ["a"])
    assert "\n" not in str(caught.value)


def test_what_is_no_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    for name in ("missing.csv", "torn.parquet"):
        with pytest.raises(InputError, match=r"cannot be read|expected a table in CSV") as caught:
            read_organ_boxes(tmp_path / name, ("liver",), ["a"])
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return small_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def table(cohort: tuple[Store, Path]) -> Path:
    """The liver of all series, at the same place."""
    uids = cohort[0].catalogue["series_uid"].tolist()
    return write_table(cohort[1].parent / "boxes.csv", uids, [BOX] * len(uids))


def test_a_run_learns_from_the_boxes_and_records_them(
    cohort: tuple[Store, Path], table: Path, tmp_path: Path
) -> None:
    plan = make_plan(*cohort, QUERIES, init="scratch", organ_boxes=table)
    regions = plan.geometry_of(plan.series)[ORGAN_BOXES]
    assert regions.isfinite().flatten(1).any(dim=1).all()  # every series
    run = tmp_path / "run"
    options = {"recipe": QUERIES, "organ_boxes": table, "device": "cpu"}
    finetune(*cohort, run, **options)  # type: ignore[arg-type]
    assert all(row["attention"] > 0 for row in read_history(run / "fold-0"))
    assert checkpoint.read_run(run)["organ_boxes_sha256"]
    moved = write_table(
        tmp_path / "moved.csv", plan.series.uids, [(0.5, *BOX[1:])] * len(plan.series)
    )
    with pytest.raises(InputError, match="the table of organ boxes"):
        finetune(*cohort, run, resume=True, **(options | {"organ_boxes": moved}))  # type: ignore[arg-type]


def test_a_head_that_does_not_use_boxes_refuses_them(
    cohort: tuple[Store, Path], table: Path
) -> None:
    with pytest.raises(InputError, match="the head bilstm does not use boxes of organs"):
        make_plan(*cohort, RECIPE, init="scratch", organ_boxes=table)
