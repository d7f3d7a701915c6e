"""The table of localisers, of boxes whose errors are known."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.support.small_stores import make_record
from voco_data.store.archive_mask import ArchiveMask, ProfileBox
from voco_data.store.spec import StoreSpec
from voco_models.bench.localiser_scores import score_localisers
from voco_models.bench.localiser_training import Localiser
from voco_models.localisation.boxes import OrganBox
from voco_models.localisation.scores import ScoredSeries
from voco_models.localisation.truths import read_truth

BOUNDS = {
    "liver": ((20.0, 2.0, 2.0), (30.0, 10.0, 10.0)),
    "spleen": ((22.0, 2.0, 12.0), (28.0, 10.0, 18.0)),
    "bowel": ((5.0, 2.0, 2.0), (15.0, 10.0, 10.0)),
}
"""Cubes of voxels of 1 mm in a volume of 40 x 20 x 20."""


def cubes() -> ArchiveMask:
    voxels = np.zeros((40, 20, 20), np.uint16)
    for number, bounds in enumerate(BOUNDS.values(), start=1):
        low, high = np.array(bounds, int)
        voxels[tuple(map(slice, low.tolist(), high.tolist()))] = number
    record = replace(
        make_record(4, np.zeros((4, 4, 4), np.uint8), StoreSpec("small", (4, 4, 4)), "a"),
        canonical_first_mm=(0.5, 0.5, 0.5),
        organs=BOUNDS,
        organ_maps=dict.fromkeys(BOUNDS, ""),
        box_high_mm=(40.0, 20.0, 20.0),
    )
    labels = {organ: frozenset({number}) for number, organ in enumerate(BOUNDS, start=1)}
    return ArchiveMask(record, voxels, labels, ProfileBox(*BOUNDS["liver"], 0.9, 0.0))


class Reader:
    def read(self, rows: Collection[int], *, on_grid: bool = False) -> Iterator[ArchiveMask]:
        assert list(rows) == [4]
        assert not on_grid
        yield cubes()


def shifted(mm: float) -> dict[str, OrganBox]:
    """True boxes, all moved up."""
    up = np.array([mm, 0.0, 0.0])
    return {
        organ: OrganBox(tuple(low + up), tuple(high + up), 0.9)  # type: ignore[arg-type]
        for organ, (low, high) in BOUNDS.items()
    }


def test_the_table_of_known_errors() -> None:
    truth = read_truth(cubes().record, list(BOUNDS)).with_regions(["abdomen"])
    case = ScoredSeries(4, "series", "patient", truth)
    abdomen = OrganBox((1.0, 0.0, 0.0), (33.0, 20.0, 20.0), 0.95)
    lame = {organ: box for organ, box in shifted(0.0).items() if organ != "spleen"}
    localisers = [
        Localiser("profile", 0, [{"abdomen": abdomen}], inference_s=0.03),
        Localiser("fpn", 0, [shifted(2.0)], steps=7, training_s=4.0, parameters=10),
        Localiser("fpn", 1, [shifted(4.0)], steps=7, training_s=8.0, parameters=10),
        Localiser("mean_box", 0, [lame]),
    ]
    table = score_localisers(localisers, [case], Reader(), margin_mm=0.0)
    profile, fpn, mean = table["rows"]
    assert [row["name"] for row in table["rows"]] == ["profile", "fpn", "mean_box"]
    # 4 of 6 faces of an organ are right; 2 are off by 2 mm in one seed and by 4 in the other.
    assert fpn["median"] == 0.0
    assert fpn["p95_mm"] == pytest.approx(np.percentile([0] * 24 + [2] * 6 + [4] * 6, 95))
    assert (fpn["faces"], fpn["missed"]) == (36, 0)
    assert (fpn["top_median_mm"], fpn["bottom_bias_mm"]) == (3.0, 3.0)
    # Of 10, 6 and 10 slices, 2 and then 4 are cut off.
    assert fpn["kept"] == pytest.approx(np.mean([0.8, 4 / 6, 0.8, 0.6, 2 / 6, 0.6]))
    assert fpn["kept_lowest"] == pytest.approx(1 / 3)
    # The abdomen loses the lowest slices of the bowel: 128 and 256 of 640 + 288 + 640 voxels.
    assert fpn["abdomen_kept"] == pytest.approx(1 - np.mean([128, 256]) / 1568)
    assert (fpn["training_s"], fpn["steps"], fpn["parameters"]) == (6.0, 7, 10)
    assert (profile["faces"], profile["missed"]) == (0, 0)
    assert (profile["top_bias_mm"], profile["bottom_bias_mm"]) == (3.0, -4.0)
    assert profile["abdomen_kept"] == 1.0
    assert np.isnan(profile["median"])
    assert np.isnan(profile["kept"])
    assert (mean["faces"], mean["missed"]) == (18, 6)
    assert mean["top_missed"] == 0  # the liver is the highest, in truth too
    assert [row["seed"] for row in table["by_seed"] if row["localiser"] == "fpn"] == [0, 1]
    spleen = {row["localiser"]: row for row in table["by_organ"] if row["organ"] == "spleen"}
    assert set(spleen) == {"fpn", "mean_box"}
    assert spleen["mean_box"]["without_box"] == 1
