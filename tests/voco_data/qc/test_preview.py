"""Previews: orientation, proportions, the rectangles of the box and its histogram."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from voco_data.qc import preview
from voco_data.storage.local import LocalStorage
from voco_data.volumes.geometry import Box
from voco_data.volumes.hu_histogram import BINS, HuHistogram

SPACING_MM = (5.0, 2.0, 2.0)
SHAPE = (40, 60, 80)  # 200 by 120 by 160 mm
BOX = Box((10, 15, 20), (30, 45, 70), "profile", 0.9)
SLOT = preview.SLOT_PX


def write_preview(
    folder: Path, hu: npt.NDArray[np.int16], box: Box = BOX, name: str = "p.jpg"
) -> None:
    histogram = HuHistogram.from_box(hu, box)
    preview.write(LocalStorage(folder), name, hu, SPACING_MM, box, histogram)


def planes(hu: npt.NDArray[np.int16], folder: Path) -> list[npt.NDArray[np.int16]]:
    """The three slots as grey values."""
    write_preview(folder, hu)
    found = preview.read(LocalStorage(folder), "p.jpg")
    assert found is not None
    with Image.open(folder / found.key) as image:
        assert image.size == (3 * SLOT, SLOT)
        return np.split(np.asarray(image, np.int16), 3, axis=1)


def centre_of_light(plane: npt.NDArray[np.int16]) -> tuple[float, float]:
    """(row, column) as shares of the slot."""
    ys, xs = np.nonzero(plane > 200)
    return float(ys.mean()) / SLOT, float(xs.mean()) / SLOT


def test_right_on_the_left_front_and_head_up(tmp_path: Path) -> None:
    hu = np.full(SHAPE, 0, np.int16)
    hu[:, 4:10, 40:50] = 400  # in front, a little to the patient's left
    assert centre_of_light(planes(hu, tmp_path)[0])[0] < 0.3  # anterior is up
    hu[:] = 0
    hu[:, 25:35, 66:76] = 400  # the patient's left
    axial, coronal, _ = planes(hu, tmp_path)
    assert centre_of_light(axial)[1] > 0.8
    assert centre_of_light(coronal)[1] > 0.7
    hu[:] = 0
    hu[34:, 10:20] = 400  # a high bar in front of the middle: outside the coronal plane
    hu[34:, 30] = 400  # and one in the coronal plane
    _, coronal, sagittal = planes(hu, tmp_path)
    assert centre_of_light(coronal)[0] < 0.1  # head up
    assert centre_of_light(sagittal)[0] < 0.1
    assert centre_of_light(sagittal)[1] < 0.45  # anterior on the left


def test_a_plane_fills_its_slot_in_millimetres(tmp_path: Path) -> None:
    for plane, wide_mm, high_mm in zip(
        planes(np.full(SHAPE, 400, np.int16), tmp_path),
        (160, 160, 120),
        (120, 200, 200),
        strict=True,
    ):
        bright = plane > 128
        scale = SLOT / max(wide_mm, high_mm)
        assert bright.any(axis=0).sum() == pytest.approx(wide_mm * scale, abs=2)
        assert bright.any(axis=1).sum() == pytest.approx(high_mm * scale, abs=2)


def test_the_boxes_surround_what_is_in_them(tmp_path: Path) -> None:
    hu = np.full(SHAPE, -1000, np.int16)
    hu[10:30, 15:45, 20:70] = 400  # the box, filled
    slots = planes(hu, tmp_path)
    found = preview.read(LocalStorage(tmp_path), "p.jpg")
    assert found is not None
    for slot, (left, top, width, height) in enumerate(found.boxes):
        ys, xs = np.nonzero(slots[slot] > 128)
        assert xs.min() + slot * SLOT == pytest.approx(left, abs=1.5)
        assert xs.max() + 1 + slot * SLOT == pytest.approx(left + width, abs=1.5)
        assert ys.min() == pytest.approx(top, abs=1.5)
        assert ys.max() + 1 == pytest.approx(top + height, abs=1.5)
    # 150 mm of 200, from 50 mm above the feet end: the box is not in the middle of a high scan.
    write_preview(tmp_path, hu, Box((0, 0, 0), (10, 60, 80), "profile", 0.9))
    low = preview.read(LocalStorage(tmp_path), "p.jpg")
    assert low is not None
    assert low.boxes[1][1] == pytest.approx(0.75 * SLOT, abs=0.2)  # at the bottom: feet


def test_the_histogram_is_that_of_the_box(tmp_path: Path) -> None:
    hu = np.full(SHAPE, -1000, np.int16)
    hu[10:30, 15:45, 20:70] = 40
    hu[10:30, 15:45, 20:25] = 3000
    planes(hu, tmp_path)
    found = preview.read(LocalStorage(tmp_path), "p.jpg")
    assert found is not None
    filled = {k: n for k, n in enumerate(found.histogram) if n}
    assert filled == {(40 + 1024) // 20: 20 * 30 * 45, BINS - 1: 20 * 30 * 5}


def test_other_files_are_none(tmp_path: Path) -> None:
    assert preview.read(LocalStorage(tmp_path), "absent.jpg") is None
    (tmp_path / "text.jpg").write_text("hello")
    assert preview.read(LocalStorage(tmp_path), "text.jpg") is None
    Image.new("L", (8, 8)).save(tmp_path / "plain.jpg")
    assert preview.read(LocalStorage(tmp_path), "plain.jpg") is None
    Image.new("L", (8, 8)).save(tmp_path / "later.jpg", comment=b'{"format": 99}')
    assert preview.read(LocalStorage(tmp_path), "later.jpg") is None


def test_the_same_scan_gives_the_same_bytes(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-200, 300, SHAPE, np.int16)
    for name in "ab":
        write_preview(tmp_path, hu, name=name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_a_preview_costs_little(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-200, 300, (300, 512, 512), np.int16)
    box = Box((60, 60, 30), (250, 450, 480), "profile", 0.9)
    times = []
    for _ in range(9):
        began = time.perf_counter()
        histogram = HuHistogram.from_box(hu, box)
        preview.write(LocalStorage(tmp_path), "p.jpg", hu, (1.0, 0.8, 0.8), box, histogram)
        times.append(time.perf_counter() - began)
    print(f"preview.write: {1000 * statistics.median(times):.1f} ms")
    assert min(times) < 0.015
