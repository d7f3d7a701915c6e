"""Bodies of ellipsoids: their CT slices, and their projections by the formula of a chord.

A projection does not come from the slices, so the two are independent. Coordinates are LPS mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.support.ct_files import write_slices

Floats = npt.NDArray[np.float64]
AIR_HU, LOWEST_HU = -1000, -400
"""Air, and the HU that the window of the spec `localise` shows as black."""
SPACING_MM = (5.0, 4.0, 4.0)
SHAPE = (48, 56, 80)
ORIGIN_MM = (-158.0, -110.0, -300.0)
"""(x, y, z) of the first voxel."""
STUDY, FRAME = "1.2.3.4", "1.2.3.4.5"


@dataclass(frozen=True)
class Ellipsoid:
    centre_mm: tuple[float, float, float]
    """(x, y, z)."""
    radii_mm: tuple[float, float, float]
    hu_above: float
    """Added to the HU of what it lies in; of the first one, HU above LOWEST_HU."""


BODY = (
    Ellipsoid((0, 0, -180), (130, 85, 200), 420),
    Ellipsoid((70, -20, -150), (35, 30, 40), 160),  # on the patient's left, towards the front
    Ellipsoid((-60, 35, -230), (25, 25, 30), 220),  # on the right, behind, lower
)


def write_scan(
    folder: Path, bodies: Sequence[Ellipsoid] = BODY, origin_mm: Any = ORIGIN_MM, **tags: Any
) -> None:
    """CT slices of the ellipsoids, with a little noise."""
    x, y, z = (
        origin + step * np.arange(n)
        for origin, step, n in zip(origin_mm, SPACING_MM[::-1], SHAPE[::-1], strict=True)
    )
    points = np.meshgrid(z, y, x, indexing="ij")[::-1]
    hu = np.full(SHAPE, float(AIR_HU))
    for number, body in enumerate(bodies):
        inside = (
            sum(
                ((p - c) / r) ** 2
                for p, c, r in zip(points, body.centre_mm, body.radii_mm, strict=True)
            )
            < 1
        )
        hu[inside] = (LOWEST_HU if number == 0 else hu[inside]) + body.hu_above
    noise = np.random.default_rng(0).normal(0, 4, SHAPE)
    write_slices(
        folder,
        np.rint(hu + noise).astype(np.int16),
        spacing_mm=SPACING_MM,
        origin_mm=origin_mm,
        tags={"StudyInstanceUID": STUDY, "FrameOfReferenceUID": FRAME} | tags,
    )


def project(bodies: Sequence[Ellipsoid], plane: str, rows_mm: Floats, columns_mm: Floats) -> Floats:
    """HU above LOWEST_HU times mm along the axis that `plane` collapses, by chords.

    `rows_mm` are z coordinates, `columns_mm` x (coronal) or y (sagittal).
    """
    shown, collapsed = (0, 1) if plane == "coronal" else (1, 0)
    z, column = np.meshgrid(rows_mm, columns_mm, indexing="ij")
    total = np.zeros(z.shape)
    for body in bodies:
        rest = (
            1
            - ((z - body.centre_mm[2]) / body.radii_mm[2]) ** 2
            - ((column - body.centre_mm[shown]) / body.radii_mm[shown]) ** 2
        )
        total += body.hu_above * 2 * body.radii_mm[collapsed] * np.sqrt(np.maximum(rest, 0))
    return total


def write_localizer(
    path: Path,
    plane: str = "coronal",
    *,
    bodies: Sequence[Ellipsoid] = BODY,
    spacing_mm: tuple[float, float] = (1.5, 0.9),
    first_mm: tuple[float, float] = (-40.0, -190.0),
    shape: tuple[int, int] = (200, 420),
    shift_mm: tuple[float, float] = (0.0, 0.0),
    **tags: Any,
) -> None:
    """A scout with the head up. `first_mm` is z and x (or y) of the first pixel's centre.

    `shift_mm` is added to the position in the header alone. None as a tag removes it.
    """
    z = first_mm[0] - spacing_mm[0] * np.arange(shape[0])
    columns = first_mm[1] + spacing_mm[1] * np.arange(shape[1])
    sums = project(bodies, plane, z, columns)
    stored = np.rint(sums / 20).astype("<u2")
    place = (first_mm[1] + shift_mm[1], first_mm[0] + shift_mm[0])
    position = [place[0], -250, place[1]] if plane == "coronal" else [-250, *place]
    along_row = [1, 0, 0] if plane == "coronal" else [0, 1, 0]
    own = {
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "PixelSpacing": list(spacing_mm),
        "ImagePositionPatient": position,
        "ImageOrientationPatient": [*along_row, 0, 0, -1],
    }
    write_image(path, stored, **(own | tags))


def write_image(path: Path, stored: npt.NDArray[Any], **tags: Any) -> None:
    """One grey DICOM image of unsigned values (rows, columns). None as a tag removes it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    uid = generate_uid(entropy_srcs=[path.name])
    bits = 8 * stored.dtype.itemsize
    defaults = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": uid,
        "FrameOfReferenceUID": FRAME,
        "Modality": "CT",
        "PatientID": "patient-7",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": stored.tobytes(),
    }
    for keyword, value in (defaults | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
