"""What we take from a DICOM header: an allow-list of values, and nothing else leaves this room."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from voco_data.errors import SeriesRefused
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
        "3D_RENDERING",
        "DOSE",
        "DOSE_INFO",
        "MTT",
        "PERFUSION",
        "PROJECTION_IMAGE",
        "RCBF",
        "RCBV",
        "RENDERED",
        "REPORT",
        "SCREEN_SAVE",
        "SSD",
        "SUMMARY",
        "TMAX",
        "TTP",
        "VRT",
    }
)
"""ImageType values (blanks as _) of CT objects whose pixels are not a slice of HU."""

MAX_PIXELS = 8192 * 8192
"""Rows times columns that a scanner could write."""


@dataclass(frozen=True, slots=True)
class Header:
    """The allow-listed values of one single-frame CT image (PS3.3 C.7.6, C.8.2)."""

    path: Path
    patient_id: str
    study_uid: str
    series_uid: str
    instance_number: int
    """-1 where there is none."""
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

    @property
    def normal(self) -> Triple:
        """Slice normal: along_row x along_column."""
        (a, b, c), (d, e, f) = self.along_row, self.along_column
        return (b * f - c * e, c * d - a * f, a * e - b * d)


def read_dataset(path: Path, *, pixels: bool) -> Dataset:
    """Parse one file, with or without its pixels.

    Files without preamble or file meta are read too (PS3.10 7.1), if what they hold looks like
    DICOM. Raises SeriesRefused(NOT_MEDICAL or UNREADABLE).
    """
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
        # pydicom parses values late. What we need is touched here, where failures are caught.
        known = "SOPClassUID" in dataset or "Modality" in dataset or "Rows" in dataset
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
    """Check that a data set is one slice of CT, and take what we need.

    Raises SeriesRefused: NOT_AN_IMAGE, NOT_CT, LOCALIZER, DERIVED, BURNED_IN, MULTI_FRAME,
    MISSING_GEOMETRY, BAD_GEOMETRY or UNREADABLE.
    """
    take = _Taker(dataset)
    _refuse_other_objects(take)
    rows, columns = take.integer("Rows", 0), take.integer("Columns", 0)
    if not 0 < rows * columns <= MAX_PIXELS:
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
        instance_number=take.integer("InstanceNumber", -1),
        rows=rows,
        columns=columns,
        spacing_mm=(spacing[0], spacing[1]),
        position_mm=(position[0], position[1], position[2]),
        along_row=(orientation[0], orientation[1], orientation[2]),
        along_column=(orientation[3], orientation[4], orientation[5]),
        transfer_syntax=transfer_syntax(dataset),
        monochrome1=take.text("PhotometricInterpretation") == "MONOCHROME1",
    )


def _refuse_other_objects(take: _Taker) -> None:
    """Raise for whatever is not a single CT slice. A missing Modality tag says nothing."""
    sop_class, modality = take.text("SOPClassUID"), take.text("Modality").upper()
    kind = f"modality {modality or 'unknown'}, SOP class {sop_class or 'unknown'}"
    image_type = {value.upper().replace(" ", "_") for value in take.texts("ImageType")}
    if "LOCALIZER" in image_type:
        raise SeriesRefused(Reason.LOCALIZER, "a scout image")
    if "Rows" not in take.dataset or "Columns" not in take.dataset:
        raise SeriesRefused(Reason.NOT_AN_IMAGE, f"an object without an image: {kind}")
    if (modality and modality != "CT") or (sop_class and sop_class not in CT_CLASSES):
        raise SeriesRefused(Reason.NOT_CT, kind)
    if take.text("BurnedInAnnotation").upper() == "YES":
        raise SeriesRefused(Reason.BURNED_IN, "BurnedInAnnotation is YES")
    if image_type & NOT_HU:
        raise SeriesRefused(Reason.DERIVED, f"image type {sorted(image_type & NOT_HU)}")
    if take.integer("SamplesPerPixel", 1) != 1 or take.integer("BitsAllocated", 16) not in (16, 32):
        raise SeriesRefused(Reason.DERIVED, "colour or 8-bit pixels cannot be HU")
    if take.integer("NumberOfFrames", 1) > 1:
        raise SeriesRefused(Reason.MULTI_FRAME, "multi-frame CT is not read yet")


class _Taker:
    """Typed, checked access to values of a data set; a malformed value is UNREADABLE."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def text(self, keyword: str) -> str:
        value = self._get(keyword)
        return "" if value is None else str(value).strip()

    def texts(self, keyword: str) -> list[str]:
        value = self._get(keyword)
        if value is None:
            return []
        return [value] if isinstance(value, str) else [str(item) for item in value]

    def integer(self, keyword: str, default: int) -> int:
        value = self._get(keyword)
        return default if value in (None, "") else self._convert(keyword, value, int)

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        value = self._get(keyword)
        if value is None or value == "":
            return None
        numbers: tuple[float, ...] = self._convert(
            keyword, value, lambda v: tuple(float(item) for item in v)
        )
        if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
            raise SeriesRefused(Reason.BAD_GEOMETRY, f"{keyword} is {numbers}")
        return numbers

    def _get(self, keyword: str) -> Any:
        try:
            return self.dataset.get(keyword)
        except Exception as error:  # converting a hostile value may raise anything
            raise SeriesRefused(Reason.UNREADABLE, f"{keyword} does not parse") from error

    def _convert(self, keyword: str, value: Any, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise SeriesRefused(Reason.UNREADABLE, f"{keyword} is not a number") from error
