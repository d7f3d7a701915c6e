"""Render a patient on the planes of a scan: layers of shapes with soft edges, bottom to top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from voco_data.phantom.image_effects import reconstruct
from voco_data.phantom.patient.bowel import GAS_HU, WALL_MM, Loop
from voco_data.phantom.patient.model import PatientModel
from voco_data.phantom.patient.points import F32, Bounds, Points, grow
from voco_data.phantom.patient.pose import Phase, Pose, Scan
from voco_data.phantom.patient.shapes import (
    Capsule,
    ClippedShape,
    OffsetShape,
    Shape,
    inside_share,
)
from voco_data.phantom.patient.skeleton import (
    Canal,
    IliacWings,
    Ribs,
    SpineArches,
    SpineBodies,
    bone_hu,
    femora,
    hip_gaps,
    hip_sockets,
    sacrum,
    sternum,
)
from voco_data.phantom.patient.trunk import BelowDiaphragm, Cavity, Couch, Lungs, Wall
from voco_data.phantom.patient.viscera import ORGAN_LABELS, WATER_HU

AIR_HU, LOWEST_HU, HIGHEST_HU = -1000.0, -1024, 3071
"""Air, and the range of HU that an acquired scan is clipped to."""
FAT_HU = -100.0
Texture = Callable[[Points, F32], F32]
"""HU, broadcastable to the points, from the points and the distances to the shape's surface."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A shape with its HU."""

    shape: Shape
    hu: float | Texture
    label: int = 0
    """Label of the voxels that are at least half inside; 0 keeps the labels below."""
    finding: str = ""
    """The injury whose mask gets these voxels; empty for none."""
    level: bool = False
    """Whether the shape does not turn with the patient, as a couch."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A noise-free image with its truth; arrays (z, y, x), axes growing in LPS."""

    hu: F32
    organs: NDArray[np.uint8]
    """`ORGAN_LABELS`; an injury inside an organ keeps the organ's label."""
    findings: dict[str, NDArray[np.bool_]]
    """Masks of injuries: any of kidney, liver, spleen, bowel, extravasation."""
    streak_sources_mm: tuple[tuple[float, float], ...] = ()
    """(x, y) of metal and of the bones of arms, in the scanner's frame."""


def render_scan(patient: PatientModel, scan: Scan) -> Rendering:
    """The noise-free image of `patient` on `scan`."""
    poses = {False: patient.pose, True: replace(patient.pose, turn_rad=0.0)}
    points = {level: pose.points(scan) for level, pose in poses.items()}
    scale = float(np.mean(patient.pose.scale))
    width = scan.pixel_mm / scale
    hu = np.full(scan.shape, AIR_HU, np.float32)
    organs = np.zeros(scan.shape, np.uint8)
    findings: dict[str, NDArray[np.bool_]] = {}
    for layer in _layers(patient, scan.phase):
        block = _block(poses[layer.level], scan, grow(layer.shape.bounds(), width))
        if block is None:
            continue
        here = points[layer.level].crop(*block)
        distance = layer.shape.distance(here)
        share = inside_share(distance, width)
        value = layer.hu(here, distance) if callable(layer.hu) else np.float32(layer.hu)
        view = hu[block]
        view += share * (value - view)
        if layer.label:
            organs[block][share >= 0.5] = layer.label
        if layer.finding:
            mask = findings.setdefault(layer.finding, np.zeros(scan.shape, np.bool_))
            mask[block] |= share >= 0.5
    sources = [
        patient.pose.to_scanner((x, y, 0.0))[:2] for x, y in patient.surroundings.streak_sources_mm
    ]
    return Rendering(hu, organs, findings, tuple(sources))


