"""Scans of the phantom as archives spoil them: blank slices, a tilted gantry, clipped HU."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tests.support.abdomen_scans import TrueScan
from voco_data.preprocessing.reorient import labels_to_canonical_grid, to_canonical_grid
from voco_data.volumes.geometry import CANONICAL_AXES, Geometry
from voco_data.volumes.volume import AIR_HU, Volume

BLANKS = ("air", "noise", "padding", "zero", "half")
"""Kinds of blank slices: -1000 HU, noisy air, -2000 HU, 0 HU, and lower or upper rows of -1024."""
WINDOWS_HU = ((-160, 240), (-150, 250), (-200, 300), (-500, 1300))
"""Windows to which archives are clipped."""


def blank_plane(
    rng: np.random.Generator, plane: npt.NDArray[np.int16], kind: str
) -> npt.NDArray[np.int16]:
    """A blank slice in the place of `plane` (Y, X); if half-blank, half of `plane` stays."""
    if kind == "noise":
        return rng.normal(-1000, 20, plane.shape).clip(-1024).astype(np.int16)
    if kind == "half":
        half = plane.copy()
        rows = slice(len(plane) // 2) if rng.random() < 0.5 else slice(len(plane) // 2, None)
        half[rows] = -1024
        return half
    value = {"air": -1000, "padding": -2000, "zero": 0}[kind]
    return np.full_like(plane, value)


def with_blank_ends(scan: TrueScan, seed: int) -> TrueScan:
    """`scan` with one to four more slices at one or both ends, which are blank."""
    rng = np.random.default_rng([seed, len(scan.hu)])
    kind = str(rng.choice(BLANKS))
    below, above = int(rng.integers(0, 5)), int(rng.integers(1, 5))
    bottom = [blank_plane(rng, scan.hu[0], kind) for _ in range(below)]
    top = [blank_plane(rng, scan.hu[-1], kind) for _ in range(above)]
    return replace(
        scan,
        hu=np.stack([*bottom, *scan.hu, *top]),
        organs=np.pad(scan.organs, ((below, above), (0, 0), (0, 0))),
        low_mm=scan.low_mm - below * scan.spacing_mm[0],
        story=f"{scan.story}, {below} and {above} blank slices ({kind})",
    )


def tilted_geometry(scan: TrueScan, tilt_deg: float) -> Geometry:
    """The grid of a scan of the same planes with a gantry tilted about the x-axis.

    Rows climb toward posterior by the sine of the tilt. The middle row keeps its place.
    """
    dz, dy, dx = scan.spacing_mm
    cosine, sine = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
    middle = scan.hu.shape[1] // 2
    origin = (
        0.0,
        middle * dy * (1 - cosine),
        scan.low_mm + dz / 2 - middle * dy * sine,
    )
    axes = (CANONICAL_AXES[0], (0.0, cosine, sine), CANONICAL_AXES[2])
    return Geometry(scan.hu.shape, (dz, dy, dx), origin, axes)


def straight_geometry(scan: TrueScan) -> Geometry:
    """The grid of `scan`."""
    first = (0.0, 0.0, scan.low_mm + scan.spacing_mm[0] / 2)
    return Geometry(scan.hu.shape, scan.spacing_mm, first, CANONICAL_AXES)


def scanned_with_tilt(scan: TrueScan, tilt_deg: float) -> Volume:
    """What a tilted gantry sees of the patient of `scan`, on the tilted grid.

    Above and below `scan`, the patient goes on as in its last and its first slice.
    """
    geometry = tilted_geometry(scan, tilt_deg)
    to_straight = np.linalg.inv(straight_geometry(scan).index_to_mm) @ geometry.index_to_mm
    matrix, offset = to_straight[:3, :3], to_straight[:3, 3]
    hu = ndimage.affine_transform(scan.hu, matrix, offset, order=1, mode="nearest")
    return Volume(hu=hu, geometry=geometry, instance_numbers=(), transfer_syntax="nifti")


def with_tilt(scan: TrueScan, tilt_deg: float) -> TrueScan:
    """`scan` as a tilted gantry sees it, straightened, with wedges of padding."""
    straight = to_canonical_grid(scanned_with_tilt(scan, tilt_deg))
    grid = straight.geometry
    organs = labels_to_canonical_grid(scan.organs.astype(np.uint16), straight_geometry(scan), grid)
    organs[straight.hu == AIR_HU] = 0  # the wedges show no organ
    tissue = (straight.hu > -300).sum(axis=(1, 2))
    shown = np.flatnonzero(tissue > 0.05 * tissue.max())
    low, high = (grid.origin_mm[2] + int(end) * grid.spacing_mm[0] for end in shown[[0, -1]])
    bottom, top = scan.abdomen_mm
    first = scan.low_mm + scan.spacing_mm[0] / 2
    last = first + (len(scan.hu) - 1) * scan.spacing_mm[0]
    return replace(
        scan,
        hu=straight.hu,
        organs=organs.astype(np.uint8),
        spacing_mm=grid.spacing_mm,
        low_mm=grid.origin_mm[2] - grid.spacing_mm[0] / 2,
        # An end that the untilted scan does not show is that of the straightened patient.
        bottom_mm=bottom if bottom > first else low,
        top_mm=top if top < last else high,
        story=f"{scan.story}, tilted by {tilt_deg:.1f} degrees",
    )


def clipped(scan: TrueScan, seed: int) -> TrueScan:
    """`scan` with its HU clipped to a window, as it is exported for training."""
    low, high = WINDOWS_HU[seed % len(WINDOWS_HU)]
    return replace(
        scan, hu=np.clip(scan.hu, low, high), story=f"{scan.story}, clipped to {low}..{high} HU"
    )
