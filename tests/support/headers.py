"""Tiny DICOM files: a header without pixels, quickly written, for tests of the index."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from voco_data.cohort import OddFile, SeriesEntry
from voco_data.layouts.index import index_archive


def write_header(path: Path, **tags: Any) -> None:
    """A slice of patient p, study 1.1, series 1.2 at z = 0, with `tags` set; None removes one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.3"
    defaults = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "PatientID": "p",
        "StudyInstanceUID": "1.1",
        "SeriesInstanceUID": "1.2",
        "Rows": 16,
        "Columns": 16,
        "PixelSpacing": [1, 1],
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    for keyword, value in (defaults | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_multi_frame(path: Path, depths: Sequence[float], **tags: Any) -> None:
    """An object with a frame at each z, mm."""
    groups = []
    for depth in depths:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, depth]
        group.PlanePositionSequence = [position]
        groups.append(group)
    frames = {"NumberOfFrames": len(groups), "PerFrameFunctionalGroupsSequence": groups}
    write_header(path, **frames, **tags)


def write_stack(folder: Path, count: int, *, start: int = 0, prefix: str = "", **tags: Any) -> None:
    """`count` slices, 5 mm apart, the first at z = 5 * start."""
    for k in range(start, start + count):
        position = tags.get("ImagePositionPatient", [0, 0, 5.0 * k])
        write_header(folder / f"{prefix}{k:03d}", **{"ImagePositionPatient": position} | tags)


def indexed(source: Path, **options: Any) -> tuple[list[SeriesEntry], list[OddFile]]:
    """All series with their files, and all odd files."""
    with index_archive(source, **options) as cohort:
        return [cohort.entry(head.number) for head in cohort.heads()], list(cohort.odd_files())


def reasons(odd: list[OddFile]) -> dict[str, str]:
    """Path to reason code."""
    assert len({file.path for file in odd}) == len(odd)
    return {file.path: file.reason.value for file in odd}


def touch(*paths: Path) -> None:
    """Files that nobody looks into, in folders of their own."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b""))
