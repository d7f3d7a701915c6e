"""What we take from a DICOM header: an allow-list of values, and nothing else leaves this room."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from voco_data.dicom.bounded_file import LARGEST_HEADER_VALUE, CountedFile
from voco_data.dicom.defined_terms import known_modality, known_uid
from voco_data.dicom.deflated import check_inflated_size
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused, unreadable
from voco_data.reasons import Reason

# Real headers are full of small offences against the standard. Those that matter become a reason
# code in here; pydicom's own remarks would only bury them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.ERROR)

Triple = tuple[float, float, float]

CT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
NOT_HU = frozenset(
    {
        # Derived pixel contrast, value 4 of Enhanced CT (PS3.3 C.8.15.2.1).
        *("ADDITION", "DIVISION", "MAXIMUM", "MINIMUM", "MULTIPLICATION", "QUANTITY"),
        *("STD_DEVIATION", "SUBTRACTION"),
        # Multi-energy CT (PS3.3 C.8.15.2.1.2), as the standard and as scanners write it.
        *("EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "IODINE_MAP", "MAT_FRACTIONAL", "MAT_MODIFIED"),
        *("MAT_REMOVED", "MAT_SPECIFIC", "MAT_VALUE_BASED", "MATERIAL_FRACTIONAL"),
        *("MATERIAL_QUANTITATIVE", "MATERIAL_SPECIFIC"),
        # Perfusion.
        *("CBF", "CBV", "MTT", "PERFUSION", "RCBF", "RCBV", "TMAX", "TTP"),
        # Projections and renderings.
        *("3D_RENDERING", "MAX_IP", "MIN_IP", "MINIP", "MIP", "PROJECTION_IMAGE", "RENDERED"),
        *("SSD", "VOLUME_RENDER", "VRT"),
        # Screens and sheets.
        *("DOSE", "DOSE_INFO", "REPORT", "SCREEN_SAVE", "SUMMARY"),
    }
)
"""ImageType or FrameType values (blanks as _) of CT objects whose pixels are no slice of HU."""

HU_TYPES = frozenset({"", "HU", "US"})
"""RescaleType of pixels that may be HU; some scanners write US (unspecified) for them."""

MAX_PIXELS = 8192 * 8192
"""Rows times columns that a scanner could write."""

MAX_FRAMES = 20_000
"""Frames that a scanner could write into one object."""


@dataclass(frozen=True, slots=True)
class Header:
    """The allow-listed values of one slice of CT: a single-frame image, or one frame of many.

    PS3.3 C.7.6 and C.8.2; for frames C.7.6.16 and C.8.15.
    """

    path: Path
    patient_id: str
    study_uid: str
    series_uid: str
    instance_number: int
    """InstanceNumber, of a frame that of the image it was made from; -1 where there is none."""
    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    """PixelSpacing: distance between rows, distance between columns."""
    position_mm: Triple
    """ImagePositionPatient: LPS of the centre of the first pixel."""
    along_row: Triple
    """First half of ImageOrientationPatient: LPS direction of the column index."""
    along_column: Triple
    """Second half of ImageOrientationPatient: LPS direction of the row index."""
    transfer_syntax: str
    monochrome1: bool
    lossy: bool = False
    """LossyImageCompression is 01: the pixels were lossy once, whatever the syntax says now."""
    frames: int = 1
    """Frames in the object."""
    frame: int = 0
    """Which of them this is."""


def read_dataset(path: Path, *, pixels: bool) -> Dataset:
    """Parse one file, with or without its pixels.

    Files without preamble or file meta are read too (PS3.10 7.1), if what they hold looks like
    DICOM. Raises SeriesRefused(NOT_MEDICAL or UNREADABLE).
    """
    check_inflated_size(path)
    try:
        with CountedFile(path, largest=None if pixels else LARGEST_HEADER_VALUE) as file:
            dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
        # pydicom parses values late. What we need is touched here, where failures are caught.
        known = "SOPClassUID" in dataset or "Modality" in dataset or "Rows" in dataset
    except OSError as error:
        raise unreadable(error, "the header does not parse") from error
    except Exception as error:  # a hostile file may raise anything in the parser
        raise SeriesRefused(
            Reason.UNREADABLE, f"the header does not parse ({type(error).__name__})"
        ) from error
    if not known:
        raise SeriesRefused(Reason.NOT_MEDICAL, "neither DICOM nor NIfTI")
    return dataset


def transfer_syntax(dataset: Dataset) -> str:
    """The transfer syntax UID; implicit little endian where the file says nothing (PS3.5 10.1)."""
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax:
        return str(syntax)
    implicit = dataset.original_encoding[0]
    return str(ImplicitVRLittleEndian if implicit in (None, True) else UID("1.2.840.10008.1.2.1"))


def parse_header(dataset: Dataset, path: Path) -> Header:
    """Check that a data set is CT, and take what we need; of a multi-frame object, frame 0.

    Raises SeriesRefused: NOT_AN_IMAGE, NOT_CT, LOCALIZER, DERIVED, BURNED_IN, MISSING_GEOMETRY,
    BAD_GEOMETRY or UNREADABLE.
    """
    return parse_frames(dataset, path)[0]


def parse_frames(dataset: Dataset, path: Path) -> list[Header]:
    """The header of every frame; one for a single-frame image. Raises as `parse_header`."""
    frames = _check_object(DatasetValues(dataset))
    takes = DatasetValues.of_frames(dataset, frames)
    return [_header(take, dataset, path, frames, frame) for frame, take in enumerate(takes)]


def _check_object(take: DatasetValues) -> int:
    """Raise for whatever is not CT, and count the frames. A missing Modality says nothing."""
    sop_class, modality = take.text("SOPClassUID"), take.text("Modality").upper()
    kind = f"modality {known_modality(modality)}, {known_uid(sop_class)}"
    if "LOCALIZER" in take.codes("ImageType"):
        raise SeriesRefused(Reason.LOCALIZER, "a scout image")
    if not take.has("Rows") or not take.has("Columns"):
        raise SeriesRefused(Reason.NOT_AN_IMAGE, f"an object without an image: {kind}")
    if (modality and modality != "CT") or (sop_class and sop_class not in CT_CLASSES):
        raise SeriesRefused(Reason.NOT_CT, kind)
    if take.text("BurnedInAnnotation").upper() == "YES":
        raise SeriesRefused(Reason.BURNED_IN, "BurnedInAnnotation is YES")
    if take.integer("SamplesPerPixel", 1) != 1 or take.integer("BitsAllocated", 16) not in (16, 32):
        raise SeriesRefused(Reason.DERIVED, "colour or 8-bit pixels cannot be HU")
    frames = take.integer("NumberOfFrames", 1)
    if not 1 <= frames <= MAX_FRAMES:
        raise SeriesRefused(Reason.UNREADABLE, f"NumberOfFrames is {frames}")
    return frames


def _header(take: DatasetValues, dataset: Dataset, path: Path, frames: int, frame: int) -> Header:
    _check_values(take)
    rows, columns = take.integer("Rows", 0), take.integer("Columns", 0)
    if rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise SeriesRefused(Reason.UNREADABLE, f"rows x columns is {rows} x {columns}")
    spacing = take.numbers("PixelSpacing", 2)
    position = take.numbers("ImagePositionPatient", 3)
    orientation = take.numbers("ImageOrientationPatient", 6)
    if spacing is None or position is None or orientation is None:
        raise SeriesRefused(
            Reason.MISSING_GEOMETRY, "no pixel spacing, position or orientation in the header"
        )
    return Header(
        path=path,
        patient_id=take.text("PatientID"),
        study_uid=take.text("StudyInstanceUID"),
        series_uid=take.text("SeriesInstanceUID"),
        instance_number=take.instance_number(),
        rows=rows,
        columns=columns,
        spacing_mm=(spacing[0], spacing[1]),
        position_mm=(position[0], position[1], position[2]),
        along_row=(orientation[0], orientation[1], orientation[2]),
        along_column=(orientation[3], orientation[4], orientation[5]),
        transfer_syntax=transfer_syntax(dataset),
        monochrome1=take.text("PhotometricInterpretation") == "MONOCHROME1",
        lossy=take.text("LossyImageCompression") == "01",
        frames=frames,
        frame=frame,
    )


def _check_values(take: DatasetValues) -> None:
    """Raise DERIVED for a frame whose values are not HU."""
    kinds = take.codes("ImageType") | take.codes("FrameType")
    if "LOCALIZER" in kinds:
        raise SeriesRefused(Reason.LOCALIZER, "a scout image")
    if kinds & NOT_HU:
        raise SeriesRefused(Reason.DERIVED, f"image type {', '.join(sorted(kinds & NOT_HU))}")
    if take.text("RescaleType").upper() not in HU_TYPES:
        raise SeriesRefused(Reason.DERIVED, "RescaleType says that the values are not HU")
