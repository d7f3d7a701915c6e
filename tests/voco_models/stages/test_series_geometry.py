"""Depths and organ boxes of series, from records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import StoreCorrupt
from voco_data.store.keys import record_key
from voco_data.store.record import Record
from voco_models.objectives.classification import ORGAN_BOXES, Z_EXTENT
from voco_models.stages.series_geometry import read_geometry

REGIONS = ("liver", "spleen")


def in_scanner(record: Record) -> Record:
    """A box of 200 x 300 x 400 mm; row 1 has a liver, 40 to 120 mm below its superior end."""
    organs = {"liver": ((980.0, -100.0, 60.0), (1060.0, 50.0, 160.0))} if record.row == 1 else {}
    return replace(
        record, box_low_mm=(900.0, -150.0, -40.0), box_high_mm=(1100.0, 150.0, 360.0), organs=organs
    )


def test_boxes_are_depths_and_shares_of_the_plane(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(3, (4, 6, 6)), change=in_scanner)
    geometry = read_geometry(store, [1, 2], REGIONS)
    assert geometry.z_extent_mm.tolist() == [200, 200]
    assert geometry.organ_boxes.shape == (2, 2, 2, 3)
    liver = torch.tensor([[40, 1 / 6, 0.25], [120, 2 / 3, 0.5]])
    torch.testing.assert_close(geometry.organ_boxes[0, 0], liver)
    assert geometry.organ_boxes[0, 1].isnan().all()
    assert geometry.organ_boxes[1].isnan().all()
    chosen = geometry.select([1])
    assert set(chosen) == {Z_EXTENT, ORGAN_BOXES}
    assert chosen[ORGAN_BOXES].isnan().all()


def test_a_missing_record_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(2, (4, 6, 6)), change=in_scanner)
    (store.path / record_key(1)).unlink()
    with pytest.raises(StoreCorrupt, match="record of row 1 is missing"):
        read_geometry(store, [0, 1], REGIONS)