def acquire(rendering: Rendering, scan: Scan) -> NDArray[np.int16]:
    """HU as a scanner measures them: with noise and offset, rounded, in LOWEST_HU..HIGHEST_HU.

    The noise is white, then blurred in the plane with (1, 2, 1), and scaled to `scan.noise_hu`. For
    the image of a scan with a `scanner`, see `image_effects.reconstruct`.
    """
    if scan.scanner is not None:
        measured = reconstruct(rendering.hu, scan, rendering.streak_sources_mm)
        measured += np.float32(scan.offset_hu)
        np.rint(measured, out=measured)
        return np.clip(measured, LOWEST_HU, HIGHEST_HU).astype(np.int16)
    rng = np.random.default_rng(scan.noise_seed)
    noise = rng.standard_normal(scan.shape, dtype=np.float32)
    for axis in (1, 2):
        noise = noise * 2 + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    # A blur (1, 2, 1) has a gain of sqrt(6) in standard deviation; there are two.
    noise *= np.float32(scan.noise_hu / 6)
    noise += rendering.hu
    noise += np.float32(scan.offset_hu)
    np.rint(noise, out=noise)
    return np.clip(noise, LOWEST_HU, HIGHEST_HU).astype(np.int16)


def _block(pose: Pose, scan: Scan, bounds: Bounds) -> tuple[slice, slice, slice] | None:
    """Index ranges (z, y, x) of the voxels inside a box of the standard body."""
    low, high = pose.box_to_scanner(bounds)
    first = (scan.corner_mm[0], scan.corner_mm[1], scan.first_z_mm)
    steps = (scan.pixel_mm, scan.pixel_mm, scan.spacing_mm)
    sizes = (scan.columns, scan.rows, scan.slices)
    ranges = []
    for a, b, start, step, size in zip(low, high, first, steps, sizes, strict=True):
        begin = max(0, int(np.ceil((a - start) / step)))
        end = min(size, int(np.floor((b - start) / step)) + 1)
        if begin >= end:
            return None
        ranges.append(slice(begin, end))
    x, y, z = ranges
    return z, y, x


def _layers(patient: PatientModel, phase: Phase) -> Iterator[Layer]:
    """All layers, the lowest first."""
    around = patient.surroundings
    for thing in around.outside:
        yield Layer(thing.shape, thing.hu)
    yield from _trunk(patient, phase)
    yield from _chest(patient, phase)
    yield from _bones(phase)
    for thing in around.inside:
        yield Layer(thing.shape, thing.hu)
    for injury in patient.injuries:
        if injury.pool is not None:
            yield Layer(injury.pool, injury.hu + 6)
    yield from _gut(patient, phase)
    yield from _solid_organs(patient, phase)
    if patient.bleed is not None:
        glow = max(phase.aorta, 150.0) + patient.bleed.extra_hu
        yield Layer(patient.bleed.blobs, glow, finding="extravasation")


def _trunk(patient: PatientModel, phase: Phase) -> Iterator[Layer]:
    trunk = patient.trunk
    diaphragm = BelowDiaphragm(trunk)

    def inner_fat(p: Points, _distance: F32) -> F32:
        sheet = np.clip(2 - np.abs(diaphragm.distance(p) + 1), 0, 1)
        hu: F32 = np.float32(FAT_HU) + sheet * np.float32(phase.muscle - FAT_HU)
        return hu

    if patient.surroundings.couch is None:
        yield Layer(Couch(trunk), -120.0)
    for thing in patient.surroundings.couch or ():
        yield Layer(thing.shape, thing.hu, level=True)
    yield Layer(Wall(trunk, 0, fat=1), -15.0)
    yield Layer(Wall(trunk, -2, fat=1), FAT_HU - 5)
    yield Layer(Wall(trunk), phase.muscle)
    yield Layer(Cavity(), inner_fat)


def _chest(patient: PatientModel, phase: Phase) -> Iterator[Layer]:
    def lung(p: Points, _distance: F32) -> F32:
        hu: F32 = np.float32(-860) + np.float32(0.6) * p.y
        return hu

    viscera = patient.viscera
    yield Layer(Lungs(patient.trunk), lung)
    yield Layer(viscera.heart, phase.heart)
    for side in (-1, 1):
        upper, lower = (side * 36.0, 34.0, 72.0), (side * 50.0, 8.0, -66.0)
        yield Layer(Capsule(upper, lower, 11, 19), phase.muscle + 5)
        yield Layer(Capsule(lower, (side * 84.0, -22.0, -130.0), 17, 12), phase.muscle + 5)


