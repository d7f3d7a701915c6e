"""Phantom scans of many ranges, sizes and poses, with the truth of the abdomen's ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from voco_data.cropping.abdomen import find_box
from voco_data.phantom.patient.model import PatientModel, abdomen_range_mm, scanned_abdomen_mm
from voco_data.phantom.patient.points import F32
from voco_data.phantom.patient.pose import Scan
from voco_data.phantom.patient.shapes import Capsule, inside_share
from voco_data.phantom.patient.skeleton import ISCHIUM_BOTTOM_MM
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.render import LOWEST_HU, acquire, render_scan
from voco_data.volumes.geometry import Triple

LEAST_ABDOMEN_MM = 120.0
"""A varied scan shows at least this much of the abdomen of a body of scale 1."""
DOME_MM = 200.0
"""About the height of the top of the liver, in the standard body."""
MOST_VOXELS = 1_600_000
"""Thin slices and a wide matrix do not come together: rendering is what takes time."""
LEAST_MATRIX = 96
_Voxel = TypeVar("_Voxel", np.int16, np.uint8)


@dataclass(frozen=True)
class TrueScan:
    """What the detector sees, and what it is measured against."""

    hu: npt.NDArray[np.int16]
    organs: npt.NDArray[np.uint8]
    spacing_mm: Triple
    low_mm: float
    """Where the voxels of slice 0 begin; the truths are on the same scale."""
    bottom_mm: float
    top_mm: float
    abdomen_mm: tuple[float, float]
    """Both ends of the abdomen, whatever is scanned."""
    story: str
    """What was drawn, for whoever reads a failure."""


def planned_scan(seed: int, number: int, *, matrix: int = 96, slices: int = 56) -> TrueScan:
    """A scan as the cohort's own protocols make it."""
    plan = plan_patient(CohortSpec(seed=seed, matrix=matrix, slices=slices), number)
    scan = plan.series[0].scan
    rendering = render_scan(plan.model, scan)
    hu = acquire(rendering, scan)
    return _with_truth(plan.model, scan, hu, rendering.organs, f"planned {seed}/{number}")


def ranged_scan(
    number: int, low: float, high: float, *, spacing_mm: float, matrix: int = 128
) -> TrueScan:
    """A scan of a patient from `low` to `high`, mm in the standard body."""
    plan = plan_patient(CohortSpec(seed=7), number)
    model, scan = plan.model, plan.series[0].scan
    half = 1.2 * (model.trunk.half_width_mm + 10) * model.pose.scale[0]
    _, dy, dz = model.pose.shift_mm
    scale = model.pose.scale[2]
    scan = replace(
        scan,
        first_z_mm=low * scale + dz,
        spacing_mm=spacing_mm,
        slices=int((high - low) * scale / spacing_mm) + 1,
        pixel_mm=2 * half / matrix,
        rows=matrix,
        columns=matrix,
        corner_mm=(-half, -half + dy),
    )
    rendering = render_scan(model, scan)
    story = f"ranged {number}: z {low:.0f}..{high:.0f}"
    return _with_truth(model, scan, acquire(rendering, scan), rendering.organs, story)


def varied_scan(seed: int, number: int) -> TrueScan:
    """A scan of any range, slice thickness, matrix, body size and noise; arms and tilt at times."""
    rng = np.random.default_rng([seed, number])
    plan = plan_patient(CohortSpec(seed=seed), number)
    model = _resized(rng, plan.model)
    low, high = _range(rng)
    arms = str(rng.choice(["none", "both", "left"], p=[0.6, 0.25, 0.15]))
    scan = _replanned(rng, model, plan.series[0].scan, (low, high), wide=arms != "none")
    rendering = render_scan(model, scan)
    for side in {"none": (), "both": (-1, 1), "left": (1,)}[arms]:
        _paint_arm(rendering.hu, model, scan, side, gap_mm=float(rng.uniform(-8, 25)))
    slope = float(rng.choice([0.0, rng.uniform(-0.12, 0.12)]))
    hu = _sheared(acquire(rendering, scan), scan, slope, LOWEST_HU)
    organs = _sheared(rendering.organs, scan, slope, 0)
    story = (
        f"varied {seed}/{number}: z {low:.0f}..{high:.0f}, {scan.spacing_mm:.1f} mm, "
        f"{scan.rows} px, scale {model.pose.scale[0]:.2f}, fat {model.trunk.fat_mm:.0f} mm, "
        f"noise {scan.noise_hu:.0f} HU, arms {arms}, slope {slope:.2f}"
    )
    return _with_truth(model, scan, hu, organs, story)


def _resized(rng: np.random.Generator, model: PatientModel) -> PatientModel:
    """The patient as a child or larger, leaner or fatter, and turned."""
    size = rng.choice([1.0, rng.uniform(0.6, 0.9), rng.uniform(1.0, 1.2)], p=[0.6, 0.2, 0.2])
    x, y, z = (float(size) * s for s in model.pose.scale)
    fat = float(rng.choice([model.trunk.fat_mm, rng.uniform(4, 10), rng.uniform(36, 60)]))
    pose = replace(model.pose, scale=(x, y, z), turn_rad=float(rng.normal(0, 0.08)))
    return replace(model, pose=pose, trunk=replace(model.trunk, fat_mm=fat))


def _range(rng: np.random.Generator) -> tuple[float, float]:
    """Ends of the scan in the standard body, mm: thighs to pelvis, and pelvis to upper chest."""
    while True:
        low, high = float(rng.uniform(-380, 60)), float(rng.uniform(-60, 425))
        if min(high, DOME_MM) - max(low, ISCHIUM_BOTTOM_MM) >= LEAST_ABDOMEN_MM:
            return low, high


