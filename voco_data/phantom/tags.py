"""The lines of RATIC's table of DICOM tags."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

TagRow = dict[str, object]
TAGS = (
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "FrameOfReferenceUID",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "InstanceNumber",
    "KVP",
    "PatientID",
    "PatientPosition",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Rows",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SliceThickness",
    "StudyInstanceUID",
    "WindowCenter",
    "WindowWidth",
)


def tag_row(header: Dataset) -> TagRow:
    """Values as the real table has them: numbers and text, lists as text."""
    row = {tag: _plain(header.get(tag)) for tag in TAGS}
    # One column, one type: these two are a number in one file and a list in the next.
    return row | {tag: str(row[tag]) for tag in ("WindowCenter", "WindowWidth")}


def _plain(value: object) -> object:
    if isinstance(value, MultiValue):
        return str([float(item) for item in value])
    if isinstance(value, int) or value is None:
        return value
    return float(value) if isinstance(value, float) else str(value)
