"""RSNA RATIC: `train_images/<patient_id>/<series_id>/<instance>.dcm` beside its tables.

The folders say which file belongs to which series, so no header is read to index 1.5 million
files. The Modality tag is stripped from this data set, and is not needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from voco_data.cohort import OddFile
from voco_data.errors import InputError
from voco_data.layouts.base import Advance, Layout
from voco_data.reasons import Reason

if TYPE_CHECKING:
    from voco_data.layouts.table import IndexTable

MARKER = "train_series_meta.csv"
_TABLES = frozenset(
    {
        MARKER,
        "active_extravasation_bounding_boxes.csv",
        "image_level_labels.csv",
        "image_level_labels_2024.csv",
        "sample_submission.csv",
        "test_dicom_tags.parquet",
        "test_series_meta.csv",
        "train.csv",
        "train_2024.csv",
        "train_dicom_tags.parquet",
    }
)
_SLICE = re.compile(
    r"(?P<folder>(?:.*/)?(?:train|test)_images/(?P<patient>[0-9]+)/(?P<series>[0-9]+))/[0-9]+\.dcm"
)
_MASK = re.compile(r"(?:.*/)?segmentations/(?P<series>[0-9]+)\.nii(?:\.gz)?")


def is_marker(path: str) -> bool:
    """Whether a file is the table that only RATIC has."""
    return path == MARKER or path.endswith(f"/{MARKER}")


def is_slice(path: str) -> bool:
    """Whether a file lies where RATIC has its slices."""
    return _SLICE.fullmatch(path) is not None


def is_known(path: str) -> bool:
    """Whether a file is named as RATIC's slices, segmentations or, at the top, tables."""
    return is_slice(path) or _MASK.fullmatch(path) is not None or path in _TABLES


def index(base: Path, table: IndexTable, advance: Advance) -> str:
    """Make each folder a series; the names of the folders are patient id and series id."""
    folder, series = "", -1
    for number, path in table.files():  # sorted: the files of a folder follow each other
        advance()
        if match := _SLICE.fullmatch(path):
            if match["folder"] != folder:
                folder = match["folder"]
                series = table.add_series("dicom", patient=match["patient"], uid=match["series"])
            table.add_slice(number, series)
        elif not _MASK.fullmatch(path):
            table.add_odd(OddFile(path, Reason.NOT_MEDICAL, "not an image of RATIC"))
    if series < 0:
        raise InputError(
            f"{base}: expected RATIC's train_images/<patient>/<series>/<instance>.dcm, found none; "
            "give the folder that holds train_images, or --layout dicom"
        )
    for number, path in table.files():
        if match := _MASK.fullmatch(path):
            table.add_masks_by_uid(match["series"], number, path, "nifti", "ratic")
    table.locate()
    return RATIC.name


RATIC = Layout(
    name="ratic",
    title="RATIC",
    index=index,
    signs=(is_marker, is_slice),
    top_files=(MARKER,),
    is_known=is_known,
    public_ids=True,
)
