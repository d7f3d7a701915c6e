"""Masks that claim, or expand to, gigabytes: refused by the grid of their series, at no cost."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.support import bombs
from voco_data.cohort import MaskFile, MaskKind
from voco_data.dicom.header import read_dataset
from voco_data.masks.files import read_masks
from voco_data.masks.nrrd import read_nrrd
from voco_data.nifti.content import is_label_map
from voco_data.volumes.geometry import Geometry

SERIES = Geometry(
    bombs.SHAPE, (5.0, 2.0, 2.0), (-60.0, -60.0, -100.0), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
)
MOST_BYTES = 48 * bombs.MEBIBYTE
"""The largest of these files has 14 MB; the series has 86,400 voxels."""
KINDS: dict[str, MaskKind] = {".nrrd": "nrrd", ".gz": "nifti", ".dcm": "dicom_seg"}


def flags_of(path: Path) -> tuple[str, ...]:
    """The flags of a mask of the series; fails if memory goes beyond MOST_BYTES."""
    file = MaskFile(path.name, KINDS[path.suffix], "unknown")
    tracemalloc.start()
    try:
        placed, flags = read_masks(path.parent, [file], SERIES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert placed is None or flags == ("mask",)
    assert peak < MOST_BYTES, path.name
    return flags


@pytest.mark.parametrize("name", bombs.MASKS)
def test_a_mask_is_refused_by_the_grid_of_its_series(tmp_path: Path, name: str) -> None:
    bombs.MASKS[name](tmp_path / name)
    misplaced = name == "claims_mask.nii.gz"  # the only size that a volume may have
    assert flags_of(tmp_path / name) == (("mask_misplaced" if misplaced else "mask_unreadable"),)


@pytest.mark.parametrize("name", bombs.SEGMENTATIONS)
def test_a_segmentation_is_refused_by_the_grid_of_its_series(tmp_path: Path, name: str) -> None:
    bombs.SEGMENTATIONS[name](tmp_path / name, "1.2.3.4")
    assert flags_of(tmp_path / name) == ("mask_unreadable",)


def test_the_segmentation_without_a_bomb_is_a_mask(tmp_path: Path) -> None:
    bombs.seg_of_one_frame(tmp_path / "m.dcm", "1.2.3.4")
    assert flags_of(tmp_path / "m.dcm") == ("mask",)
    assert read_dataset(tmp_path / "m.dcm", pixels=True).Rows == 60


def test_gigabytes_of_one_value_are_called_constant_before_their_end(tmp_path: Path) -> None:
    """The index asks what a NIfTI file holds before it knows any series."""
    path = tmp_path / "claims_mask.nii.gz"
    bombs.nifti_that_claims(path)
    damaged = path.read_bytes()[:1_000_000] + b"\xff" * 3_000_000
    path.write_bytes(damaged)  # so what lies beyond is an error
    tracemalloc.start()
    try:
        assert is_label_map(path) is True
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("change", [-1, 0, 1])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_nrrd_in_every_encoding(tmp_path: Path, encoding: str, change: int, line_end: str) -> None:
    """As many voxels as the header says, neither more nor fewer; written by hand."""
    labels = np.random.default_rng(0).integers(0, 9, bombs.SHAPE).astype(">u2")
    path = tmp_path / "m.nrrd"
    bombs.write_nrrd(path, labels, encoding, line_end, change)
    file = MaskFile(path.name, "nrrd", "unknown")
    placed, flags = read_masks(tmp_path, [file], SERIES)
    assert flags == (("mask_unreadable",) if change else ("mask",))
    if not change:
        assert placed is not None
        assert np.array_equal(placed.labels, labels)
        assert np.array_equal(read_nrrd(path, SERIES)[0], labels)