def _bones(phase: Phase) -> Iterator[Layer]:
    yield Layer(Ribs(), bone_hu)
    yield Layer(sternum(), bone_hu)
    yield Layer(IliacWings(), bone_hu)
    yield Layer(hip_sockets(), bone_hu)
    yield Layer(hip_gaps(), phase.muscle - 20)
    yield Layer(femora(), bone_hu)
    yield Layer(sacrum(), bone_hu)
    yield Layer(SpineArches(), bone_hu)
    yield Layer(SpineBodies(), SpineBodies.hu)
    yield Layer(Canal(), 25.0)


def _gut(patient: PatientModel, phase: Phase) -> Iterator[Layer]:
    viscera, injury = patient.viscera, patient.bowel_injury
    yield Layer(viscera.aorta, phase.aorta)
    yield Layer(viscera.vein, phase.vein)
    yield Layer(viscera.bladder, WATER_HU)
    yield Layer(viscera.pancreas, phase.bowel_wall + 10)
    for number, loop in enumerate(patient.small_bowel):
        if injury is None or number not in injury.thick:
            yield from _loop(loop, phase.bowel_wall)
    for loop in patient.colon:
        yield from _loop(loop, phase.bowel_wall - 15)
    yield Layer(viscera.stomach, phase.bowel_wall)
    yield Layer(OffsetShape(viscera.stomach, -4.0), _stomach_hu(patient))
    if injury is not None:
        for number in injury.thick:
            loop = patient.small_bowel[number]
            swollen = OffsetShape(loop.outer, injury.thickening_mm)
            yield Layer(swollen, phase.bowel_wall - 25, ORGAN_LABELS["bowel"], finding="bowel")
            yield Layer(OffsetShape(loop.outer, -WALL_MM), loop.lumen_hu)
        yield Layer(injury.gas, GAS_HU, finding="bowel")


def _loop(loop: Loop, wall_hu: float) -> Iterator[Layer]:
    yield Layer(loop.outer, wall_hu, ORGAN_LABELS["bowel"])
    yield Layer(OffsetShape(loop.outer, -WALL_MM), loop.lumen_hu)


def _stomach_hu(patient: PatientModel) -> Texture:
    stomach, oral = patient.viscera.stomach, patient.surroundings.oral_contrast_hu
    content = np.float32(25 if oral is None else oral)
    level = np.float32(stomach.centre[1] - 0.35 * stomach.radii[1])

    def hu(p: Points, _distance: F32) -> F32:
        gas: F32 = np.clip((level - p.y) * np.float32(1 / 3) + np.float32(0.5), 0, 1)
        value: F32 = content + gas * (np.float32(GAS_HU) - content)
        return value

    return hu


def _solid_organs(patient: PatientModel, phase: Phase) -> Iterator[Layer]:
    viscera = patient.viscera
    kidney, liver, spleen = patient.parenchyma_hu
    yield Layer(viscera.gallbladder, WATER_HU + 2)
    yield Layer(viscera.liver, phase.liver + liver, ORGAN_LABELS["liver"])
    yield Layer(
        ClippedShape(viscera.liver_vessels, within=(viscera.liver,)), phase.liver_vessel + liver
    )
    yield Layer(viscera.spleen, phase.spleen + spleen, ORGAN_LABELS["spleen"])
    texture = viscera.kidney_hu(phase)

    def kidney_hu(p: Points, distance: F32) -> F32:
        return texture(p, distance) + np.float32(kidney)

    yield Layer(viscera.left_kidney, kidney_hu, ORGAN_LABELS["left_kidney"])
    yield Layer(viscera.right_kidney, kidney_hu, ORGAN_LABELS["right_kidney"])
    for injury in patient.injuries:
        yield Layer(injury.lesion, injury.hu, finding=injury.organ)
