"""RSNA RATIC: `train_images/<patient_id>/<series_id>/<instance>.dcm` beside its tables.

The folders give the series of each file, so 1.5 million files are indexed without reading a header.
This data set has no Modality attribute; none is needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from voco_data.cohort import OddFile
from voco_data.errors import InputError
from voco_data.layouts.base import Advance, Layout, is_hidden
from voco_data.reasons import Reason

if TYPE_CHECKING:
    from voco_data.layouts.table import IndexTable

SERIES_TABLE = "train_series_meta.csv"
_TABLES = frozenset(
    {
        SERIES_TABLE,
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


def is_series_table(path: str) -> bool:
    """Whether a file is the table of series, which no other archive has."""
    return path == SERIES_TABLE or path.endswith(f"/{SERIES_TABLE}")


def is_slice(path: str) -> bool:
    """Whether a path is that of a slice of RATIC."""
    return _SLICE.fullmatch(path) is not None and not is_hidden(path)


def _is_mask(path: str) -> bool:
    return _MASK.fullmatch(path) is not None and not is_hidden(path)


def is_own_file(path: str) -> bool:
    """Whether a path is that of a slice, a segmentation or, at the top, a table of RATIC."""
    return is_slice(path) or _is_mask(path) or path in _TABLES


def index(base: Path, table: IndexTable, advance: Advance) -> str:
    """Make each folder a series; the names of the folders are patient id and series id."""
    folder, series = "", -1
    for number, path in table.files():  # sorted: the files of a folder follow each other
        advance()
        if (match := _SLICE.fullmatch(path)) and not is_hidden(path):
            if match["folder"] != folder:
                folder = match["folder"]
                series = table.add_series("dicom", patient=match["patient"], uid=match["series"])
            table.add_slice(number, series)
        elif not _is_mask(path):
            table.add_odd_file(OddFile(path, Reason.NOT_MEDICAL, "not an image of RATIC"))
    if series < 0:
        raise InputError(
            f"{base}: expected RATIC's train_images/<patient>/<series>/<instance>.dcm, found none; "
            "give the folder that holds train_images, or --layout dicom"
        )
    for number, path in table.files():
        if (match := _MASK.fullmatch(path)) and not is_hidden(path):
            table.add_masks_by_uid(match["series"], number, path, "nifti", "ratic")
    table.set_file_ranges()
    return RATIC.name


RATIC = Layout(
    name="ratic",
    title="RATIC",
    index=index,
    signs=(is_series_table, is_slice),
    top_files=(SERIES_TABLE,),
    is_own_file=is_own_file,
    public_ids=True,
)
