"""Boxes of masks and of tables against boxes computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from voco_data.cropping.external_boxes import GivenBox, include_organs, read_boxes
from voco_data.errors import InputError, SeriesRefused
from voco_data.masks.organs import OrganBounds
from voco_data.reasons import Reason
from voco_data.volumes.geometry import CANONICAL_AXES, Box, Geometry

SHAPE = (60, 100, 120)
SPACING = (5.0, 2.0, 2.0)
MARGIN = (10.0, 4.0, 4.0)
PROFILE = Box((5, 10, 10), (50, 90, 110), "profile", 0.9)
CANONICAL = Geometry(SHAPE, SPACING, (0.0, 0.0, -200.0), CANONICAL_AXES).canonical(5.0)


def boxed(profile_box: Box, **organs: OrganBounds) -> Box:
    return include_organs(profile_box, organs, SHAPE, SPACING, MARGIN)


def test_liver_and_spleen_determine_the_top() -> None:
    liver, spleen = OrganBounds((25, 30, 20), (40, 80, 70)), OrganBounds((30, 30, 80), (36, 70, 99))
    box = boxed(PROFILE, liver=liver, spleen=spleen)
    assert (box.start, box.stop) == ((5, 10, 10), (42, 90, 110))  # 10 mm are 2 slices
    assert (box.method, box.confidence) == ("mask", 1.0)


def test_nothing_marked_is_cut() -> None:
    liver = OrganBounds((25, 5, 20), (55, 80, 70))
    bowel = OrganBounds((2, 30, 1), (30, 99, 60))
    box = boxed(PROFILE, liver=liver, bowel=bowel)
    assert (box.start, box.stop) == ((0, 3, 0), (57, 100, 110))


@pytest.mark.parametrize("organ", ["liver", "spleen"])
def test_a_partial_mask_cuts_nothing(organ: str) -> None:
    box = boxed(PROFILE, **{organ: OrganBounds((25, 30, 20), (36, 80, 70))})
    assert (box.start, box.stop, box.confidence) == (PROFILE.start, PROFILE.stop, 0.9)
    whole = Box((0, 0, 0), SHAPE, "whole", 0.2)
    assert boxed(whole, **{organ: OrganBounds((25, 30, 20), (36, 80, 70))}).stop == SHAPE


def test_a_kidney_alone_leaves_the_top_to_the_profiles() -> None:
    box = boxed(PROFILE, kidney_left=OrganBounds((20, 40, 80), (28, 60, 95)))
    assert (box.start[0], box.stop[0], box.confidence) == (5, 50, 0.9)


def test_without_profiles_the_bowel_is_the_bottom() -> None:
    whole = Box((0, 0, 0), SHAPE, "whole", 0.0)
    liver, bowel = OrganBounds((25, 30, 20), (40, 80, 70)), OrganBounds((8, 30, 20), (30, 80, 70))
    box = boxed(whole, liver=liver, spleen=liver, bowel=bowel)
    assert (box.start[0], box.stop[0], box.confidence) == (6, 42, 1.0)
    box = boxed(whole, liver=liver, spleen=liver)
    assert (box.start[0], box.stop[0], box.confidence) == (0, 60, 0.0)


def test_an_organ_that_goes_on_beyond_its_mask_gives_no_end() -> None:
    """The mask ends at slice 40, within the liver, and at slice 8, within the bowel."""
    liver = OrganBounds((25, 30, 20), (40, 80, 70), goes_on_above=True)
    spleen = OrganBounds((25, 30, 20), (38, 80, 70))
    bowel = OrganBounds((8, 30, 20), (30, 80, 70), goes_on_below=True)
    box = boxed(PROFILE, liver=liver, spleen=spleen, bowel=bowel)
    assert (box.start[0], box.stop[0], box.confidence) == (5, 50, 0.9)
    whole = Box((0, 0, 0), SHAPE, "whole", 0.0)
    box = boxed(whole, liver=spleen, spleen=spleen, bowel=bowel)
    assert (box.start[0], box.stop[0], box.confidence) == (0, 60, 0.0)
    whole_spleen = OrganBounds((25, 30, 20), (41, 80, 70))
    box = boxed(PROFILE, liver=whole_spleen, spleen=whole_spleen, bowel=bowel)
    assert (box.start[0], box.stop[0], box.confidence) == (5, 43, 1.0)  # the bottom is that of HU


@pytest.mark.parametrize(("top", "stop"), [(36, 50), (59, 60)])
def test_organs_far_from_the_dome_give_no_end(top: int, stop: int) -> None:
    """Labels that end inside the liver, or a stray voxel at the top of the scan."""
    liver, spleen = (
        OrganBounds((25, 30, 20), (top, 80, 70)),
        OrganBounds((25, 30, 80), (36, 70, 99)),
    )
    box = boxed(PROFILE, liver=liver, spleen=spleen)
    assert (box.start[0], box.stop[0], box.confidence) == (5, stop, 0.9)
    doubted = Box(PROFILE.start, PROFILE.stop, "profile", 0.55)  # fluid: the dome may be higher
    assert boxed(doubted, liver=liver, spleen=spleen).confidence == 1.0


def test_organs_do_not_clear_a_doubt() -> None:
    doubted = Box((0, 0, 0), SHAPE, "body", 0.2, ("orientation_doubted",))
    liver, bowel = OrganBounds((25, 30, 20), (40, 80, 70)), OrganBounds((8, 30, 20), (30, 80, 70))
    box = boxed(doubted, liver=liver, spleen=liver, bowel=bowel)
    assert (box.confidence, box.doubts) == (0.2, ("orientation_doubted",))
    assert (box.start[0], box.stop[0]) == (0, 60)
    assert given().to_voxels(CANONICAL, doubted).doubts == ("orientation_doubted",)


def test_no_abdominal_organ_changes_nothing() -> None:
    assert boxed(PROFILE, aorta=OrganBounds((0, 0, 0), SHAPE)) is PROFILE


def given(**changes: float) -> GivenBox:
    numbers = dict.fromkeys(("y_low_mm", "y_high_mm", "x_low_mm", "x_high_mm"), math.nan)
    numbers |= {"z_low_mm": -152.5, "z_high_mm": -2.5} | changes
    return GivenBox(**numbers, made_by="run-1", confidence=0.8)


def test_a_given_box_is_in_millimetres() -> None:
    # Slice k covers -202.5 + 5 k to -197.5 + 5 k mm.
    box = given().to_voxels(CANONICAL, PROFILE)
    assert (box.start, box.stop) == ((10, 10, 10), (40, 90, 110))
    assert (box.method, box.confidence) == ("given:run-1", 0.8)
    assert given(y_low_mm=19.0, y_high_mm=39.0).to_voxels(CANONICAL, PROFILE).start[1] == 10
    assert given(y_low_mm=19.0, y_high_mm=39.0).to_voxels(CANONICAL, PROFILE).stop[1] == 20
    assert given(z_high_mm=900.0).to_voxels(CANONICAL, PROFILE).stop[0] == 60
    with pytest.raises(SeriesRefused) as caught:
        given(z_low_mm=500.0, z_high_mm=600.0).to_voxels(CANONICAL, PROFILE)
    assert caught.value.reason == Reason.BOX_OUTSIDE


def test_another_box_has_another_digest() -> None:
    assert given().digest == given().digest
    assert given().digest != given(z_low_mm=-152.0).digest


@pytest.mark.parametrize("name", ["b.csv", "b.parquet"])
def test_a_table_of_boxes(tmp_path: Path, name: str) -> None:
    import pandas as pd

    table = pd.DataFrame(
        {"series_uid": ["1", "2.5"], "z_low_mm": [0.0, 1.0], "z_high_mm": [5.0, 9.0]}
    )
    path = tmp_path / name
    table.to_csv(path, index=False) if name.endswith("csv") else table.to_parquet(path)
    boxes = read_boxes(path)
    assert list(boxes) == ["1", "2.5"]
    blank = tmp_path / "blank.csv"
    blank.write_text("series_uid,z_low_mm,z_high_mm,made_by,confidence\n1,0,5,,\n")
    assert read_boxes(blank)["1"].digest == boxes["1"].digest
    assert (boxes["1"].z_high_mm, boxes["1"].made_by, boxes["1"].confidence) == (5.0, "table", 1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("series_uid,z_low_mm\n1,0\n", "no z_high_mm"),
        ("series_uid,z_low_mm,z_high_mm\n1,9,3\n", "row 1: expected z_low_mm below z_high_mm"),
        ("series_uid,z_low_mm,z_high_mm\n1,a,3\n", "row 1: expected numbers in mm"),
        ("series_uid,z_low_mm,z_high_mm\n1,0,3\n1,0,4\n", "row 2: a second box of series 1"),
        ("series_uid,z_low_mm,z_high_mm,made_by\n1,0,3,../x\n", "made_by must be"),
        ("series_uid,z_low_mm,z_high_mm,confidence\n1,0,3,2\n", "confidence must be"),
        ("series_uid,z_low_mm,z_high_mm,y_low_mm\n1,0,3,2\n", "expected y_low_mm below y_high_mm"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_boxes(path)
