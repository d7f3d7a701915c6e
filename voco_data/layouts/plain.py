"""Any tree of DICOM and NIfTI. DICOM slices form series by UIDs and geometry, never by names."""

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
    may_be_dicom,
    parse_header,
    read_dataset,
    segmentation_reference,
)
from voco_data.errors import SeriesRefused
from voco_data.layouts.base import Advance
from voco_data.layouts.mask_files import MaskMatcher, is_nrrd, mask_kind
from voco_data.layouts.stacks import StackGrouper
from voco_data.layouts.table import IndexTable, path_text
from voco_data.limits import deadline
from voco_data.nifti import is_nifti
from voco_data.reasons import Reason
from voco_data.storage import scratch_db

_SIGNATURE_BYTES = 1024
"""First bytes of a file that are read to recognise DICOM."""


def index(base: Path, table: IndexTable, advance: Advance, *, kinds: Collection[str]) -> str:
    """Read every DICOM header, group slices into series, and make each NIfTI file a series.

    `kinds` are `dicom`, `nifti` or both; a file of another kind becomes an odd file. Returns the
    kinds of the images in the archive: `dicom`, `nifti` or `dicom+nifti`.
    """
    stacks, masks = StackGrouper(table), MaskMatcher(table)
    kinds_found = set()
    for number, path in table.files():
        advance()
        try:
            if kind := mask_kind(path):
                masks.add(number, path, kind)
            elif is_nifti(Path(path)):
                if "nifti" not in kinds:
                    raise SeriesRefused(Reason.NOT_CT, "NIfTI, and DICOM was asked for")
                _add_nifti(table, number, path)
                kinds_found.add("nifti")
            elif is_nrrd(path):
                raise SeriesRefused(Reason.NOT_MEDICAL, "NRRD is read as a mask only")
            elif _add_dicom(base, path, number, stacks, masks, is_wanted="dicom" in kinds):
                kinds_found.add("dicom")
        except SeriesRefused as refusal:
            table.add_odd_file(OddFile(path, refusal.reason, refusal.detail))
    stacks.form_series()
    table.set_file_ranges()
    stacks.name_series()
    _name_nifti(table)
    masks.offer_to_series()
    return "+".join(sorted(kinds_found or kinds))


def _add_nifti(table: IndexTable, number: int, path: str) -> None:
    stem = re.sub(r"\.nii(\.gz)?$", "", path, flags=re.IGNORECASE)
    series = table.add_series("nifti", patient=stem.rpartition("/")[2], uid=stem)
    table.add_slice(number, series)


def _name_nifti(table: IndexTable) -> None:
    """Use folders as patient ids if a file name occurs in several folders (`s0001/ct.nii.gz`)."""
    sql = table.connection
    if scratch_db.exists(
        sql, "FROM series WHERE kind = 'nifti' GROUP BY patient HAVING COUNT(DISTINCT folder) > 1"
    ):
        sql.create_function("path_text", 1, path_text, deterministic=True)
        sql.execute(
            "UPDATE series SET patient = path_text(folder) WHERE kind = 'nifti' AND folder != x''"
        )


HEADER_LIMIT_S = 5.0
"""Time limit for a header. Real ones take a millisecond, or a second with a thousand frames."""


def _add_dicom(
    base: Path, path: str, number: int, stacks: StackGrouper, masks: MaskMatcher, *, is_wanted: bool
) -> bool:
    """Add a slice of CT (returns True) or a segmentation (returns False). Raises SeriesRefused."""
    full = base / path
    scanned = _scanned_header(full) if is_wanted else None
    if scanned is not None:
        stacks.add(number, path.rpartition("/")[0], scanned.header, scanned.shared.stack_key)
        return True
    try:
        _check_signature(full, is_wanted=is_wanted)
        with deadline(HEADER_LIMIT_S):
            # pydicom converts values at the first access, so the limit covers all accesses.
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
    """The header of a plain slice; None if pydicom must read the file, or after an OSError."""
    try:
        return header_scanner().read_header(path)
    except OSError:
        return None


def _named_as_dicom(path: str) -> bool:
    """Whether a file has a suffix of DICOM. `._` files of macOS have it, and are not DICOM."""
    name = path.rpartition("/")[2].lower()
    return name.endswith((".dcm", ".dicom", ".ima")) and not name.startswith("._")


def _check_signature(path: Path, *, is_wanted: bool) -> None:
    """Raise SeriesRefused for a file whose first bytes are not those of a DICOM image."""
    try:
        # O_NONBLOCK: opening a pipe that replaced the file must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SeriesRefused(Reason.UNREADABLE, "is no regular file any more")
            start = file.read(_SIGNATURE_BYTES)
    except OSError as error:
        raise SeriesRefused(Reason.UNREADABLE, f"cannot be opened ({error.strerror})") from error
    if not may_be_dicom(start):
        raise SeriesRefused(Reason.NOT_MEDICAL, "neither DICOM nor NIfTI")
    if is_dicomdir(start):
        raise SeriesRefused(Reason.NOT_AN_IMAGE, "a DICOMDIR; its files are indexed by themselves")
    if not is_wanted:
        raise SeriesRefused(Reason.NOT_CT, "DICOM, and NIfTI was asked for")
