"""Silhouettes of organs: against the rule in fractions, and against ellipsoids and the phantom."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from voco_data.cohort import MaskFile, MaskLabels, SeriesEntry
from voco_data.masks.placement import LabelCut, PlacedMask
from voco_data.phantom.patient.points import Points
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.ratic import write_patient
from voco_data.preprocessing.silhouettes import (
    OrganLabels,
    draw_silhouettes,
    draw_volumes,
    find_known_organs,
)
from voco_data.preprocessing.steps import (
    PreparedSeries,
    draw_organ_maps,
    find_boxes,
    prepare_series,
)
from voco_data.store.organ_maps import Silhouette, decode_silhouette
from voco_data.store.spec import LOCALISE, StoreSpec
from voco_data.volumes.geometry import Box, Geometry, Index

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def pixels_of_voxel(voxel: int, n_voxels: int, n_pixels: int) -> set[int]:
    """The rule of clause 11 of STORE.md, in fractions of the length that both divide."""
    if n_pixels <= n_voxels:
        return {math.floor(Fraction(2 * voxel + 1, 2 * n_voxels) * n_pixels)}
    low, high = Fraction(voxel, n_voxels), Fraction(voxel + 1, n_voxels)
    return {p for p in range(n_pixels) if low <= Fraction(2 * p + 1, 2 * n_pixels) < high}


def by_the_rule(labels: npt.NDArray[np.uint16], number: int, box: Box, grid: Index) -> Silhouette:
    """One voxel after the other."""
    sizes = [b - a for a, b in zip(box.start, box.stop, strict=True)]
    coronal, sagittal = np.zeros((grid[0], grid[2]), bool), np.zeros((grid[0], grid[1]), bool)
    for voxel in np.argwhere(labels == number):
        inside = voxel - box.start
        if (inside < 0).any() or (inside >= sizes).any():
            continue
        z, y, x = (
            sorted(pixels_of_voxel(int(v), n, m))
            for v, n, m in zip(inside, sizes, grid, strict=True)
        )
        coronal[np.ix_(z, x)] = True
        sagittal[np.ix_(z, y)] = True
    return Silhouette(coronal, sagittal)


sizes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=80, deadline=None)
@given(shape=sizes, grid=sizes, seed=st.integers(0, 2**31))
def test_every_pixel_follows_the_rule(shape: Index, grid: Index, seed: int) -> None:
    """Finer and coarser grids, any box, three labels of which one is of no organ."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 0, 0, 1, 7, 300], shape).astype(np.uint16)
    start = [int(rng.integers(n)) for n in shape]
    stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)]
    box = Box(tuple(start), tuple(stop), "whole", 0.0)  # type: ignore[arg-type]
    organs = {"liver": frozenset({7}), "spleen": frozenset({300}), "bowel": frozenset[int]()}
    drawn = draw_silhouettes(OrganLabels(labels, organs), box, grid)
    assert list(drawn) == list(organs)
    for organ, number in (("liver", 7), ("spleen", 300), ("bowel", -1)):
        expected = by_the_rule(labels, number, box, grid)
        for plane, truth in zip(drawn[organ], expected, strict=True):
            assert plane.dtype == bool
            np.testing.assert_array_equal(plane, truth)
    for organ, volume in draw_volumes(OrganLabels(labels, organs), box, grid).items():
        assert volume.shape == grid
        np.testing.assert_array_equal(volume.any(axis=1), drawn[organ].coronal)
        np.testing.assert_array_equal(volume.any(axis=2), drawn[organ].sagittal)


def test_organs_in_3d_by_hand() -> None:
    """4 voxels in 2 along z: voxel 1 is in the first; 2 rows in 4: row 1 gives rows 2 and 3."""
    labels = np.zeros((4, 2, 2), np.uint16)
    labels[1, 1, 0] = 3
    organs = OrganLabels(labels, {"liver": frozenset({3})})
    drawn = draw_volumes(organs, Box.whole((4, 2, 2)), (2, 4, 2))["liver"]
    assert np.argwhere(drawn).tolist() == [[0, 2, 0], [0, 3, 0]]


@settings(max_examples=60, deadline=None)
@given(shape=sizes, grid=sizes, data=st.data())
def test_a_single_voxel_is_seen_on_every_grid(
    shape: Index, grid: Index, data: st.DataObject
) -> None:
    labels = np.zeros(shape, np.uint16)
    labels[tuple(data.draw(st.integers(0, n - 1)) for n in shape)] = 1
    organs = OrganLabels(labels, {"liver": frozenset({1})})
    drawn = draw_silhouettes(organs, Box.whole(shape), grid)["liver"]
    assert drawn.coronal.any()
    assert drawn.sagittal.any()


