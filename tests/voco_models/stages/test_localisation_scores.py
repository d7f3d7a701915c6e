"""Scores of `voco localise` on patients that the run has not learnt from, of shifted true boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.organ_stores import ORGANS, ShapeMasks, make_shapes, organ_store
from tests.support.small_stores import make_store
from voco_data.errors import InputError
from voco_data.selection.exposure import SeenPatients
from voco_data.selection.split_file import read_split, update_split
from voco_data.store import Store, read_record
from voco_data.store.record import Record
from voco_models.localisation.boxes import OrganBox
from voco_models.stages import localisation
from voco_models.stages.localisation import localise
from voco_models.stages.projection import project
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.training import FitConfig, Sgd

SERIES, MASKED, LEARNT = 14, 12, 4
SHIFT = {"z_low": -1.0, "x_high": 3.0}
"""By which the boxes of all organs are wrong, in mm."""
RECIPE = ProjectionRecipe(
    fit=FitConfig(total_steps=1, lr=0.1, weight_decay=1e-4, optimizer=Sgd(), checkpoint_every=1),
    network="unet_2d",
    widths=(2, 2, 4, 4, 4),
    organs=ORGANS,
    masks=LEARNT,
    batch_size=4,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return organ_store(tmp_path_factory.mktemp("stores"), SERIES, masked=MASKED)


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    update_split(store.path, folder / "split.json", test_share=0.3, n_folds=2)
    split = folder / "split.json"
    project([store.path], folder / "run", recipe=RECIPE, split=split, device="cpu")
    return folder / "run"


def learnt_rows(run: Path) -> set[int]:
    """Rows of the patients of the run: the row is in the patient's id."""
    seen = SeenPatients.read(run)
    assert seen is not None
    return {int(patient.removeprefix("patient-")) for patient in seen.stores[0].contents}


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that find the true boxes, with `SHIFT`."""

    def find(*arguments: Any) -> list[dict[str, OrganBox]]:
        return [shifted_boxes(record) for record in arguments[3]]

    monkeypatch.setattr(localisation, "find_organ_boxes", find)


def shifted_boxes(record: Record) -> dict[str, OrganBox]:
    boxes = {}
    for organ, (low, high) in record.organs.items():
        moved = [
            [v + SHIFT.get(f"{a}_{end}", 0) for a, v in zip("zyx", values, strict=True)]
            for end, values in (("low", low), ("high", high))
        ]
        boxes[organ] = OrganBox(tuple(moved[0]), tuple(moved[1]), 0.9)  # type: ignore[arg-type]
    return boxes


@pytest.mark.usefixtures("shifted")
def test_scores_are_of_patients_that_the_run_has_not_learnt_from(
    store: Store, run: Path, tmp_path: Path
) -> None:
    learnt = learnt_rows(run)
    assert len(learnt) == LEARNT
    scored = set(range(MASKED)) - learnt
    masks = ShapeMasks(store, MASKED)
    out = tmp_path / "boxes.csv"
    summary = localise(run, store, out, box="liver", margin_mm=2.0, score=True, masks=masks)
    scores = json.loads((tmp_path / "boxes-scores.json").read_text())
    assert summary.scores is not None
    assert (scores["patients"], scores["series"]) == (len(scored), len(scored))
    assert scores["left_out_learnt_from"] == {"patients": LEARNT, "series": LEARNT}
    assert scores["left_out_without_mask"] == SERIES - MASKED
    assert scores["masks_read"] == len(scored)
    assert set(masks.rows) == scored
    errors = pd.read_csv(tmp_path / "boxes-errors.csv")
    ours = errors[errors["localiser"] == "run"]
    assert set(ours["patient_id"]) == {f"patient-{row:03d}" for row in scored}
    for face, part in ours.groupby("face"):
        assert part["error_mm"].to_numpy() == pytest.approx(SHIFT.get(str(face), 0.0))
    liver = next(row for row in scores["organs"] if row["organ"] == "liver")
    assert liver["p95_mm"] == pytest.approx(3.0)
    assert liver["missed"] == 0
    assert liver["kept"] == 1.0  # the margin is wider than the errors that cut
    faces = {(row["organ"], row["face"]): row for row in scores["faces"]}
    assert faces["spleen", "x_high"]["bias_mm"] == pytest.approx(3.0)


@pytest.mark.usefixtures("shifted")
def test_the_mean_box_is_that_of_the_patients_learnt_from(
    store: Store, run: Path, tmp_path: Path
) -> None:
    """All volumes are alike in size, so a mean place is a mean of coordinates."""
    localise(run, store, tmp_path / "boxes.csv", box="liver", score=True)
    _, organs = make_shapes(SERIES)
    places = [np.argwhere(organs[row]["spleen"]) for row in learnt_rows(run)]
    mean_top = np.mean([place[:, 0].max() + 1 for place in places])
    errors = pd.read_csv(tmp_path / "boxes-errors.csv")
    tops = errors[(errors["organ"] == "spleen") & (errors["face"] == "z_high")]
    of_mean = tops[tops["localiser"] == "mean_box"]
    assert len(of_mean) > 3
    for row in of_mean.itertuples():
        number = int(str(row.patient_id).removeprefix("patient-"))
        true_top = np.argwhere(organs[number]["spleen"])[:, 0].max() + 1
        assert row.error_mm == pytest.approx(mean_top - true_top)
    assert not (tmp_path / "boxes-kept.csv").exists()  # no archive was given


@pytest.mark.usefixtures("shifted")
def test_kept_voxels_are_counted_without_a_margin(store: Store, run: Path, tmp_path: Path) -> None:
    localise(
        run,
        store,
        tmp_path / "boxes.csv",
        box="liver",
        margin_mm=0.0,
        score=True,
        masks=ShapeMasks(store, MASKED),
    )
    kept = pd.read_csv(tmp_path / "boxes-kept.csv")
    _, organs = make_shapes(SERIES)
    ours = kept[kept["localiser"] == "run"]
    for row in ours.itertuples():
        inside = organs[int(str(row.patient_id).removeprefix("patient-"))][str(row.organ)]
        assert row.voxels == inside.sum() == row.kept  # the shifts only enlarge
    of_mean = kept[kept["localiser"] == "mean_box"]
    assert (of_mean["kept"] <= of_mean["voxels"]).all()
    assert (of_mean["kept"] < of_mean["voxels"]).any()


@pytest.mark.usefixtures("shifted")
def test_another_store_needs_the_trained_one_for_the_mean_box(
    store: Store, run: Path, tmp_path: Path
) -> None:
    """A store of other volumes under another root: all are scored, and ids cannot be compared."""
    other = organ_store(tmp_path / "other", 3, masked=3, seed=8)
    alone = localise(run, other, tmp_path / "a.csv", box="liver", score=True).scores
    assert alone is not None
    assert alone["series"] == 3
    assert alone["learnt_from_known_by"] == "volumes alone"
    assert "name its store" in alone["mean_box"]
    both = localise(
        run, other, tmp_path / "b.csv", box="liver", score=True, trained_on=[store.path]
    ).scores
    assert both is not None
    assert both["mean_box"] == f"{LEARNT} series"
    assert "mean_box_median_mm" in both["organs"][0]


def test_what_cannot_be_scored_is_one_line_and_nothing_is_written(
    store: Store, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "boxes.csv"
    plain = make_store(tmp_path / "plain", make_shapes(2)[0], profile="localise")
    with pytest.raises(InputError, match="0 have masks of the run's organs") as one:
        localise(run, plain, out, box="liver", score=True)
    everyone = tmp_path / "everyone"
    project([store.path], everyone, recipe=replace(RECIPE, masks=None), device="cpu")
    with pytest.raises(InputError, match="none of a patient that the run has not") as two:
        localise(everyone, store, out, box="liver", score=True)
    (everyone / "patients.json").unlink()
    with pytest.raises(InputError, match=r"no patients.json") as three:
        localise(everyone, store, out, box="liver", score=True)
    with pytest.raises(InputError, match="are for scores; give score too") as four:
        localise(run, store, out, box="liver", masks=ShapeMasks(store, MASKED))
    for caught in (one, two, three, four):
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("boxes*"))


def test_patients_of_the_split_are_not_learnt_from(store: Store, run: Path) -> None:
    """What the tests above take for granted."""
    test = set(read_split(run / "split.json").test)
    assert not test & {f"patient-{row:03d}" for row in learnt_rows(run)}
    assert read_record(store.storage, 0) is not None
