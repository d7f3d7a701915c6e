"""CT files for tests, written with pydicom from plain arrays: every value is the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid


def write_slices(
    folder: Path,
    hu: npt.NDArray[np.int16],
    *,
    spacing_mm: tuple[float, float, float] = (5.0, 2.0, 2.0),
    origin_mm: tuple[float, float, float] = (-60.0, -60.0, -100.0),
    step_mm: tuple[float, float, float] | None = None,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    rle: bool = False,
    names: list[str] | None = None,
    tags: dict[str, Any] | None = None,
) -> list[Path]:
    """Write `hu` (slice, row, column) as one series; slice k lies at origin + k * step."""
    folder.mkdir(parents=True, exist_ok=True)
    step = (0.0, 0.0, spacing_mm[0]) if step_mm is None else step_mm
    # The same in every run of a test, so that rows are: pytest's own folders have other names.
    uid = generate_uid(entropy_srcs=["/".join(folder.parts[-2:])])[:56].rstrip(".")
    paths = []
    for index, plane in enumerate(hu):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{uid}.{index + 1}")
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = f"{uid}.{index + 1}"
        dataset.StudyInstanceUID = "1.2.3"
        dataset.SeriesInstanceUID = uid
        dataset.Modality = "CT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.PatientID = "patient-7"
        dataset.PatientName = "Doe^Jane"
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [
            round(o + index * s, 6) for o, s in zip(origin_mm, step, strict=True)
        ]
        dataset.ImageOrientationPatient = list(orientation)
        dataset.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
        dataset.SliceThickness = spacing_mm[0]
        dataset.RescaleSlope = 1
        dataset.RescaleIntercept = -1024
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 0
        dataset.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        for keyword, value in (tags or {}).items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value(index) if callable(value) else value)
        if rle:
            dataset.compress(RLELossless, encoding_plugin="pydicom")
        path = folder / (names[index] if names else f"{index:04d}.dcm")
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def body(shape: tuple[int, int, int] = (24, 60, 60), seed: int = 0) -> npt.NDArray[np.int16]:
    """A water ellipse in air with a bright bar on the patient's left and a dark one in front."""
    z, y, x = np.ogrid[[slice(n) for n in shape]]
    cy, cx = shape[1] / 2, shape[2] / 2
    inside = ((y - cy) / (0.4 * shape[1])) ** 2 + ((x - cx) / (0.45 * shape[2])) ** 2 < 1
    hu = np.where(inside, 40, -1000) + 0 * z
    hu[:, int(cy) - 3 : int(cy) + 3, int(1.4 * cx) : int(1.6 * cx)] = 240
    hu[:, int(0.4 * cy) : int(0.6 * cy), int(cx) - 3 : int(cx) + 3] = -120
    noise = np.random.default_rng(seed).integers(-5, 6, shape)
    return np.asarray(hu + noise, np.int16)
