"""Scores of 3D-to-2D networks, of maps that were made from the true ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.organ_stores import GRID, ORGANS
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.selection import Selection
from voco_data.selection.split import Addition, Split
from voco_data.store import Store, read_record
from voco_data.store.organ_maps import Silhouette, encode_silhouette
from voco_data.store.record import Record
from voco_models.stages import projection_scores
from voco_models.stages.projection_recipes import projection_recipe
from voco_models.stages.projection_scores import (
    find_masked_series,
    read_projection_scores,
    score_projection,
)

SPACING_MM = (3.0, 2.0, 4.0)
"""Of voxels along z, y and x."""
LOW_MM = (-100.0, 50.0, 10.0)
BOXES = {"liver": ((4, 10, 12), (9, 30, 28)), "spleen": ((6, 20, 40), (12, 44, 50))}
"""First voxel, and one past the last, of each organ."""


def box_maps(low: Any, high: Any) -> Silhouette:
    inside = np.zeros(GRID, bool)
    inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return Silhouette(inside.any(axis=1), inside.any(axis=2))


def make_case(root: Path) -> Store:
    """Four patients: both organs; no mark of the spleen; a liver at the end of the scan; no mask.

    The last organ of the first one is known to be absent.
    """

    def with_organs(record: Record) -> Record:
        size = [n * s for n, s in zip(GRID, SPACING_MM, strict=True)]
        high = tuple(low + length for low, length in zip(LOW_MM, size, strict=True))
        record = dataclasses.replace(record, box_low_mm=LOW_MM, box_high_mm=high)  # type: ignore[arg-type]
        if record.row == 3:
            return record
        boxes = dict(BOXES)
        if record.row == 1:
            del boxes["spleen"]
        if record.row == 2:
            boxes["liver"] = ((0, 10, 12), (9, 30, 28))
        maps = {organ: encode_silhouette(box_maps(*box)) for organ, box in boxes.items()}
        if record.row == 0:
            maps["bowel"] = encode_silhouette(box_maps((0, 0, 0), (0, 0, 0)))
        organs = {
            organ: tuple(
                tuple(o + s * n for o, s, n in zip(LOW_MM, SPACING_MM, end, strict=True))
                for end in box
            )
            for organ, box in boxes.items()
        }
        return dataclasses.replace(
            record, organs=organs, organ_maps=maps, flags=("mask",), box_method="mask"
        )

    return make_store(root, random_volumes(4, GRID), profile="localise", change=with_organs)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A store, and a run whose maps are the true ones, moved by `shift` (z, y, x) voxels."""
    store = make_case(tmp_path / "stores")
    organs = (*ORGANS, "bowel")
    found = SimpleNamespace(store=store, run=tmp_path, shift=(0, 0, 0), left_out=())

    def predict(_: Any, store: Store, rows: Any, __: Any) -> list[Any]:
        maps = []
        for row in rows:
            planes = [np.zeros((3, GRID[0], GRID[2])), np.zeros((3, GRID[0], GRID[1]))]
            for i, organ in enumerate(organs):
                if organ in found.left_out or organ == "bowel":
                    continue
                low, high = BOXES[organ]
                if organ == "liver" and row == 2:
                    low = (0, *low[1:])
                moved = [[n + s for n, s in zip(e, found.shift, strict=True)] for e in (low, high)]
                for plane, map_ in zip(planes, box_maps(*moved), strict=True):
                    plane[i] = 0.9 * map_
            maps.append(tuple(planes))
        return maps

    recipe = projection_recipe("tiny", [f"organs={list(organs)}"])
    monkeypatch.setattr(projection_scores, "load_networks", lambda *_: (None, recipe))
    monkeypatch.setattr(projection_scores, "predict_maps", predict)
    return found


def test_perfect_maps_have_perfect_overlap(case: SimpleNamespace) -> None:
    scores = score_projection(case.run, case.store, [0, 1, 2], device="cpu")
    here = scores.organs[scores.organs["has_extent"]]
    assert (here[["dice_coronal", "dice_sagittal"]] == 1).all(axis=None)
    assert (here[["hd95_coronal_mm", "hd95_sagittal_mm"]] == 0).all(axis=None)
    assert here["is_found"].all()


def test_only_what_a_mask_knows_is_scored(case: SimpleNamespace) -> None:
    """The spleen of the second patient is not marked; the bowel of the first is not in the scan."""
    lines = score_projection(case.run, case.store, [0, 1, 2], device="cpu").organs
    known = list(zip(lines["patient_id"], lines["organ"], lines["has_extent"], strict=True))
    assert known == [
        ("patient-000", "liver", True),
        ("patient-000", "spleen", True),
        ("patient-000", "bowel", False),
        ("patient-001", "liver", True),
        ("patient-002", "liver", True),
        ("patient-002", "spleen", True),
    ]
    absent = lines[lines["organ"] == "bowel"]
    assert absent[["dice_coronal", "hd95_coronal_mm"]].isna().all(axis=None)


