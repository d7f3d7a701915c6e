"""DICOM headers: the allow-listed values of a slice of CT, and the reasons to refuse an object.

No other value leaves voco_data.dicom. Reasons quote terms of the standard, never free text of a
file, which may contain a person's name.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.uid import UID

from voco_data.dicom.binary_format import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from voco_data.dicom.deflated import read_deflated
from voco_data.dicom.input_limits import MAX_HEADER_VALUE_BYTES, ReadLimitedFile
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused, unreadable_error
from voco_data.limits import MAX_PIXELS, check_scanner_range
from voco_data.reasons import Reason
from voco_data.volumes import Triple

# Many real headers violate the standard, and pydicom warns of each violation, and quotes the value,
# which may be a name. Those that matter become reasons here.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
# It warns as it parses, and again as it converts a value at its first access, in any function here.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")

CT_SOP_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
NON_HU_IMAGE_TYPES = frozenset(
    {
        # Derived pixel contrast, value 4 of Enhanced CT (PS3.3 C.8.15.2.1).
        "ADDITION",
        "DIVISION",
        "MAXIMUM",
        "MINIMUM",
        "MULTIPLICATION",
        "QUANTITY",
        "STD_DEVIATION",
        "SUBTRACTION",
        # Multi-energy CT (PS3.3 C.8.15.2.1.2), as the standard and as scanners write it.
        "EFF_ATOMIC_NUM",
        "ELECTRON_DENSITY",
        "IODINE_MAP",
        "MAT_FRACTIONAL",
        "MAT_MODIFIED",
        "MAT_REMOVED",
        "MAT_SPECIFIC",
        "MAT_VALUE_BASED",
        "MATERIAL_FRACTIONAL",
        "MATERIAL_QUANTITATIVE",
        "MATERIAL_SPECIFIC",
        # Perfusion.
        "CBF",
        "CBV",
        "MTT",
        "PERFUSION",
        "RCBF",
        "RCBV",
        "TMAX",
        "TTP",
        # Projections and renderings.
        "3D_RENDERING",
        "MAX_IP",
        "MIN_IP",
        "MINIP",
        "MIP",
        "PROJECTION_IMAGE",
        "RENDERED",
        "SSD",
        "VOLUME_RENDER",
        "VRT",
        # Screenshots and reports.
        "DOSE",
        "DOSE_INFO",
        "REPORT",
        "SCREEN_SAVE",
        "SUMMARY",
    }
)
"""Values of ImageType or FrameType, blanks as _, of CT objects whose pixels are not HU."""

HU_UNITS = frozenset(
    {
        "HU",
        "HUS",
        "HUUNIT",
        "HUUNITS",
        "HOUNSFIELD",
        "HOUNSFIELDUNIT",
        "HOUNSFIELDUNITS",
        "HOUNSFIELDUNITSHU",
    }
)
"""Spellings of HU, the standard's term (PS3.3 C.11.1.1.2): capitals, letters and digits only."""
UNSPECIFIED_UNITS = frozenset({"", "US", "UNSPECIFIED"})
"""Values of RescaleType that name no unit. Some scanners write US (unspecified) for HU."""
_NO_LETTERS = re.compile(r"[^A-Z0-9]+")

ALLOCATED_BITS = (16, 32)
"""Accepted BitsAllocated: 8 are too few for HU."""

MAX_FRAMES = 20_000
"""Largest number of frames of one object."""

