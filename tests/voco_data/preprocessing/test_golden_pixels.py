"""Pixels that may change only with ALGORITHM_VERSION: from files to both grids, box included.

The scans are made with integers alone, so no generator's or library's next version moves them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import xxhash

from tests.support.ct_files import write_slices
from voco_data.cohort import SeriesEntry
from voco_data.preprocessing.steps import find_boxes, prepare_series, resample_to_grid
from voco_data.store.spec import ALGORITHM_VERSION, FINETUNE, PRETRAIN

SHAPE = (40, 120, 132)
SPACING_MM = (8.0, 3.0, 3.0)

UPRIGHT = ("47e29ead302b75d4f53340171d0842d0", "e6215cc1f4676510577d7154048313f2")
GOLDEN = {
    5: {
        "rle": UPRIGHT,
        "feet_first": UPRIGHT,
        "nifti": UPRIGHT,
        "tilted": ("674eb93acdfa9445b72c7ec026b1b051", "463ee7021cbbfafeca2194d6a0f71f61"),
        "few_slices": ("572411bfdf801ee83ed472604a90b73a", "9983f5d245cf2e8522e44e3478f14ffe"),
    }
}
"""Algorithm version to scan to XXH3-128 of the pretraining and the fine-tuning grid."""


def scan() -> npt.NDArray[np.int16]:
    """An ellipse of tissue with lungs above, a spine, two femora below, and integer noise."""
    z, y, x = np.ogrid[[slice(n) for n in SHAPE]]
    across, deep = x - 66, y - 60
    hu = np.full(SHAPE, -1000, np.int64)
    hu[np.broadcast_to((across * 36) ** 2 + (deep * 55) ** 2 < (36 * 55) ** 2, SHAPE)] = 45
    for side in (-26, 26):
        lung = ((across - side) * 26) ** 2 + (deep * 18) ** 2 < (18 * 26) ** 2
        hu[np.broadcast_to(lung & (z >= 28), SHAPE)] = -850
        femur = (across - side) ** 2 + deep**2 < 36
        hu[np.broadcast_to(femur & (z < 8), SHAPE)] = 900
    hu[np.broadcast_to((across**2 + (deep - 22) ** 2 < 64) & (z >= 7), SHAPE)] = 400
    # A linear congruential generator over the low bits of z, y and x.
    stirred = ((z * 7919 + y * 104729 + x * 1299709) * 1103515245 + 12345) >> 8
    return np.asarray(hu + stirred % 41 - 20, np.int16)


def rle(folder: Path) -> SeriesEntry:
    write_slices(folder, scan(), spacing_mm=SPACING_MM, rle=True)
    return entry(folder, "dicom")


def feet_first(folder: Path) -> SeriesEntry:
    """The same patient, with slices from the head down and rows from the back to the front."""
    write_slices(
        folder,
        scan()[::-1, ::-1],
        spacing_mm=SPACING_MM,
        orientation=(1, 0, 0, 0, -1, 0),
        step_mm=(0.0, 0.0, -SPACING_MM[0]),
    )
    return entry(folder, "dicom")


def tilted(folder: Path) -> SeriesEntry:
    write_slices(folder, scan(), spacing_mm=SPACING_MM, step_mm=(0.0, 2.0, SPACING_MM[0]))
    return entry(folder, "dicom")


def few_slices(folder: Path) -> SeriesEntry:
    """Fewer slices than the grids have: z grows."""
    write_slices(folder, scan()[10:30:2], spacing_mm=(16.0, 3.0, 3.0))
    return entry(folder, "dicom")


def nifti(folder: Path) -> SeriesEntry:
    folder.mkdir()
    affine = np.diag([-SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0], 1.0])
    nibabel.save(nibabel.Nifti1Image(scan().transpose(2, 1, 0), affine), folder / "a.nii.gz")
    return entry(folder, "nifti")


def entry(folder: Path, kind: str) -> SeriesEntry:
    files = tuple(sorted(path.name for path in folder.iterdir()))
    return SeriesEntry(kind, "p", "s", "u", "", files, "")  # type: ignore[arg-type]


def hashes(folder: Path, series: SeriesEntry) -> tuple[str, str]:
    prepared = prepare_series(folder, series, PRETRAIN)
    boxes = find_boxes(prepared, [PRETRAIN, FINETUNE])
    first, second = (
        xxhash.xxh3_128_hexdigest(resample_to_grid(prepared, boxes[spec], spec).data)
        for spec in (PRETRAIN, FINETUNE)
    )
    return first, second


@pytest.mark.parametrize("write", [rle, feet_first, tilted, few_slices, nifti])
def test_pixels_change_only_with_the_algorithm_version(
    tmp_path: Path, write: Callable[[Path], SeriesEntry]
) -> None:
    pinned = GOLDEN.get(ALGORITHM_VERSION, {}).get(write.__name__)
    computed = hashes(tmp_path / "scan", write(tmp_path / "scan"))
    assert computed == pinned, (
        f"the pixels of {write.__name__!r} are not those of algorithm version {ALGORITHM_VERSION}. "
        "If they were meant to change, bump ALGORITHM_VERSION in voco_data/store/spec.py, and pin "
        f"the new ones here: {write.__name__!r}: {computed}"
    )


def test_the_scan_shows_an_abdomen(tmp_path: Path) -> None:
    prepared = prepare_series(tmp_path / "scan", rle(tmp_path / "scan"), PRETRAIN)
    box = find_boxes(prepared, [PRETRAIN])[PRETRAIN]
    assert box.method == "profile"
    assert box.confidence == 0.55, "its lungs are cylinders, which end flat, as on fluid"


def test_dicom_and_nifti_of_one_scan_have_one_content(tmp_path: Path) -> None:
    contents = {
        prepare_series(tmp_path / name, write(tmp_path / name), PRETRAIN).content_digest
        for name, write in (("rle", rle), ("nifti", nifti))
    }
    assert len(contents) == 1