def test_maps_that_are_moved_are_off_by_what_they_were_moved(case: SimpleNamespace) -> None:
    """Two voxels along x and one along y, each of its own length in mm."""
    case.shift = (0, 1, 2)
    scores = score_projection(case.run, case.store, [0], device="cpu")
    line = scores.organs.set_index("organ").loc["liver"]
    (_, y_low, x_low), (_, y_high, x_high) = BOXES["liver"]
    for plane, size, moved, mm in (
        ("coronal", x_high - x_low, 2, 2 * 4.0),
        ("sagittal", y_high - y_low, 1, 1 * 2.0),
    ):
        assert line[f"dice_{plane}"] == pytest.approx((size - moved) / size)
        assert line[f"hd95_{plane}_mm"] == pytest.approx(mm)
    assert line["worst_coronal_mm"] == pytest.approx(np.hypot(16 * 3.0, 64 * 4.0))
    assert line["worst_sagittal_mm"] == pytest.approx(np.hypot(16 * 3.0, 64 * 2.0))
    before = score_faces(case, (0, 0, 0))
    after = score_faces(case, (0, 1, 2))
    for face, moved_mm in (("z_low", 0), ("z_high", 0), ("y_low", 2), ("y_high", 2), ("x_low", 8)):
        difference = after.loc["liver", face] - before.loc["liver", face]
        assert difference["error_mm"] == pytest.approx(moved_mm)


def score_faces(case: SimpleNamespace, shift: tuple[int, int, int]) -> pd.DataFrame:
    """The face errors of the first series, by organ and face."""
    case.shift = shift
    faces = score_projection(case.run, case.store, [0], device="cpu").faces
    return faces.set_index(["organ", "face"])[["error_mm", "worst_mm"]]


def test_faces_are_off_by_less_than_a_voxel(case: SimpleNamespace) -> None:
    """The length of the volume is what a face can be off by at most."""
    faces = score_faces(case, (0, 0, 0))
    assert len(faces) == 2 * 6
    for axis, size, step in zip("zyx", GRID, SPACING_MM, strict=True):
        own = faces[[name[0] == axis for name in faces.index.get_level_values("face")]]
        assert (own["error_mm"].abs() <= step).all()
        assert (own["worst_mm"] == size * step).all()


def test_a_face_where_the_scan_ends_is_not_scored(case: SimpleNamespace) -> None:
    faces = score_projection(case.run, case.store, [2], device="cpu").faces
    assert set(faces["face"][faces["organ"] == "spleen"]) - set(
        faces["face"][faces["organ"] == "liver"]
    ) == {"z_low"}


def test_an_organ_that_is_missed_is_not_found(case: SimpleNamespace) -> None:
    case.left_out = ("spleen",)
    scores = score_projection(case.run, case.store, [0, 1], device="cpu")
    spleen = scores.organs[scores.organs["organ"] == "spleen"]
    assert len(spleen) == 1
    assert not spleen["is_found"].any()
    assert (spleen[["dice_coronal", "dice_sagittal"]] == 0).all(axis=None)
    assert np.isinf(spleen[["hd95_coronal_mm", "hd95_sagittal_mm"]]).all(axis=None)
    missed = scores.faces["organ"] == "spleen"
    assert missed.sum() == 6
    assert (scores.faces["error_mm"].isna() == missed).all()


def test_both_tables_are_read_as_they_were_written(case: SimpleNamespace) -> None:
    written = score_projection(case.run, case.store, [0, 1, 2], device="cpu")
    found = read_projection_scores(case.run)
    pd.testing.assert_frame_equal(found.organs, written.organs)
    pd.testing.assert_frame_equal(found.faces, written.faces)
    (case.run / "face_errors.parquet").write_text("no table")
    with pytest.raises(
        InputError, match=r"face_errors.parquet: expected scores of .*; remove .*, so that"
    ):
        read_projection_scores(case.run)


def test_series_are_scored_in_parts(case: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_projection(case.run, case.store, [0, 1, 2], device="cpu")
    monkeypatch.setattr(projection_scores, "SERIES_PER_STEP", 1)
    parts = score_projection(case.run, case.store, [0, 1, 2], device="cpu")
    pd.testing.assert_frame_equal(parts.organs, whole.organs)
    pd.testing.assert_frame_equal(parts.faces, whole.faces)


def split_of(*test: int) -> Split:
    """A split whose test patients are those of these rows."""
    names = [f"patient-{row:03d}" for row in range(4)]
    others = tuple(name for row, name in enumerate(names) if row not in test)
    chosen = tuple(names[row] for row in test)
    return Split(0, 0.5, 2, (Addition("", chosen, (others, ())),))


def test_who_has_masks_to_learn_from_and_to_test_on(case: SimpleNamespace) -> None:
    recipe = projection_recipe("tiny", ['organs=["spleen", "bowel"]'])
    series = find_masked_series(case.store, recipe, split_of(2, 3))
    assert series.learnt == ("patient-000",)  # the spleen of the second one is not marked
    assert series.test_rows == (2,)
    assert series.test_patients == ("patient-002",)
    record = read_record(case.store.storage, 2)
    assert record is not None
    assert series.test_series == (record.series_uid,)
    # An organ that is known to be absent is learnt from, and not tested on.
    bowel = projection_recipe("tiny", ['organs=["bowel"]'])
    assert find_masked_series(case.store, bowel, split_of(2, 3)).learnt == ("patient-000",)
    assert find_masked_series(case.store, bowel, split_of(0)).test_rows == ()


def test_patients_that_the_selection_names_are_those_to_learn_from(case: SimpleNamespace) -> None:
    recipe = dataclasses.replace(
        projection_recipe("tiny"), selection=Selection(patients=("patient-001",))
    )
    series = find_masked_series(case.store, recipe, split_of(2))
    assert series.learnt == ("patient-001",)
    assert series.test_rows == (2,)
