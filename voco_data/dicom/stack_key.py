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
_SOP_CLASS = 0x00080016
_MODALITY = 0x00080060
_ECHO_NUMBERS = 0x00180086
_KERNEL = 0x00181210
_ACQUISITION = 0x00200012


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


def make_stack_key(dataset: Dataset) -> StackKey:
    """The values of one image; a missing value is empty."""
    return StackKey(
        acquisition=_text(dataset, _ACQUISITION),
        kernel=_text(dataset, _KERNEL),
        image_type=_text(dataset, _IMAGE_TYPE),
        echo=_text(dataset, _ECHO_NUMBERS),
    )


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
    return "\\".join(part.strip(" \0") for part in value.split("\\"))