@settings(max_examples=40, deadline=None)
@given(grid=st.tuples(*[st.integers(1, 70)] * 3))
def test_a_silhouette_has_no_gap(grid: Index) -> None:
    """A ball of voxels: every row and column of its silhouette is one run."""
    z, y, x = np.ogrid[:24, :30, :36]
    ball = ((z - 11) / 9) ** 2 + ((y - 15) / 12) ** 2 + ((x - 17) / 14) ** 2 <= 1
    organs = OrganLabels(ball.astype(np.uint16), {"liver": frozenset({1})})
    for plane in draw_silhouettes(organs, Box.whole(ball.shape), grid)["liver"]:  # type: ignore[arg-type]
        for lines in (plane, plane.T):
            runs = np.abs(np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1)
            assert set(runs.tolist()) <= {0, 2}


def test_two_labels_of_one_organ_are_one_silhouette() -> None:
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[0, 0, 0], labels[3, 3, 3] = 2, 5
    organs = OrganLabels(labels, {"liver": frozenset({2, 5})})
    drawn = draw_silhouettes(organs, Box.whole((4, 4, 4)), (4, 4, 4))["liver"]
    assert np.argwhere(drawn.coronal).tolist() == [[0, 0], [3, 3]]


def test_what_a_mask_tells_of_an_organ() -> None:
    """With voxels: unless it is cut. Without: only if the mask would have marked it."""
    names = {1: "liver", 2: "spleen", 3: "kidney_left", 4: "bowel", 9: "label_9"}
    mask = PlacedMask(
        np.zeros((1, 1, 1), np.uint16),
        names,
        frozenset({LabelCut(2, 0, upper=True)}),
        frozenset({"liver", "spleen", "bowel", "pancreas"}),
    )
    known = find_known_organs(mask, {"liver", "spleen", "label_9", "kidney_left"})
    assert known == {
        "liver": {1},
        "kidney_left": {3},
        "bowel": {4},  # in the label set, without voxels: not in the scan
        "pancreas": set(),
    }


@dataclass(frozen=True)
class Ball:
    """An ellipsoid along the patient's axes, in LPS mm (z, y, x)."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]

    def holds(self, z: Floats, y: Floats, x: Floats) -> Bits:
        parts = [
            ((p - c) / r) ** 2 for p, c, r in zip((z, y, x), self.centre, self.radii, strict=True)
        ]
        return np.asarray(sum(parts) < 1)

    def depth_mm(self, z: Floats, other: Floats, axis: int) -> Floats:
        """How far inside the silhouette's ellipse (z and `axis`) a point is, about; < 0 outside."""
        scaled = np.hypot(
            (z - self.centre[0]) / self.radii[0], (other - self.centre[axis]) / self.radii[axis]
        )
        return np.asarray((1 - scaled) * min(self.radii[0], self.radii[axis]))


LIVER = Ball((-20.0, -6.0, -34.0), (44.0, 33.0, 36.0))
KIDNEY = Ball((-55.0, 22.0, 42.0), (30.0, 14.0, 17.0))
BODY = Ball((-30.0, 0.0, 0.0), (9000.0, 66.0, 96.0))


def positions(geometry: Geometry) -> Floats:
    """(3, slices, rows, columns): LPS (x, y, z) of every voxel, from origin, axes and spacing."""
    index = np.indices(geometry.shape)
    steps = [s * np.asarray(a) for s, a in zip(geometry.spacing_mm, geometry.axes, strict=True)]
    moved = sum(i * step[:, None, None, None] for i, step in zip(index, steps, strict=True))
    return np.asarray(np.asarray(geometry.origin_mm)[:, None, None, None] + moved)


def centred(shape: Index, spacing: tuple[float, ...], axes: npt.ArrayLike) -> Geometry:
    """A grid whose middle is at LPS (0, 0, -30)."""
    directions = np.asarray(axes, float)
    half = [(n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)]
    origin = np.array([0, 0, -30.0]) - sum(h * d for h, d in zip(half, directions, strict=True))
    return Geometry(shape, spacing, tuple(origin.tolist()), tuple(map(tuple, directions.tolist())))  # type: ignore[arg-type]


