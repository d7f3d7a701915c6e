"""RSNA RATIC: `train_images/<patient_id>/<series_id>/<instance>.dcm` beside its tables.

The folders say which file belongs to which series, so no header is read to index 1.5 million
files. The Modality tag is stripped from this data set and never asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from voco_data.cohort import ArchiveFile, Cohort, SeriesEntry, stat_digest
from voco_data.errors import InputError

MARKER = "train_series_meta.csv"
_SLICE = re.compile(
    r"(?P<folder>(?:.*/)?(?:train|test)_images/(?P<patient>[0-9]+)/(?P<series>[0-9]+))/[0-9]+\.dcm"
)


def recognises(base: Path, files: Sequence[ArchiveFile]) -> bool:
    """Whether this is a RATIC tree: its table beside folders of slices."""
    paths = (file.path for file in files)
    table = (base / MARKER).is_file() or any(
        file.path == MARKER or file.path.endswith(f"/{MARKER}") for file in files
    )
    return table and any(_SLICE.fullmatch(path) for path in paths)


def index(base: Path, files: Sequence[ArchiveFile]) -> Cohort:
    """A series a folder; patient and series id are the folders' names, and are public."""
    slices = [(match, file) for file in files if (match := _SLICE.fullmatch(file.path))]
    if not slices:
        raise InputError(
            f"{base}: expected RATIC's train_images/<patient>/<series>/<instance>.dcm, found none; "
            "give the folder that holds train_images, or --layout dicom"
        )
    slices.sort(key=lambda item: (item[0]["folder"], item[1].path))
    series = [
        _entry(folder, [(match, file) for match, file in group])
        for folder, group in groupby(slices, key=lambda item: item[0]["folder"])
    ]
    return Cohort(base, "ratic", True, tuple(series), ())


def _entry(folder: str, group: Sequence[tuple[re.Match[str], ArchiveFile]]) -> SeriesEntry:
    match = group[0][0]
    files = [file for _, file in group]
    return SeriesEntry(
        kind="dicom",
        patient_id=match["patient"],
        study_uid="",
        series_uid=match["series"],
        source=folder,
        files=tuple(file.path for file in files),
        stat_digest=stat_digest(files),
    )