_MODALITY_TERMS = (
    "CR CT DX ECG ES FID HC IO KO MG MR NM OP OT PR PT PX REG RF RG "
    "RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV SC SEG SM SR US XA XC"
)
MODALITIES = frozenset(_MODALITY_TERMS.split())
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1) that an archive of CT is likely to hold."""


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
    """InstanceNumber; of a frame, that of the image it was converted from. -1 if there is none."""
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
    """LossyImageCompression is 01: the pixels were compressed with loss, now or earlier."""
    frames: int = 1
    """Number of frames in the object."""
    frame: int = 0
    """Index of this frame."""


@dataclass(frozen=True, slots=True)
class SliceIds:
    """The ids and the matrix of a slice of CT whose header has a fault elsewhere."""

    patient_id: str
    study_uid: str
    series_uid: str
    rows: int
    columns: int
    frames: int


def find_slice_ids(dataset: Dataset) -> SliceIds | None:
    """The ids of an object of CT, whatever else is wrong with it; None if they do not parse.

    For an object that `parse_header` refuses. Rows and columns are 0 if they do not parse, and
    frames are 1.
    """
    values = DatasetValues(dataset)
    try:
        sop_class, modality = values.text("SOPClassUID"), values.text("Modality").upper()
        is_ct = not sop_class or CT_SOP_CLASSES & {sop_class, _class_of_meta(dataset)}
        if modality not in ("", "CT") or not is_ct:
            return None
        ids = [values.text(name) for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")]
    except SeriesRefused:
        return None
    try:
        rows, columns = values.integer("Rows", 0), values.integer("Columns", 0)
        frames = values.integer("NumberOfFrames", 1)
    except SeriesRefused:
        rows, columns, frames = 0, 0, 1
    return SliceIds(ids[0], ids[1], ids[2], rows, columns, min(max(frames, 1), MAX_FRAMES))


def describe_modality(value: str) -> str:
    """A text for reasons: the modality if it is in MODALITIES, else `unknown` or `not named`."""
    if not value:
        return "not named"
    return value if value in MODALITIES else "unknown"


def describe_uid(value: str) -> str:
    """A text for reasons: UID and name if PS3.6 Annex A defines it, else that it is unknown."""
    if not value:
        return "not named"
    name = UID(value).name
    return f"{value} ({name})" if name != value else "unknown to the standard"


def read_dataset(path: Path, *, pixels: bool, most_bytes: int | None = None) -> Dataset:
    """Parse one file, with or without its pixels.

    `most_bytes` limits the size of the file, and that of a deflated data set, which is also limited
    by the size of the pixels that its header states. A file without preamble or file meta (PS3.10
    7.1) is read too if it holds one of the attributes of an image. Raises
    SeriesRefused(NOT_MEDICAL or UNREADABLE).
    """
    dataset: Dataset | None
    try:
        size = path.stat().st_size
        if size == 0:
            raise SeriesRefused(Reason.UNREADABLE, "an empty file")
        if most_bytes is not None and size > most_bytes:
            raise SeriesRefused(Reason.UNREADABLE, f"more than {most_bytes} bytes")
        with ReadLimitedFile(
            path, max_read_bytes=None if pixels else MAX_HEADER_VALUE_BYTES
        ) as file:
            dataset = read_deflated(file, pixels=pixels, most_bytes=most_bytes)
            if dataset is None:
                dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
        # pydicom parses values at the first access, so these may raise errors too.
        is_dicom = "SOPClassUID" in dataset or "Modality" in dataset or "Rows" in dataset
    except SeriesRefused:
        raise
    except OSError as error:
        raise unreadable_error(error, "the header does not parse") from error
    except Exception as error:  # a hostile file may raise anything in the parser
        raise SeriesRefused(Reason.UNREADABLE, "the header does not parse") from error
    if not is_dicom:
        if getattr(dataset, "preamble", None) is not None:
            raise SeriesRefused(
                Reason.UNREADABLE, "begins as DICOM, and ends before it says what it is"
            )
        raise SeriesRefused(Reason.NOT_MEDICAL, "neither DICOM nor NIfTI")
    return dataset


def transfer_syntax(dataset: Dataset) -> str:
    """The transfer syntax UID; if it is missing, the syntax that pydicom assumed (PS3.5 10.1)."""
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax:
        return str(syntax)
    is_implicit = dataset.original_encoding[0]
    return IMPLICIT_LITTLE_ENDIAN if is_implicit in (None, True) else EXPLICIT_LITTLE_ENDIAN


def parse_header(dataset: Dataset, path: Path) -> Header:
    """The header of a data set, for a multi-frame object that of frame 0, if it is CT.

    Raises SeriesRefused: NOT_AN_IMAGE, NOT_CT, LOCALIZER, DERIVED, BURNED_IN, MISSING_GEOMETRY,
    BAD_GEOMETRY or UNREADABLE.
    """
    return parse_frames(dataset, path)[0]


def parse_frames(dataset: Dataset, path: Path) -> list[Header]:
    """The header of every frame; one for a single-frame image. Raises as `parse_header`."""
    frames = _check_object(DatasetValues(dataset), _class_of_meta(dataset))
    per_frame = DatasetValues.for_frames(dataset, frames)
    headers = [
        _header(values, dataset, path, frames, frame) for frame, values in enumerate(per_frame)
    ]
    # An image of one frame (PS3.3 A.3) has one position, which other frames do not share.
    if frames > 1 and not all(values.is_of_frame("ImagePositionPatient") for values in per_frame):
        raise SeriesRefused(
            Reason.MISSING_GEOMETRY, f"{frames} frames, and no position of each in the header"
        )
    return headers


def end_frames(frames: Sequence[Header]) -> tuple[Header, Triple]:
    """The frame of an object at one end of its normal, and the position of that at the other."""
    (a, b, c), (d, e, f) = frames[0].along_row, frames[0].along_column
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)

    def depth(frame: Header) -> float:
        return sum(n * x for n, x in zip(normal, frame.position_mm, strict=True))

    return min(frames, key=depth), max(frames, key=depth).position_mm


def _class_of_meta(dataset: Dataset) -> str:
    """The SOP class by the file meta information, which a file torn in its data set still has."""
    meta = getattr(dataset, "file_meta", None)
    return "" if meta is None else str(meta.get("MediaStorageSOPClassUID", ""))


def _check_object(values: DatasetValues, class_of_meta: str) -> int:
    """Return the number of frames. Raises SeriesRefused for an object that is not CT."""
    sop_class, modality = values.text("SOPClassUID"), values.text("Modality").upper()
    description = f"modality {describe_modality(modality)}, {describe_uid(sop_class)}"
    if "LOCALIZER" in values.codes("ImageType"):
        raise SeriesRefused(Reason.LOCALIZER, "a scout image")
    if not values.has("Rows") or not values.has("Columns"):
        if CT_SOP_CLASSES & {sop_class, class_of_meta}:
            raise SeriesRefused(Reason.UNREADABLE, values.describe_missing_matrix())
        raise SeriesRefused(Reason.NOT_AN_IMAGE, f"an object without an image: {description}")
    if (modality and modality != "CT") or (sop_class and sop_class not in CT_SOP_CLASSES):
        raise SeriesRefused(Reason.NOT_CT, description)
    if values.text("BurnedInAnnotation").upper() == "YES":
        raise SeriesRefused(Reason.BURNED_IN, "BurnedInAnnotation is YES")
    if (
        values.integer("SamplesPerPixel", 1) != 1
        or values.integer("BitsAllocated", 16) not in ALLOCATED_BITS
    ):
        raise SeriesRefused(Reason.DERIVED, "colour or 8-bit pixels cannot be HU")
    if values.text("PhotometricInterpretation").upper() == "PALETTE COLOR":
        raise SeriesRefused(Reason.DERIVED, "indices of a palette of colours are no HU")
    frames = values.integer("NumberOfFrames", 1)
    if not 1 <= frames <= MAX_FRAMES:
        raise SeriesRefused(Reason.UNREADABLE, f"NumberOfFrames is {frames}")
    return frames


def _header(values: DatasetValues, dataset: Dataset, path: Path, frames: int, frame: int) -> Header:
    _check_hu(values)
    rows, columns = values.integer("Rows", 0), values.integer("Columns", 0)
    if rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise SeriesRefused(Reason.UNREADABLE, f"rows x columns is {rows} x {columns}")
    spacing = values.numbers("PixelSpacing", 2)
    position = values.numbers("ImagePositionPatient", 3)
    orientation = values.numbers("ImageOrientationPatient", 6)
    if spacing is None or position is None or orientation is None:
        names = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
        found = zip(names, (spacing, position, orientation), strict=True)
        missing = [name for name, value in found if value is None]
        raise SeriesRefused(Reason.MISSING_GEOMETRY, f"no {', '.join(missing)} in the header")
    check_scanner_range("PixelSpacing", spacing)
    check_scanner_range("ImagePositionPatient", position)
    return Header(
        path=path,
        patient_id=values.text("PatientID"),
        study_uid=values.text("StudyInstanceUID"),
        series_uid=values.text("SeriesInstanceUID"),
        instance_number=values.instance_number(),
        rows=rows,
        columns=columns,
        spacing_mm=(spacing[0], spacing[1]),
        position_mm=(position[0], position[1], position[2]),
        along_row=(orientation[0], orientation[1], orientation[2]),
        along_column=(orientation[3], orientation[4], orientation[5]),
        transfer_syntax=transfer_syntax(dataset),
        monochrome1=values.text("PhotometricInterpretation") == "MONOCHROME1",
        lossy=values.text("LossyImageCompression") == "01",
        frames=frames,
        frame=frame,
    )


def _check_hu(values: DatasetValues) -> None:
    """Raise SeriesRefused(LOCALIZER or DERIVED) for a frame whose values are not HU."""
    types = values.codes("ImageType") | values.codes("FrameType")
    if "LOCALIZER" in types:
        raise SeriesRefused(Reason.LOCALIZER, "a scout image")
    if types & NON_HU_IMAGE_TYPES:
        raise SeriesRefused(
            Reason.DERIVED, f"image type {', '.join(sorted(types & NON_HU_IMAGE_TYPES))}"
        )
    if unit_name(values.text("RescaleType")) not in HU_UNITS | UNSPECIFIED_UNITS:
        raise SeriesRefused(Reason.DERIVED, "RescaleType says that the values are not HU")


def unit_name(text: str) -> str:
    """A RescaleType or ModalityLUTType in capitals, letters and digits only, as in HU_UNITS."""
    return _NO_LETTERS.sub("", text.upper())
