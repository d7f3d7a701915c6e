"""Which study and frame of reference the series of a store belong to, from an archive's headers.

Records do not hold them. Positions of two images can be compared only within one frame of
reference (PS3.3 C.7.4.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voco_data.dicom import FrameOfReference, read_frame_of_reference
from voco_data.errors import SeriesRefused
from voco_data.ingest import SourceArchive
from voco_data.store import SeriesIdentity, Store

NOT_IN_ARCHIVE = "not in the archive"
NO_FRAME = "no frame of reference"


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """A series of a store whose positions can be compared with those of other images."""

    line: Mapping[str, Any]
    """Its line of the catalogue."""
    frame: FrameOfReference


def find_stored_series(
    archive: SourceArchive, store: Store
) -> tuple[list[StoredSeries], Counter[str]]:
    """The series of `store` whose files are in `archive`, by row, and why others are left out."""
    lines = {
        SeriesIdentity(line["patient_id"], line["study_uid"], line["series_uid"]): line
        for line in _lines(store)
    }
    left_out: Counter[str] = Counter()
    found = {}
    for series in archive.series():
        line = lines.pop(series.identity, None)
        if line is None:
            continue
        frame = None
        if series.kind == "dicom":
            try:
                frame = read_frame_of_reference(series.files[0])
            except SeriesRefused:
                frame = None
        if frame is None or not frame.study_uid or not frame.frame_uid:
            left_out[NO_FRAME] += 1
        else:
            found[line["row"]] = StoredSeries(line, frame)
    if lines:
        left_out[NOT_IN_ARCHIVE] = len(lines)
    return [found[row] for row in sorted(found)], left_out


def _lines(store: Store) -> list[dict[str, Any]]:
    table = store.catalogue
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]