def _replanned(
    rng: np.random.Generator,
    model: PatientModel,
    scan: Scan,
    ends: tuple[float, float],
    *,
    wide: bool,
) -> Scan:
    """`scan` with other planes, pixels and noise."""
    (low, high), (x, _, z) = ends, model.pose.scale
    half = (1.5 if wide else 1.2) * (model.trunk.half_width_mm + 10) * x
    spacing = float(np.exp(rng.uniform(np.log(0.8), np.log(8.0))))
    count = int((high - low) * z / spacing) + 1
    most = int(np.sqrt(MOST_VOXELS / count))
    matrix = max(LEAST_MATRIX, min(int(rng.choice([96, 128, 192, 256, 512])), most))
    _, dy, dz = model.pose.shift_mm
    return replace(
        scan,
        first_z_mm=low * z + dz,
        spacing_mm=spacing,
        slices=count,
        pixel_mm=2 * half / matrix,
        rows=matrix,
        columns=matrix,
        corner_mm=(-half + rng.uniform(-15, 15), -half + dy + rng.uniform(-10, 25)),
        noise_hu=float(rng.uniform(8, 45)),
    )


def _paint_arm(hu: F32, model: PatientModel, scan: Scan, side: int, *, gap_mm: float) -> None:
    """An arm beside the trunk, from the shoulder to a hand beside the thigh."""
    away = side * (model.trunk.half_width_mm + 30 + gap_mm)
    points = model.pose.points(scan)
    for lowest, radius, end_radius, value in (
        (-215.0, 44.0, 24.0, 50.0),
        (-150.0, 11.0, 9.0, 400.0),
        (-205.0, 4.0, 4.0, 300.0),
    ):
        limb = Capsule((away, 30, 330), (away, -5, lowest), radius, end_radius)
        share = inside_share(limb.distance(points), scan.pixel_mm)
        hu += share * (np.float32(value) - hu)


def _sheared(
    voxels: npt.NDArray[_Voxel], scan: Scan, slope: float, outside: float
) -> npt.NDArray[_Voxel]:
    """Each slice moved sideways by `slope` times its height: a body that lies askew."""
    moved = np.full_like(voxels, outside)
    for index, plane in enumerate(voxels):
        shift = round(slope * (index - scan.slices / 2) * scan.spacing_mm / scan.pixel_mm)
        to, of = slice(max(shift, 0), None), slice(max(-shift, 0), None)
        width = scan.columns - abs(shift)
        moved[index][:, to][:, :width] = plane[:, of][:, :width]
    return moved


def _with_truth(
    model: PatientModel,
    scan: Scan,
    hu: npt.NDArray[np.int16],
    organs: npt.NDArray[np.uint8],
    story: str,
) -> TrueScan:
    bottom, top = scanned_abdomen_mm(model, scan)
    abdomen_mm = abdomen_range_mm(model)
    return TrueScan(
        hu=hu,
        organs=organs,
        spacing_mm=(scan.spacing_mm, scan.pixel_mm, scan.pixel_mm),
        low_mm=scan.first_z_mm - scan.spacing_mm / 2,
        bottom_mm=bottom,
        top_mm=top,
        abdomen_mm=abdomen_mm,
        story=story,
    )


@dataclass(frozen=True)
class Error:
    """A found box against the truth of one scan. Positive is too high, in mm."""

    top_mm: float
    bottom_mm: float
    cut: int
    """Organ voxels outside the box, along any axis."""
    confidence: float
    slice_mm: float
    story: str


def measure(scan: TrueScan) -> Error:
    """Find the box, without a margin, and compare."""
    box = find_box(scan.hu, scan.spacing_mm, crop="abdomen", margin_mm=(0.0, 0.0, 0.0))
    low, high = (scan.low_mm + end * scan.spacing_mm[0] for end in (box.start[0], box.stop[0]))
    kept = scan.organs[tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))]
    return Error(
        top_mm=high - scan.top_mm,
        bottom_mm=low - scan.bottom_mm,
        cut=int(np.count_nonzero(scan.organs) - np.count_nonzero(kept)),
        confidence=box.confidence,
        slice_mm=scan.spacing_mm[0],
        story=scan.story,
    )


@dataclass(frozen=True)
class Summary:
    """Figures over many scans: absolute errors in mm, by end."""

    median: dict[str, float]
    p95: dict[str, float]
    largest: dict[str, float]
    scans: int
    cut: int
    """Scans with an organ voxel cut."""
    fallbacks: int
    """Boxes with a confidence below 0.5."""

    def row(self, name: str) -> str:
        """A row of the table in `docs/abdomen.md`."""
        ends = (
            f"{self.median[end]:.1f} / {self.p95[end]:.1f} / {self.largest[end]:.1f}"
            for end in ("top", "bottom")
        )
        return f"| {name} | {self.scans} | {' | '.join(ends)} | {self.cut} | {self.fallbacks} |"


def summarise(errors: Sequence[Error]) -> Summary:
    """Medians, 95th percentiles and largest errors of each end and of both pooled."""
    top = np.abs([error.top_mm for error in errors])
    bottom = np.abs([error.bottom_mm for error in errors])
    ends = {"top": top, "bottom": bottom, "pooled": np.concatenate([top, bottom])}
    return Summary(
        median={end: float(np.median(values)) for end, values in ends.items()},
        p95={end: float(np.percentile(values, 95)) for end, values in ends.items()},
        largest={end: float(values.max()) for end, values in ends.items()},
        scans=len(errors),
        cut=sum(error.cut > 0 for error in errors),
        fallbacks=sum(error.confidence < 0.5 for error in errors),
    )
