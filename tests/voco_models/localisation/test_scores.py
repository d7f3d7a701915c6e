"""Scores of boxes against true ones, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.small_stores import make_record
from voco_data.store.archive_mask import ArchiveMask, ProfileBox
from voco_data.store.spec import StoreSpec
from voco_models.localisation.boundary_errors import Extent
from voco_models.localisation.boxes import OrganBox
from voco_models.localisation.regions import choose_box
from voco_models.localisation.scores import (
    ScoredSeries,
    count_false_boxes,
    measure_errors,
    measure_kept,
    median_interval,
    summarise_faces,
    summarise_kept,
    summarise_organs,
    with_regions,
)
from voco_models.localisation.truths import Truth, read_truth

VOLUME = Extent((0.0, 0.0, 0.0), (400.0, 200.0, 300.0))
LIVER = Extent((200.0, 20.0, 30.0), (320.0, 180.0, 200.0))
SPLEEN = Extent((220.0, 90.0, 210.0), (330.0, 170.0, 280.0))
BOWEL = Extent((50.0, 10.0, 40.0), (230.0, 120.0, 270.0))
ORGANS = {"liver": LIVER, "spleen": SPLEEN, "bowel": BOWEL}


def box(extent: Extent, **moved: float) -> OrganBox:
    """The box of an extent with some faces moved, such as `z_low=-3`."""
    low, high = (
        tuple(v + moved.get(f"{a}_{end}", 0.0) for a, v in zip("zyx", values, strict=True))
        for end, values in zip(("low", "high"), extent, strict=True)
    )
    return OrganBox(low, high, 0.9)  # type: ignore[arg-type]


def case(truth: Truth, patient: str = "p", row: int = 0) -> ScoredSeries:
    return ScoredSeries(row, f"series-{row}", patient, truth)


TRUTH = Truth(ORGANS, frozenset(), VOLUME)


def test_the_abdomen_reaches_from_the_bowel_to_the_highest_organ() -> None:
    abdomen = TRUTH.with_regions(["abdomen"]).organs["abdomen"]
    assert (abdomen.low_mm[0], abdomen.high_mm[0]) == (50.0, 330.0)
    found = choose_box({name: box(extent) for name, extent in ORGANS.items()}, "abdomen")
    assert found is not None
    assert (found.low_mm, found.high_mm) == (abdomen.low_mm, abdomen.high_mm)


@pytest.mark.parametrize(
    ("organs", "absent", "top"),
    [
        (("liver", "bowel"), {"spleen"}, 320.0),  # the spleen was removed
        (("liver", "bowel"), set(), None),  # it may be the highest, and is not marked
        (("liver", "spleen"), {"bowel"}, None),
        (("bowel",), {"liver", "spleen"}, None),
    ],
)
def test_the_true_abdomen_needs_what_tells_its_ends(
    organs: tuple[str, ...], absent: set[str], top: float | None
) -> None:
    truth = Truth({name: ORGANS[name] for name in organs}, frozenset(absent), VOLUME)
    found = truth.with_regions(["abdomen"]).organs.get("abdomen")
    assert (None if found is None else found.high_mm[0]) == top


def test_truths_are_the_boxes_of_organs_that_are_marked_wholly() -> None:
    volume = np.zeros((4, 4, 4), np.uint8)
    record = replace(
        make_record(0, volume, StoreSpec("small", (4, 4, 4)), "a"),
        organs={"liver": tuple(LIVER), "spleen": tuple(SPLEEN)},
        organ_maps={"liver": "text", "kidney_left": "text"},
        box_low_mm=VOLUME.low_mm,
        box_high_mm=VOLUME.high_mm,
    )
    truth = read_truth(record, ["liver", "spleen", "kidney_left", "bowel"])
    assert truth == Truth({"liver": LIVER}, frozenset({"kidney_left"}), VOLUME)
    assert not read_truth(record, ["bowel"]).is_known


def test_errors_by_organ_by_face_and_of_regions() -> None:
    cases = [
        case(TRUTH.with_regions(["abdomen"]), "a", 3),
        case(Truth({"liver": LIVER}, frozenset({"spleen"}), VOLUME), "b", 5),
    ]
    ours = [
        {
            "liver": box(LIVER, z_low=-3, z_high=4),
            "spleen": box(SPLEEN, z_high=-10),
            "bowel": box(BOWEL, z_low=6, x_low=8),
        },
        {"spleen": box(SPLEEN)},
    ]
    errors = measure_errors({"ours": with_regions(ours, ["abdomen"]), "none": [{}, {}]}, cases)
    assert set(errors["localiser"]) == {"ours", "none"}
    mine = errors[errors["localiser"] == "ours"]
    # 6 faces of 3 organs and 2 of the abdomen in the first series, 6 of the liver in the second.
    assert mine["series"].value_counts().to_dict() == {0: 20, 1: 6}
    assert set(mine[mine["series"] == 1]["patient_id"]) == {"b"}
    abdomen = mine[mine["organ"] == "abdomen"].set_index("face")["error_mm"].to_dict()
    # The top is that of the liver box, 324, as the spleen's is 320; truly it is 330.
    assert abdomen == {"z_low": 6.0, "z_high": -6.0}
    summary = summarise_organs(mine)
    assert summary["liver"]["median_mm"] == 0.0
    assert summary["liver"]["p95_mm"] == pytest.approx(3.75)  # of 0, 0, 0, 0, 3, 4
    assert (summary["liver"]["faces"], summary["liver"]["missed"]) == (12, 6)
    assert summary["abdomen"]["median_mm"] == 6.0
    assert (summary["all"]["faces"], summary["all"]["missed"]) == (24, 6)  # without the abdomen
    faces = {(row["organ"], row["face"]): row for row in summarise_faces(mine)}
    assert faces["liver", "z_low"]["bias_mm"] == -3.0
    assert faces["liver", "z_low"]["missed"] == 1
    assert faces["bowel", "x_low"]["median_mm"] == 8.0
    assert ("abdomen", "x_low") not in faces
    nothing = summarise_organs(errors[errors["localiser"] == "none"])
    assert nothing["all"]["missed"] == nothing["all"]["faces"] == 24
    assert np.isnan(nothing["all"]["median_mm"])
    assert count_false_boxes(ours, cases) == {"spleen": 1}


def cube_mask() -> ArchiveMask:
    """Voxels of 1 mm; a liver of 4 x 4 x 4 of them and a bowel of 2 x 4 x 4 below it."""
    voxels = np.zeros((12, 8, 8), np.uint16)
    voxels[6:10, 2:6, 2:6] = 1
    voxels[2:4, 2:6, 2:6] = 2
    volume = np.zeros((4, 4, 4), np.uint8)
    record = replace(
        make_record(7, volume, StoreSpec("small", (4, 4, 4)), "a"),
        canonical_first_mm=(0.5, 0.5, 0.5),
        organs={
            "liver": ((6.0, 2.0, 2.0), (10.0, 6.0, 6.0)),
            "bowel": ((2.0, 2.0, 2.0), (4.0, 6.0, 6.0)),
        },
        organ_maps={"liver": "", "bowel": "", "spleen": ""},
        box_high_mm=(12.0, 8.0, 8.0),
    )
    box = ProfileBox((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.9, 0.0)
    labels = {"liver": frozenset({1}), "bowel": frozenset({2}), "spleen": frozenset[int]()}
    return ArchiveMask(record, voxels, labels, box)


def test_kept_shares_of_a_cube() -> None:
    mask = cube_mask()
    truth = read_truth(mask.record, ["liver", "bowel", "spleen"]).with_regions(["abdomen"])
    cases = [case(truth, "a", 7)]
    liver, bowel = truth.organs["liver"], truth.organs["bowel"]
    halves = {"liver": box(liver, z_high=-2.0), "bowel": box(bowel, y_low=1.0)}
    found = {"halves": with_regions([halves], ["abdomen"]), "none": [{}]}
    tight = measure_kept(found, cases, [mask], margin_mm=0.0).set_index(["localiser", "organ"])
    assert tight["voxels"].xs("halves").to_dict() == {"liver": 64, "bowel": 32, "abdomen": 96}
    assert tight["kept"].xs("halves").to_dict() == {
        "liver": 32, "bowel": 24, "abdomen": 32 + 32,  # in the plane the abdomen is open
    }  # fmt: skip
    assert tight["kept"].xs("none").isna().all()
    wide = measure_kept(found, cases, [mask], margin_mm=2.0)
    kept = summarise_kept(wide[wide["localiser"] == "halves"])
    assert {name: values["kept"] for name, values in kept.items()} == {
        "liver": 1.0, "bowel": 1.0, "abdomen": 1.0, "all": 1.0,
    }  # fmt: skip
    one = measure_kept(found, cases, [mask], margin_mm=1.0)
    shares = summarise_kept(one[one["localiser"] == "halves"])
    assert shares["liver"] == {"kept": 0.75, "kept_lowest": 0.75, "cut": 1, "without_box": 0}
    assert shares["all"]["kept"] == pytest.approx((0.75 + 1.0) / 2)
    nothing = summarise_kept(one[one["localiser"] == "none"])
    assert nothing["all"]["without_box"] == 2
    assert np.isnan(nothing["liver"]["kept"])


def test_the_interval_is_over_patients() -> None:
    """Ten patients of equal faces: an interval over faces would be ten times too narrow."""
    cases = [case(TRUTH, f"p{number}", number) for number in range(10)]
    rng = np.random.default_rng(1)
    shifts = rng.uniform(0, 20, 10)
    found = [
        {
            name: OrganBox(
                tuple(v + shift for v in extent.low_mm),  # type: ignore[arg-type]
                tuple(v + shift for v in extent.high_mm),  # type: ignore[arg-type]
                1.0,
            )
            for name, extent in ORGANS.items()
        }
        for shift in shifts
    ]
    interval = median_interval(measure_errors({"ours": found}, cases))
    assert interval.value == pytest.approx(np.median(shifts))
    drawn = np.sort(np.random.default_rng(5).choice(shifts, (4000, 10)), axis=1)[:, 4]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert interval.low == pytest.approx(low, abs=1.0)
    assert interval.high == pytest.approx(high, abs=1.0)
    alone = median_interval(measure_errors({"ours": found[:1]}, cases[:1]))
    assert alone.value == pytest.approx(shifts[0])
    assert np.isnan(alone.low)
