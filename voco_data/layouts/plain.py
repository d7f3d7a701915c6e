"""Any tree of DICOM and NIfTI: DICOM series are formed by UIDs and geometry, never by names."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from voco_data.cohort import OddFile
from voco_data.dicom import (
    ScannedHeader,
    header_scanner,
    is_dicomdir,
    make_stack_key,
    parse_header,
    read_dataset,
    segmentation_reference,
)
from voco_data.errors import SeriesRefused
from voco_data.layouts.base import Advance
from voco_data.layouts.mask_files import Masks, is_nrrd, mask_kind
from voco_data.layouts.stacks import Stacks
from voco_data.layouts.table import IndexTable, as_text
from voco_data.limits import deadline
from voco_data.nifti import is_nifti
from voco_data.reasons import Reason
from voco_data.storage import scratch_db

_SNIFFED_BYTES = 1024


def index(base: Path, table: IndexTable, advance: Advance, *, kinds: Collection[str]) -> str:
    """Read every DICOM header, group slices into series, and make each NIfTI file a series.

    `kinds` says which of `dicom` and `nifti` to read; a file of the other kind becomes an odd
    file. Returns `dicom`, `nifti` or `dicom+nifti`, as they were found.
    """
    stacks, masks = Stacks(table), Masks(table)
    found = set()
    for number, path in table.files():
        advance()
        try:
            if kind := mask_kind(path):
                masks.add(number, path, kind)
            elif is_nifti(Path(path)):
                if "nifti" not in kinds:
                    raise SeriesRefused(Reason.NOT_CT, "NIfTI, and DICOM was asked for")
                _add_nifti(table, number, path)
                found.add("nifti")
            elif is_nrrd(path):
                raise SeriesRefused(Reason.NOT_MEDICAL, "NRRD is read as a mask only")
            elif _add_dicom(base, path, number, stacks, masks, is_wanted="dicom" in kinds):
                found.add("dicom")
        except SeriesRefused as refusal:
            table.add_odd(OddFile(path, refusal.reason, refusal.detail))
    stacks.form()
    table.locate()
    stacks.name()
    _name_nifti(table)
    masks.offer()
    return "+".join(sorted(found or kinds))


def _add_nifti(table: IndexTable, number: int, path: str) -> None:
    stem = re.sub(r"\.nii(\.gz)?$", "", path, flags=re.IGNORECASE)
    series = table.add_series("nifti", patient=stem.rpartition("/")[2], uid=stem)
    table.add_slice(number, series)


def _name_nifti(table: IndexTable) -> None:
    """If one file name occurs in several folders (`s0001/ct.nii.gz`), name patients by folder."""
    sql = table.connection
    if scratch_db.exists(
        sql, "FROM series WHERE kind = 'nifti' GROUP BY patient HAVING COUNT(DISTINCT folder) > 1"
    ):
        sql.create_function("as_text", 1, as_text, deterministic=True)
        sql.execute(
            "UPDATE series SET patient = as_text(folder) WHERE kind = 'nifti' AND folder != x''"
        )


HEADER_LIMIT_S = 5.0
"""Time for one header. Real ones take a millisecond, those of a thousand frames a second."""


def _add_dicom(
    base: Path, path: str, number: int, stacks: Stacks, masks: Masks, *, is_wanted: bool
) -> bool:
    """Add a slice of CT (returns True) or a segmentation. Raises SeriesRefused for all else."""
    full = base / path
    scanned = _scanned_header(full) if is_wanted else None
    if scanned is not None:
        stacks.add(number, path.rpartition("/")[0], scanned.header, scanned.shared.stack_key)
        return True
    try:
        _check_signature(full, is_wanted=is_wanted)
        with deadline(HEADER_LIMIT_S):
            # pydicom converts values when they are read, so all that reads them is under the limit.
            dataset = read_dataset(full, pixels=False)
            reference = segmentation_reference(dataset)
            if reference is None:
                header, key = parse_header(dataset, full), make_stack_key(dataset)
    except SeriesRefused as refusal:
        if refusal.reason == Reason.NOT_MEDICAL and _named_as_dicom(path):
            raise SeriesRefused(
                Reason.UNREADABLE, "named as DICOM, and its bytes are not"
            ) from refusal
        raise
    if reference is not None:
        masks.add_segmentation(number, path, reference)
        return False
    stacks.add(number, path.rpartition("/")[0], header, key)
    return True


def _scanned_header(path: Path) -> ScannedHeader | None:
    """The header of a plain slice; None if pydicom must read the file, also after an error."""
    try:
        return header_scanner().read_header(path)
    except OSError:
        return None


def _named_as_dicom(path: str) -> bool:
    """Whether a file is named as DICOM. macOS leaves `._` files beside the real ones."""
    name = path.rpartition("/")[2].lower()
    return name.endswith((".dcm", ".dicom", ".ima")) and not name.startswith("._")


def _check_signature(path: Path, *, is_wanted: bool) -> None:
    """Raise SeriesRefused for a file that is no DICOM image by its first bytes."""
    try:
        # A pipe that took the place of the regular file must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SeriesRefused(Reason.UNREADABLE, "is no regular file any more")
            start = file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise SeriesRefused(Reason.UNREADABLE, f"cannot be opened ({error.strerror})") from error
    # Without a preamble, DICOM opens with group 0002 or 0008 in either byte order.
    bare = start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
    if start[128:132] != b"DICM" and not bare:
        raise SeriesRefused(Reason.NOT_MEDICAL, "neither DICOM nor NIfTI")
    if is_dicomdir(start):
        raise SeriesRefused(Reason.NOT_AN_IMAGE, "a DICOMDIR; its files are indexed by themselves")
    if not is_wanted:
        raise SeriesRefused(Reason.NOT_CT, "DICOM, and NIfTI was asked for")