def turned(angle_deg: float) -> Floats:
    """Axes (slice, row, column) of a grid that is turned about x."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array([[0, -s, c], [0, c, s], [1, 0, 0]])


STRAIGHT = np.array([[0, 0, 1.0], [0, 1, 0], [1, 0, 0]])
TILTED = np.array([[0, 0, 1.0], turned(18.0)[1], [1, 0, 0]])
GEOMETRIES = {
    "straight": centred((60, 56, 72), (3.0, 3.0, 3.0), STRAIGHT),
    "thick": centred((30, 80, 100), (6.0, 2.1, 2.1), STRAIGHT),
    "flipped": centred((60, 56, 72), (3.0, 3.0, 3.0), -STRAIGHT),
    "permuted": centred((72, 60, 56), (3.0, 3.0, 3.0), [[-1, 0, 0], [0, 0, 1], [0, 1, 0]]),
    "oblique": centred((60, 70, 72), (3.0, 3.0, 3.0), turned(20.0)),
    "tilted": centred((60, 70, 72), (3.0, 3.0, 3.0), TILTED),
    "nearly": centred((60, 56, 72), (3.0, 3.0, 3.0), turned(3.0)),
}


def write_nifti(path: Path, voxels: npt.NDArray[np.generic], geometry: Geometry) -> None:
    """By hand in RAS, with the slice as the last index."""
    affine = np.eye(4)
    for column, axis in enumerate((2, 1, 0)):
        affine[:3, column] = np.asarray(geometry.axes[axis]) * geometry.spacing_mm[axis]
    affine[:3, 3] = geometry.origin_mm
    affine[:2] *= -1
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine), path)


def prepare(
    folder: Path,
    geometry: Geometry,
    on_mask: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] = lambda labels: labels,
    labels: MaskLabels = "ratic",
) -> PreparedSeries:
    """A body with two organs, scanned on `geometry`, and its mask of the whole scan."""
    x, y, z = positions(geometry)
    hu = np.where(BODY.holds(z, y, x), 40, -1000).astype(np.int16)
    hu += np.random.default_rng(0).integers(-5, 6, hu.shape, np.int16)
    organs = np.zeros(geometry.shape, np.uint8)
    organs[LIVER.holds(z, y, x)] = 1
    organs[KIDNEY.holds(z, y, x)] = 3
    write_nifti(folder / "ct.nii.gz", hu, geometry)
    write_nifti(folder / "mask.nii.gz", on_mask(organs), geometry)
    masks = (MaskFile("mask.nii.gz", "nifti", labels),)
    entry = SeriesEntry("nifti", "p", "s", "u", "", ("ct.nii.gz",), "", masks)
    return prepare_series(folder, entry, LOCALISE)


def maps_of(prepared: PreparedSeries, spec: StoreSpec) -> tuple[Box, dict[str, Silhouette]]:
    box = find_boxes(prepared, [spec])[spec]
    texts = draw_organ_maps(prepared, box, spec)
    return box, {organ: decode_silhouette(text, spec.grid) for organ, text in texts.items()}


def centres_mm(prepared: PreparedSeries, box: Box, grid: Index) -> list[Floats]:
    """LPS position of the centres of the pixels along z, y and x."""
    low, high = box.low_mm(prepared.canonical), box.high_mm(prepared.canonical)
    return [a + (np.arange(n) + 0.5) / n * (b - a) for a, b, n in zip(low, high, grid, strict=True)]


@pytest.mark.parametrize("grid", [(96, 64, 96), (12, 16, 16), (150, 33, 200)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_ellipsoids_cast_ellipses_however_they_are_scanned(
    tmp_path: Path, name: str, grid: Index
) -> None:
    """Beyond a voxel and a pixel from the edge of the true ellipse, no pixel is wrong."""
    prepared = prepare(tmp_path, GEOMETRIES[name])
    assert prepared.resampled == (name in ("oblique", "tilted"))
    spec = replace(LOCALISE, grid=grid)
    box, maps = maps_of(prepared, spec)
    # The mask tells of the five organs of RATIC; three of them are not in the scan.
    assert sorted(maps) == ["bowel", "kidney_left", "kidney_right", "liver", "spleen"]
    z, y, x = centres_mm(prepared, box, grid)
    size = np.subtract(box.high_mm(prepared.canonical), box.low_mm(prepared.canonical)) / grid
    spacing = np.asarray(prepared.canonical.spacing_mm)
    for organ, ball in (("liver", LIVER), ("kidney_left", KIDNEY)):
        for plane, other, axis in zip(maps[organ], (x, y), (2, 1), strict=True):
            depth = ball.depth_mm(z[:, None], other[None], axis)
            reach = math.hypot(*(size + spacing)[[0, axis]]) * (1.5 if name == "nearly" else 1.0)
            assert plane[depth > reach].all(), (organ, axis)
            assert not plane[depth < -reach].any(), (organ, axis)
            assert (depth > reach).any() or grid[0] < 20
    for organ in ("spleen", "kidney_right", "bowel"):
        assert not maps[organ].coronal.any()
        assert not maps[organ].sagittal.any()


def test_a_box_that_leaves_an_organ_out_has_an_empty_map(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, GEOMETRIES["straight"])
    above = replace(Box.whole(prepared.canonical.shape), start=(52, 0, 0))  # liver ends at slice 50
    texts = draw_organ_maps(prepared, above, LOCALISE)
    assert not any(np.any(plane) for plane in decode_silhouette(texts["liver"], LOCALISE.grid))
    half = replace(Box.whole(prepared.canonical.shape), stop=(60, 10, 72))  # in front of all organs
    texts = draw_organ_maps(prepared, half, LOCALISE)
    assert not decode_silhouette(texts["liver"], LOCALISE.grid).coronal.any()


def test_an_organ_that_flare_does_not_mark_is_unknown(tmp_path: Path) -> None:
    """Its masks are partial. Label 1 is the liver, and label 3 the spleen."""
    prepared = prepare(tmp_path, GEOMETRIES["straight"], labels="flare")
    assert sorted(maps_of(prepared, LOCALISE)[1]) == ["liver", "spleen"]


def test_numbers_without_names_have_no_maps(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, GEOMETRIES["straight"], labels="unknown")
    assert sorted(prepared.organs) == ["label_1", "label_3"]
    assert prepared.labels is None
    assert maps_of(prepared, LOCALISE)[1] == {}


def test_the_phantoms_organs_are_where_its_shapes_are(tmp_path: Path) -> None:
    """Its analytic shapes, at pixel centres and every 2 mm in depth; masks with flipped rows."""
    spec = CohortSpec(patients=1, unlabelled=0, matrix=96, slices=48, segmentation_fraction=1.0)
    plan = plan_patient(spec, 1)
    one = plan.series[0]
    write_patient(replace(plan, series=(one,)), tmp_path)
    folder = f"train_images/{plan.patient_id}/{one.series_id}"
    files = sorted(f"{folder}/{path.name}" for path in (tmp_path / folder).iterdir())
    masks = (MaskFile(f"segmentations/{one.series_id}.nii", "nifti", "ratic"),)
    entry = SeriesEntry("dicom", "p", "s", "u", "", tuple(files), "", masks)
    prepared = prepare_series(tmp_path, entry, LOCALISE)
    box, maps = maps_of(prepared, LOCALISE)
    z, y, x = centres_mm(prepared, box, LOCALISE.grid)
    scan = one.scan
    pixel_mm = max(scan.spacing_mm, scan.pixel_mm)
    for organ in ("liver", "spleen", "left_kidney", "right_kidney"):
        shape = plan.model.viscera.solid(organ)
        ours = maps["_".join(reversed(organ.split("_")))]
        depth = np.arange(-200.0, 200.0, 2.0)
        for plane, other, axis in ((ours.coronal, x, 2), (ours.sagittal, y, 1)):
            at = {2: (x, depth), 1: (depth, y)}[axis]
            distance = distances(plan.model.pose, shape, at[0], at[1], z)
            nearest = distance.min(axis=1 if axis == 2 else 2)
            assert nearest.shape == plane.shape == (len(z), len(other))
            assert plane[nearest < -1.5 * pixel_mm].all(), organ
            assert not plane[nearest > 1.5 * pixel_mm].any(), organ
            inside = nearest < 0
            assert inside.any()
            overlap = 2 * (plane & inside).sum() / (plane.sum() + inside.sum())
            assert overlap > 0.9, (organ, axis, overlap)


def distances(pose, shape, x: Floats, y: Floats, z: Floats) -> Floats:  # type: ignore[no-untyped-def]
    """(Z, Y, X): the distance of a shape at LPS positions, in mm of the scanner."""
    dx, dy, dz = pose.shift_mm
    c, s = math.cos(pose.turn_rad), math.sin(pose.turn_rad)
    yy, xx = np.meshgrid(y - dy, x - dx, indexing="ij")
    points = Points(
        ((c * xx + s * yy) / pose.scale[0]).astype(np.float32)[None],
        ((c * yy - s * xx) / pose.scale[1]).astype(np.float32)[None],
        ((z - dz) / pose.scale[2]).astype(np.float32)[:, None, None],
    )
    return np.asarray(np.broadcast_to(shape.distance(points), (len(z), len(y), len(x))))
