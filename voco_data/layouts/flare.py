"""FLARE23: `<folder>/FLARE23_0001_0000.nii.gz`, in any nesting; label maps have no `_0000`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from voco_data.cohort import ArchiveFile, Cohort, OddFile, SeriesEntry, stat_digest
from voco_data.errors import InputError
from voco_data.reasons import Reason

_IMAGE = re.compile(r"(?:.*/)?(?P<case>FLARE[A-Za-z0-9]*(?:_[A-Za-z0-9]+)+?)_0000\.nii(?:\.gz)?")
_LABEL = re.compile(r"(?:.*/)?FLARE[A-Za-z0-9]*(?:_[A-Za-z0-9]+)+\.nii(?:\.gz)?")


def recognises(files: Sequence[ArchiveFile]) -> bool:
    """Whether any file is named as a FLARE image."""
    return any(_IMAGE.fullmatch(file.path) for file in files)


def index(base: Path, files: Sequence[ArchiveFile]) -> Cohort:
    """A series an image file; the case name is patient and series id, and is public."""
    series: list[SeriesEntry] = []
    odd: list[OddFile] = []
    for file in files:
        if match := _IMAGE.fullmatch(file.path):
            series.append(
                SeriesEntry(
                    kind="nifti",
                    patient_id=match["case"],
                    study_uid="",
                    series_uid=match["case"],
                    source=file.path,
                    files=(file.path,),
                    stat_digest=stat_digest([file]),
                )
            )
        elif _LABEL.fullmatch(file.path):
            odd.append(OddFile(file.path, Reason.NOT_CT, "a label map of FLARE23"))
        else:
            odd.append(OddFile(file.path, Reason.NOT_MEDICAL, "not an image of FLARE23"))
    if not series:
        raise InputError(
            f"{base}: expected FLARE23's images named FLARE23_0001_0000.nii.gz, found none; "
            "give the folder that holds imagesTr2200, or --layout nifti"
        )
    return Cohort(base, "flare", True, tuple(series), tuple(odd))
