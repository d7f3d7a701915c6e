"""Header values in which stacks of one series differ, and the series that a DICOM SEG refers to.

Values are kept as text, so that a malformed one does not exclude a slice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydicom.dataset import Dataset

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

SEGMENTATION_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segmentation Storage (PS3.4 B.5)."""

DIRECTORY_CLASS = b"1.2.840.10008.1.3.10"
"""Media Storage Directory Storage: a DICOMDIR (PS3.10 8.6)."""

_IMAGE_TYPE = 0x00080008
_ACQUISITION_DATE = 0x00080022
_DESCRIPTION = 0x0008103E
_KVP = 0x00180060
_SOP_CLASS = 0x00080016
_MODALITY = 0x00080060
_ECHO_NUMBERS = 0x00180086
_KERNEL = 0x00181210
_SERIES_NUMBER = 0x00200011
_SLICE_THICKNESS = 0x00180050
_ACQUISITION = 0x00200012
_TEMPORAL_POSITION = 0x00200100
_CARDIAC_PHASE = 0x00209241
_ACQUISITION_TIME = 0x00080032
_CONTENT_TIME = 0x00080033
_ACQUISITION_DATETIME = 0x0008002A
_TRIGGER_TIME = 0x00181060


class StackKey(NamedTuple):
    """Values in which stacks over the same positions differ, such as two reconstructions."""

    acquisition: str
    """AcquisitionNumber (0020,0012)."""
    kernel: str
    """ConvolutionKernel (0018,1210)."""
    image_type: str
    """ImageType (0008,0008)."""
    echo: str
    """EchoNumbers (0018,0086)."""
    temporal_position: str
    """TemporalPositionIdentifier (0020,0100)."""
    cardiac_phase: str
    """NominalPercentageOfCardiacPhase (0020,9241)."""
    series_number: str
    """SeriesNumber (0020,0011)."""
    kvp: str
    """KVP (0018,0060)."""
    acquisition_date: str
    """AcquisitionDate (0008,0022)."""
    description: str
    """SeriesDescription (0008,103E)."""
    thickness: str
    """SliceThickness (0018,0050). It also says whether slices leave gaps."""


TRAIT_NAMES = {
    "acquisition": "AcquisitionNumber",
    "kernel": "ConvolutionKernel",
    "image_type": "ImageType",
    "echo": "EchoNumbers",
    "temporal_position": "TemporalPositionIdentifier",
    "cardiac_phase": "NominalPercentageOfCardiacPhase",
    "series_number": "SeriesNumber",
    "kvp": "KVP",
    "acquisition_date": "AcquisitionDate",
    "description": "SeriesDescription",
    "thickness": "SliceThickness",
    "acquisition_time": "AcquisitionTime",
    "content_time": "ContentTime",
    "acquisition_datetime": "AcquisitionDateTime",
    "trigger_time": "TriggerTime",
}
"""Keywords of the values that may tell stacks apart, in the order in which they are tried.

The first are fields of StackKey, the last four of SliceTimes.
"""


class SliceTimes(NamedTuple):
    """Times of one slice. In many scans every slice has times of its own."""

    acquisition_time: str
    """AcquisitionTime (0008,0032)."""
    content_time: str
    """ContentTime (0008,0033)."""
    acquisition_datetime: str
    """AcquisitionDateTime (0008,002A)."""
    trigger_time: str
    """TriggerTime (0018,1060): milliseconds after the peak of the R wave."""


def make_stack_key(dataset: Dataset) -> StackKey:
    """The values of one image; a missing value is empty."""
    return StackKey(
        acquisition=_text(dataset, _ACQUISITION),
        kernel=_text(dataset, _KERNEL),
        image_type=_text(dataset, _IMAGE_TYPE),
        echo=_text(dataset, _ECHO_NUMBERS),
        temporal_position=_text(dataset, _TEMPORAL_POSITION),
        cardiac_phase=_text(dataset, _CARDIAC_PHASE),
        series_number=_text(dataset, _SERIES_NUMBER),
        kvp=_text(dataset, _KVP),
        acquisition_date=_text(dataset, _ACQUISITION_DATE),
        description=_text(dataset, _DESCRIPTION),
        thickness=_text(dataset, _SLICE_THICKNESS),
    )


def make_slice_times(dataset: Dataset) -> SliceTimes:
    """The times of one image; a missing one is empty."""
    return SliceTimes(
        _text(dataset, _ACQUISITION_TIME),
        _text(dataset, _CONTENT_TIME),
        _text(dataset, _ACQUISITION_DATETIME),
        _text(dataset, _TRIGGER_TIME),
    )


def time_text(value: bytes) -> str:
    """An encoded time as `make_slice_times` gives it."""
    return _clean(value.decode("latin-1"))


class SegmentationReference(NamedTuple):
    """The patient and the series that a DICOM SEG belongs to."""

    patient_id: str
    series_uids: tuple[str, ...]
    """SeriesInstanceUIDs of its ReferencedSeriesSequence, sorted."""


def segmentation_reference(dataset: Dataset) -> SegmentationReference | None:
    """Patient and series that a DICOM SEG refers to; None for any other object.

    Raises SeriesRefused(UNREADABLE) if the reference does not parse.
    """
    modality, sop_class = _text(dataset, _MODALITY), _text(dataset, _SOP_CLASS)
    if modality.upper() != "SEG" and sop_class != SEGMENTATION_CLASS:
        return None
    try:
        items = dataset.get("ReferencedSeriesSequence") or []
        series = {str(item.get("SeriesInstanceUID", "")).strip() for item in items}
        patient = str(dataset.get("PatientID") or "").strip()
    except SeriesRefused:  # from the deadline
        raise
    except Exception as error:  # converting a hostile sequence may raise anything
        raise SeriesRefused(
            Reason.UNREADABLE, "the series that it segments does not parse"
        ) from error
    return SegmentationReference(patient, tuple(sorted(series - {""})))


def _text(dataset: Dataset, tag: int) -> str:
    """The unconverted value, its parts stripped and separated by backslashes; empty if missing."""
    if tag not in dataset:
        return ""
    value: Any = dataset.get_item(tag).value
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    elif not isinstance(value, str):
        value = "\\".join(map(str, value)) if hasattr(value, "__iter__") else str(value)
    return _clean(value)


def _clean(value: str) -> str:
    return "\\".join(part.strip(" \0") for part in value.split("\\"))
