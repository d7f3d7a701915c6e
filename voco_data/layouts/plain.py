"""Any tree of DICOM and NIfTI: series by their UIDs and, where those are empty, by geometry."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from voco_data.cohort import ArchiveFile, Cohort, OddFile, SeriesEntry, stat_digest
from voco_data.dicom.header import Header, parse_header, read_dataset
from voco_data.errors import SeriesRefused
from voco_data.nifti import is_nifti
from voco_data.reasons import Reason

_Key = tuple[str, ...]


def index(base: Path, files: Sequence[ArchiveFile], *, kinds: Collection[str]) -> Cohort:
    """Read every DICOM header, group slices into series, and take each NIfTI as a series.

    `kinds` are those of `dicom` and `nifti` that are wanted. Ids here may be a person's: they
    are not public.
    """
    groups: dict[_Key, list[tuple[Header, ArchiveFile]]] = defaultdict(list)
    series: list[SeriesEntry] = []
    odd: list[OddFile] = []
    for file in files:
        path = base / file.path
        if is_nifti(path):
            if "nifti" in kinds:
                series.append(_nifti_entry(file))
            else:
                odd.append(OddFile(file.path, Reason.NOT_CT, "NIfTI, and DICOM was asked for"))
            continue
        try:
            header = _sniff(path, wanted="dicom" in kinds)
        except SeriesRefused as refusal:
            odd.append(OddFile(file.path, refusal.reason, refusal.detail))
            continue
        groups[_group_key(header, file)].append((header, file))
    series += [_dicom_entry(group) for group in groups.values()]
    series.sort(key=lambda entry: (entry.patient_id, entry.series_uid, entry.source))
    layout = "+".join(sorted({entry.kind for entry in series})) or "+".join(sorted(kinds))
    return Cohort(base, layout, False, tuple(series), tuple(odd))


def _sniff(path: Path, *, wanted: bool) -> Header:
    """The header of a CT slice. Raises SeriesRefused for anything else."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise SeriesRefused(Reason.UNREADABLE, f"cannot be opened ({error.strerror})") from error
    # Without a preamble, DICOM opens with group 0002 or 0008 in either byte order.
    bare = start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
    if start[128:] != b"DICM" and not bare:
        raise SeriesRefused(Reason.NOT_MEDICAL, "neither DICOM nor NIfTI")
    if not wanted:
        raise SeriesRefused(Reason.NOT_CT, "DICOM, and NIfTI was asked for")
    return parse_header(read_dataset(path, pixels=False), path)


def _group_key(header: Header, file: ArchiveFile) -> _Key:
    """Study and series UID; where the series UID is empty, folder and geometry stand in."""
    if header.series_uid:
        return (header.study_uid, header.series_uid)
    shape = f"{header.rows}x{header.columns}"
    turn = " ".join(f"{value:.2f}" for value in header.along_row + header.along_column)
    return (os.path.dirname(file.path), shape, turn)  # noqa: PTH120  relative text, not a Path


def _dicom_entry(group: Sequence[tuple[Header, ArchiveFile]]) -> SeriesEntry:
    header = group[0][0]
    files = sorted((file for _, file in group), key=lambda file: file.path)
    folder = os.path.commonpath([str(PurePosixPath(file.path).parent) for file in files])
    series_uid = header.series_uid or f"{folder}/{files[0].path}"
    return SeriesEntry(
        kind="dicom",
        # An anonymiser that emptied PatientID must not make one patient of everybody.
        patient_id=header.patient_id or header.study_uid or folder,
        study_uid=header.study_uid,
        series_uid=series_uid,
        source=folder,
        files=tuple(file.path for file in files),
        stat_digest=stat_digest(files),
    )


def _nifti_entry(file: ArchiveFile) -> SeriesEntry:
    stem = file.path.removesuffix(".gz").removesuffix(".nii")
    return SeriesEntry(
        kind="nifti",
        patient_id=PurePosixPath(stem).name,
        study_uid="",
        series_uid=stem,
        source=file.path,
        files=(file.path,),
        stat_digest=stat_digest([file]),
    )
