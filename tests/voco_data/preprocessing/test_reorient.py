"""Tilted and oblique scans against a field whose value is known at every point of the patient."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.ct_files import write_slices
from voco_data.dicom.series.reader import read_series
from voco_data.preprocessing.reorient import (
    canonical_grid,
    labels_to_canonical_grid,
    to_canonical_grid,
)
from voco_data.volumes.geometry import CANONICAL_AXES, Geometry
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import AIR_HU, Volume


def points_mm(geometry: Geometry) -> npt.NDArray[np.float64]:
    """(3, *shape): LPS position of every voxel, from origin, axes and spacing, by hand."""
    index = np.indices(geometry.shape)
    steps = [s * np.asarray(a) for s, a in zip(geometry.spacing_mm, geometry.axes, strict=True)]
    moved = sum(i * step[:, None, None, None] for i, step in zip(index, steps, strict=True))
    return np.asarray(geometry.origin_mm)[:, None, None, None] + moved


def field_hu(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear in every direction, so that linear interpolation is exact."""
    x, y, z = points
    return 2.0 * x - 3.0 * y + 5.0 * z + 40.0


def turned(angle_deg: float, about: str) -> tuple[tuple[float, float, float], ...]:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    if about == "x":
        return ((0.0, -s, c), (0.0, c, s), (1.0, 0.0, 0.0))
    return ((0.0, 0.0, 1.0), (-s, c, 0.0), (c, s, 0.0))


def check(geometry: Geometry) -> Volume:
    hu = np.rint(field_hu(points_mm(geometry))).astype(np.int16)
    upright = to_canonical_grid(Volume(hu, geometry, (), "nifti"))
    assert upright.geometry.axes == CANONICAL_AXES
    truth = field_hu(points_mm(upright.geometry))
    scanned = upright.hu != AIR_HU
    assert scanned.mean() > 0.3
    # Rounded once where it was scanned and once where it was resampled.
    assert np.abs(upright.hu - truth)[scanned].max() <= 1.0
    return upright


@pytest.mark.parametrize("about", ["x", "z"])
@pytest.mark.parametrize("angle", [-44.0, -18.5, 7.0, 30.0])
def test_an_oblique_volume_keeps_every_value_in_its_place(angle: float, about: str) -> None:
    geometry = Geometry((12, 20, 24), (4.0, 2.0, 1.5), (-10.0, 5.0, 7.0), turned(angle, about))
    assert check(geometry).flags == ("reoriented",)


@pytest.mark.parametrize("tilt", [-30.0, -18.5, 3.0, 25.0])
def test_a_tilted_gantry_is_straightened(tilt: float) -> None:
    _, down, right = turned(tilt, "x")
    geometry = Geometry((14, 30, 20), (2.5, 1.0, 1.0), (0.0, 0.0, 0.0), ((0, 0, 1), down, right))
    assert geometry.is_sheared
    assert check(geometry).flags == ("tilt_corrected",)


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    angle=st.floats(-40, 40),
    spacing=st.tuples(*[st.floats(0.5, 6.0)] * 3),
)
def test_the_canonical_grid_holds_every_corner(
    order: list[int], signs: tuple[int, ...], angle: float, spacing: tuple[float, ...]
) -> None:
    base = turned(angle, "x")
    axes = tuple(tuple(s * v for v in base[o]) for s, o in zip(signs, order, strict=True))
    native = Geometry((5, 7, 6), spacing, (3.0, -2.0, 11.0), axes)  # type: ignore[arg-type]
    grid = canonical_grid(native)
    corners = points_mm(native)[:, [0, 0, 0, 0, -1, -1, -1, -1], :, :][:, :, [0, -1]][..., [0, -1]]
    ends = points_mm(grid)
    for axis, step in zip((2, 1, 0), grid.spacing_mm, strict=True):
        assert ends[axis].min() <= corners[axis].min() + 1e-6
        assert ends[axis].max() > corners[axis].max() - step - 1e-6
    assert sorted(grid.spacing_mm) == pytest.approx(sorted(spacing))


def test_tilted_files_are_read_as_they_are_and_straightened_after(tmp_path: Path) -> None:
    tilt = math.radians(-18.5)
    c, s = math.cos(tilt), math.sin(tilt)
    geometry = Geometry(
        (12, 30, 24), (2.5, 1.0, 1.0), (-12.0, -15.0, 40.0), ((0, 0, 1), (0, c, s), (1, 0, 0))
    )
    hu = np.rint(field_hu(points_mm(geometry))).astype(np.int16)
    paths = write_slices(
        tmp_path,
        hu,
        spacing_mm=(2.5, 1.0, 1.0),
        origin_mm=(-12.0, -15.0, 40.0),
        step_mm=(0.0, 0.0, 2.5),
        orientation=(1, 0, 0, 0, round(c, 8), round(s, 8)),
    )
    volume = read_series(paths, gaps=GapPolicy(0.05), min_slices=8)
    assert np.array_equal(volume.hu, hu)
    assert volume.geometry.is_sheared
    assert volume.geometry.spacing_mm == pytest.approx((2.5, 1.0, 1.0), abs=1e-5)
    assert volume.geometry.axes[0] == pytest.approx((0, 0, 1), abs=1e-6)
    upright = to_canonical_grid(volume)
    scanned = upright.hu != AIR_HU
    assert np.abs(upright.hu - field_hu(points_mm(upright.geometry)))[scanned].max() <= 1.0


def test_labels_move_with_the_voxels() -> None:
    geometry = Geometry((12, 20, 24), (4.0, 2.0, 2.0), (0.0, 0.0, 0.0), turned(20.0, "x"))
    _, _, z = points_mm(geometry)
    labels = np.where(z > z.mean(), 2, 1).astype(np.uint16)
    grid = canonical_grid(geometry)
    moved = labels_to_canonical_grid(labels, geometry, grid)
    height = points_mm(grid)[2]
    inside = moved > 0
    near = np.abs(height - z.mean()) < 4.0
    assert (moved[inside & ~near] == np.where(height > z.mean(), 2, 1)[inside & ~near]).all()


@pytest.mark.real_ct
def test_a_real_tilted_scan_steps_along_the_table(real_ct: Path) -> None:
    """Measured truth: step (0, 0, 2.5) mm, tilt -18.5 degrees; the couch's edge must be level."""
    files = sorted((real_ct / "05_philips_phantom_gantry_tilt").iterdir())
    volume = read_series(files, gaps=GapPolicy(0.05), min_slices=8)
    assert volume.geometry.axes[0] == pytest.approx((0, 0, 1), abs=1e-6)
    assert volume.geometry.spacing_mm == pytest.approx((2.5, 0.482421875, 0.482421875), abs=1e-5)
    upright = to_canonical_grid(volume)
    assert upright.flags == ("tilt_corrected",)
    lowest, highest = upright.geometry.origin_mm[2], 2.5 * (upright.geometry.shape[0] - 1)
    corners = [
        742.345191756896 + k * 37.5 - 0.317305 * r * 511 * 0.482421875
        for k, r in itertools.product((0, 1), repeat=2)
    ]
    assert lowest == pytest.approx(min(corners), abs=1e-2)
    assert lowest + highest == pytest.approx(max(corners), abs=2.5)
