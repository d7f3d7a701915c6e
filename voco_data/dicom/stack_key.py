"""Header values that tell stacks of one series apart, and segmentations from images.

Read as text and never converted: a malformed value must not cost a slice.
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

_MODALITY = 0x00080060
_SOP_CLASS = 0x00080016
_REFERENCED_SERIES = "ReferencedSeriesSequence"  # (0008,1115)


class StackKey(NamedTuple):
    """What differs between stacks that a scanner put over the same positions."""

    acquisition: str
    """AcquisitionNumber (0020,0012)."""
    kernel: str
    """ConvolutionKernel (0018,1210)."""
    image_type: str
    """ImageType (0008,0008)."""
    echo: str
    """EchoNumbers (0018,0086)."""


def stack_key(dataset: Dataset) -> StackKey:
    """The values of one image; empty where there is none."""
    tags = (0x00200012, 0x00181210, 0x00080008, 0x00180086)
    return StackKey(*(_text(dataset, tag) for tag in tags))


class Segmented(NamedTuple):
    """What a DICOM SEG belongs to."""

    patient_id: str
    series_uids: tuple[str, ...]
    """SeriesInstanceUIDs that it refers to, sorted."""


def segmented_series(dataset: Dataset) -> Segmented | None:
    """Patient and series of a DICOM SEG; None for any other object.

    Raises SeriesRefused(UNREADABLE) where the reference does not parse.
    """
    modality, sop_class = _text(dataset, _MODALITY), _text(dataset, _SOP_CLASS)
    if modality.upper() != "SEG" and sop_class != SEGMENTATION_CLASS:
        return None
    try:
        items = dataset.get(_REFERENCED_SERIES) or []
        found = {str(item.get("SeriesInstanceUID", "")).strip() for item in items}
        patient = str(dataset.get("PatientID") or "").strip()
    except SeriesRefused:  # its time is up
        raise
    except Exception as error:  # converting a hostile sequence may raise anything
        raise SeriesRefused(
            Reason.UNREADABLE, "the series that it segments does not parse"
        ) from error
    return Segmented(patient, tuple(sorted(found - {""})))


def _text(dataset: Dataset, tag: int) -> str:
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
