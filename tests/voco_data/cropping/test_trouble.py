"""Padding, clipped HU, wrong orientations and scans without an abdomen: boxes and confidence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from tests.support.abdomen_figure import DOME, SPACING_MM, patient
from tests.support.abdomen_scans import TrueScan, measure, ranged_scan, summarise
from tests.support.abdomen_trouble import BLANKS, blank_plane, clipped, with_blank_ends, with_tilt
from voco_data.cropping.abdomen import ORIENTATION_DOUBTED, find_box
from voco_data.volumes import Box, Triple

NONE = (0.0, 0.0, 0.0)
FULL = (-330.0, 380.0)
"""Thighs to chest, in the standard body, mm."""


def box_of(hu: npt.NDArray[np.int16], spacing_mm: Triple) -> Box:
    return find_box(np.ascontiguousarray(hu), spacing_mm, crop="abdomen", margin_mm=NONE)


@pytest.fixture(scope="module")
def full() -> TrueScan:
    return ranged_scan(3, *FULL, spacing_mm=3.0)


@pytest.mark.parametrize("kind", BLANKS)
@pytest.mark.parametrize("above", [1, 2, 3])
@pytest.mark.parametrize("below", [0, 1])
def test_blank_slices_at_the_ends_change_nothing(
    full: TrueScan, kind: str, above: int, below: int
) -> None:
    plain = box_of(full.hu, full.spacing_mm)
    assert plain.confidence == 0.95
    rng = np.random.default_rng(above)
    top = [blank_plane(rng, full.hu[-1], kind) for _ in range(above)]
    bottom = [blank_plane(rng, full.hu[0], kind) for _ in range(below)]
    box = box_of(np.stack([*bottom, *full.hu, *top]), full.spacing_mm)
    assert box.confidence == 0.95
    assert abs(box.start[0] - below - plain.start[0]) <= 1
    assert abs(box.stop[0] - below - plain.stop[0]) <= 1
    assert (box.start[1:], box.stop[1:]) == (plain.start[1:], plain.stop[1:])


@pytest.mark.parametrize("spacing_mm", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("above", [1, 2, 3, 4])
def test_the_sampling_of_slices_does_not_matter(spacing_mm: float, above: int) -> None:
    scan = ranged_scan(4, -330, 350, spacing_mm=spacing_mm)
    plain = box_of(scan.hu, scan.spacing_mm)
    blank = np.full((above, *scan.hu.shape[1:]), -1024, np.int16)
    box = box_of(np.concatenate([scan.hu, blank]), scan.spacing_mm)
    assert (box.start, box.stop, box.confidence) == (plain.start, plain.stop, plain.confidence)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.85])
def test_a_blank_slice_between_others_changes_little(full: TrueScan, at: float) -> None:
    hu = full.hu.copy()
    hu[int(at * len(hu))] = -1024
    plain, box = box_of(full.hu, full.spacing_mm), box_of(hu, full.spacing_mm)
    assert box.confidence == plain.confidence
    assert np.abs(np.subtract(box.start, plain.start)).max() <= 2
    assert np.abs(np.subtract(box.stop, plain.stop)).max() <= 2


@pytest.mark.parametrize("tilt_deg", [-18.0, -6.0, -1.2, 1.2, 3.0, 10.0, 18.0])
def test_the_wedges_of_a_straightened_tilt_do_not_hide_the_dome(
    full: TrueScan, tilt_deg: float
) -> None:
    error = measure(with_tilt(full, tilt_deg))
    assert error.confidence == 0.95
    assert max(abs(error.top_mm), abs(error.bottom_mm)) < 15
    assert error.cut == 0


@pytest.mark.parametrize("window", range(4))
def test_clipped_hu_give_the_same_box(full: TrueScan, window: int) -> None:
    plain, box = (box_of(scan.hu, scan.spacing_mm) for scan in (full, clipped(full, window)))
    assert 0.5 <= box.confidence < plain.confidence
    assert np.abs(np.subtract(box.start, plain.start)).max() <= 4
    assert np.abs(np.subtract(box.stop, plain.stop)).max() <= 4


@pytest.mark.parametrize("window_hu", [(-160, 240), (-200, 300)])
@pytest.mark.parametrize("change", ["noise of 3 HU", "splines"])
def test_clipped_hu_that_were_changed_after_clipping_give_the_same_box(
    full: TrueScan, window_hu: tuple[int, int], change: str
) -> None:
    """Lossy compression and resampling leave more than one value where air was clipped."""
    plain = box_of(full.hu, full.spacing_mm)
    hu, spacing_mm = np.clip(full.hu, *window_hu), full.spacing_mm
    if change == "splines":
        zoomed = ndimage.zoom(hu.astype(np.float32), (1, 0.9, 0.9), order=3)
        hu = np.rint(zoomed).astype(np.int16)
        spacing_mm = (spacing_mm[0], spacing_mm[1] / 0.9, spacing_mm[2] / 0.9)
    else:
        hu = hu + np.random.default_rng(0).integers(-3, 4, hu.shape, np.int16)
    box = box_of(hu, spacing_mm)
    assert 0.5 <= box.confidence < plain.confidence
    assert abs(box.start[0] - plain.start[0]) * spacing_mm[0] <= 50
    assert abs(box.stop[0] - plain.stop[0]) * spacing_mm[0] <= 20


@pytest.mark.parametrize("blank", [0, 1, 2, 3])
def test_a_chest_upside_down_with_blank_ends_keeps_the_whole_scan(blank: int) -> None:
    """Lungs to the lower end of the scan, and 100 mm of trunk above: no dome is one."""
    scan = ranged_scan(2, 60.0, 330.0, spacing_mm=2.5)
    hu = np.pad(scan.hu[::-1], ((blank, blank), (0, 0), (0, 0)), constant_values=-1024)
    assert box_of(scan.hu, scan.spacing_mm).confidence >= 0.5
    assert box_of(hu, scan.spacing_mm).confidence < 0.5


@pytest.mark.parametrize("low_hu", [-135, -100, -60])
def test_where_fat_has_the_hu_of_air_the_scan_is_kept_whole(full: TrueScan, low_hu: int) -> None:
    box = box_of(np.clip(full.hu, low_hu, 250), full.spacing_mm)
    assert (box.start[0], box.stop[0]) == (0, len(full.hu))
    assert box.confidence < 0.5


FLIPS = {
    "upside down": lambda hu: hu[::-1],
    "back to front": lambda hu: hu[:, ::-1],
    "mirrored": lambda hu: hu[:, :, ::-1],
}


@pytest.mark.parametrize("name", FLIPS)
@pytest.mark.parametrize("number", range(4))
def test_a_wrong_orientation_is_flagged(name: str, number: int) -> None:
    scan = ranged_scan(number, *FULL, spacing_mm=5.0)
    right = box_of(scan.hu, scan.spacing_mm)
    assert (right.doubts, right.confidence) == ((), 0.95)
    box = box_of(FLIPS[name](scan.hu), scan.spacing_mm)
    assert box.doubts == (ORIENTATION_DOUBTED,)
    assert box.confidence < 0.5
    assert (box.start[0], box.stop[0]) == (0, len(scan.hu))


def test_a_prone_patient_with_right_headers_is_not_flagged(full: TrueScan) -> None:
    """Canonical axes turn with the header, so only the couch is in front."""
    hu = full.hu.copy()
    hu[:, :3] = 100
    box = box_of(hu, full.spacing_mm)
    assert box.doubts == ()
    assert box.confidence == 0.95


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    ("low", "high"), [(240, 340), (260, 380), (330, 430), (-420, -240), (225, 330)]
)
def test_a_chest_or_thighs_alone_are_no_abdomen(number: int, low: float, high: float) -> None:
    scan = ranged_scan(number, low, high, spacing_mm=5.0)
    for hu in (scan.hu, scan.hu[:, :, : scan.hu.shape[2] // 2]):
        assert box_of(hu, scan.spacing_mm).confidence < 0.5


def noisy(hu: npt.NDArray[np.int64], seed: int = 0) -> npt.NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 15, hu.shape)
    return np.asarray(np.clip(hu + noise, -1024, 3071), np.int16)


@pytest.mark.parametrize(("width", "depth"), [(150, 190), (170, 210), (180, 200)])
@pytest.mark.parametrize("skull", [5, 8])
def test_a_head_is_no_abdomen(width: float, depth: float, skull: float) -> None:
    z, y, x = np.ogrid[-18.0:18.0, -64.0:64.0, -64.0:64.0]

    def within(inset: float) -> npt.NDArray[np.bool_]:
        radii = (width / 2 - inset, depth / 2 - inset, 130 - inset)
        return (2 * x / radii[0]) ** 2 + (2 * y / radii[1]) ** 2 + (5 * z / radii[2]) ** 2 < 1

    hu = np.select([within(5 + skull), within(5), within(0)], [35, 900, -20], -1000)
    assert box_of(noisy(hu), (5.0, 2.0, 2.0)).confidence < 0.5


@pytest.mark.parametrize("radius", [80, 95, 110])
def test_one_thigh_is_no_abdomen(radius: float) -> None:
    _, y, x = np.ogrid[:40, -64.0:64.0, -64.0:64.0]
    from_middle, from_femur = np.hypot(2 * x, 2 * y), np.hypot(2 * x - 5, 2 * y - 6)
    leg = np.select([from_middle < radius - 15, from_middle < radius], [55, -100], -1000)
    hu = np.select([from_femur < 8, from_femur < 16], [-60, 1100], leg)
    assert box_of(noisy(np.repeat(hu, 40, axis=0)), (5.0, 2.0, 2.0)).confidence < 0.5


@pytest.mark.parametrize("width", [420, 460])
def test_shoulders_are_no_abdomen(width: float) -> None:
    _, y, x = np.ogrid[:40, -64.0:64.0, -64.0:64.0]

    def within(
        half_width: float, half_depth: float, x_mm: float = 0, y_mm: float = 0
    ) -> npt.NDArray[np.bool_]:
        return ((4 * x - x_mm) / half_width) ** 2 + ((3 * y - y_mm) / half_depth) ** 2 < 1

    humeri = within(24, 24, width / 2 - 45) | within(24, 24, 45 - width / 2)
    spine, trachea = within(22, 20, 0, 35), within(9, 8, 0, 5)
    hu = np.select(
        [trachea, humeri, spine, within(width / 2 - 20, 80), within(width / 2, 95)],
        [-980, 600, 500, 50, -90],
        -1000,
    )
    assert box_of(noisy(np.repeat(hu, 40, axis=0)), (5.0, 3.0, 4.0)).confidence < 0.5


HALVES = {
    "right": lambda hu: hu[:, :, : hu.shape[2] // 2],
    "left": lambda hu: hu[:, :, hu.shape[2] // 2 :],
    "front": lambda hu: hu[:, : hu.shape[1] // 2],
    "back": lambda hu: hu[:, hu.shape[1] // 2 :],
    "left, padded": lambda hu: np.where(np.arange(hu.shape[2]) < hu.shape[2] // 2, -1024, hu),
}


@pytest.mark.parametrize("name", HALVES)
def test_half_a_body_is_no_abdomen(full: TrueScan, name: str) -> None:
    half = HALVES[name](full.hu).astype(np.int16)
    box = box_of(half, full.spacing_mm)
    assert box.confidence < 0.5
    assert (box.start[0], box.stop[0]) == (0, len(full.hu))


@pytest.mark.parametrize("share", [0.5, 0.75])
@pytest.mark.parametrize("above", [1, 2, 4, 8])
def test_slices_that_are_air_in_part_change_nothing(
    full: TrueScan, share: float, above: int
) -> None:
    """Noisy air in one half, or more, of the uppermost slices."""
    hu = full.hu.copy()
    part = hu[-above:, :, : round(share * hu.shape[2])]
    part[:] = np.random.default_rng(above).normal(-1000, 20, part.shape)
    plain, box = box_of(full.hu, full.spacing_mm), box_of(hu, full.spacing_mm)
    assert box.confidence == plain.confidence == 0.95
    assert abs(box.start[0] - plain.start[0]) <= 1
    assert abs(box.stop[0] - plain.stop[0]) <= 1


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("low", "high"), [(-120, 120), (-60, 90), (20, 170)])
def test_an_abdomen_that_shows_neither_end_is_known(number: int, low: float, high: float) -> None:
    scan = ranged_scan(number, low, high, spacing_mm=5.0)
    box = box_of(scan.hu, scan.spacing_mm)
    assert (box.start[0], box.stop[0]) == (0, len(scan.hu))
    assert 0.5 <= box.confidence < 0.7


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("number", range(3))
def test_fluid_over_one_dome_lowers_the_confidence(side: str, number: int) -> None:
    """The lung of one side ends 48 mm above its dome; water fills the space."""
    scan = ranged_scan(number, *FULL, spacing_mm=5.0)
    plain = box_of(scan.hu, scan.spacing_mm)
    hu = scan.hu.copy()
    half = slice(None, hu.shape[2] // 2) if side == "right" else slice(hu.shape[2] // 2, None)
    part = hu[: plain.stop[0] + round(48 / 5), :, half]
    inner = part[:, hu.shape[1] // 8 : -hu.shape[1] // 8]
    inner[(inner < -500) & (inner > -950)] = 10
    box = box_of(hu, scan.spacing_mm)
    assert plain.confidence == 0.95
    assert box.confidence < 0.8
    assert box.stop[0] >= plain.stop[0]


@pytest.mark.parametrize("sides", ["right", "left", "both"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_fluid_at_the_back_lowers_the_confidence(sides: str, number: int) -> None:
    """Fluid lies behind a level in the lungs, up to 90 mm above the domes, of a supine patient."""
    scan = ranged_scan(number, *FULL, spacing_mm=5.0)
    plain = box_of(scan.hu, scan.spacing_mm)
    hu = scan.hu.copy()
    width, depth = hu.shape[2], hu.shape[1]
    part = hu[: plain.stop[0] + round(90 / 5)]
    lung = (part < -500) & (part > -950)
    lung[:, : depth // 8] = lung[:, -depth // 8 :] = False
    rows = np.flatnonzero(lung[plain.stop[0] :].any(axis=(0, 2)))
    lung[:, : round(0.4 * rows[0] + 0.6 * rows[-1])] = False
    if sides == "right":
        lung[:, :, width // 2 :] = False
    elif sides == "left":
        lung[:, :, : width // 2] = False
    part[lung] = 10
    box = box_of(hu, scan.spacing_mm)
    assert plain.confidence == 0.95
    assert box.confidence < 0.8
    assert not box.doubts


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_a_mirrored_scan_without_a_chest_is_told_by_its_liver(number: int) -> None:
    scan = ranged_scan(number, -60.0, 170.0, spacing_mm=4.0)
    plain = box_of(scan.hu, scan.spacing_mm)
    mirrored = box_of(scan.hu[:, :, ::-1], scan.spacing_mm)
    assert plain.doubts == ()
    assert plain.confidence >= 0.5
    assert mirrored.doubts == (ORIENTATION_DOUBTED,)
    assert mirrored.confidence < 0.5


def test_hips_are_no_liver() -> None:
    """Scans below the liver: neither they nor their mirror images are doubted."""
    for number in range(8):
        scan = ranged_scan(number, -200.0, 10.0, spacing_mm=4.0)
        for hu in (scan.hu, scan.hu[:, :, ::-1]):
            assert box_of(hu, scan.spacing_mm).doubts == ()


def test_a_padded_scan_is_measured_as_before() -> None:
    scans = [ranged_scan(number, *FULL, spacing_mm=4.0) for number in range(4)]
    for make in (with_blank_ends, clipped):
        errors = [measure(make(scan, seed)) for seed, scan in enumerate(scans)]
        summary = summarise(errors)
        assert summary.cut == 0
        assert summary.largest["pooled"] < 15


def test_the_figure_with_a_half_blank_slice_on_top() -> None:
    hu = patient()
    half = hu[-1:].copy()
    half[:, :44] = -1000
    box = box_of(np.concatenate([hu, half]), SPACING_MM)
    assert abs(box.stop[0] - DOME) <= 1
    assert box.confidence == 0.95
