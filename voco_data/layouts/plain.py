"""Any tree of DICOM and NIfTI. DICOM slices form series by UIDs and geometry, never by names."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from voco_data.cohort import OddFile
from voco_data.dicom import (
    ScannedHeader,
    StackKey,
    end_frames,
    find_slice_ids,
    header_scanner,
    is_dicomdir,
    make_slice_times,
    make_stack_key,
    may_be_dicom,
    parse_frames,
    read_dataset,
    segmentation_reference,
)
from voco_data.errors import SeriesRefused
from voco_data.layouts.base import Advance, is_companion, is_hidden
from voco_data.layouts.faulty_slices import (
    EMPTY,
    FAULTS,
    NOT_DICOM,
    dicom_suffix,
    name_shape,
)
from voco_data.layouts.mask_files import MaskMatcher, is_nrrd, mask_kind
from voco_data.layouts.nifti_cases import is_empty, nifti_stem
from voco_data.layouts.nifti_patients import name_patients
from voco_data.layouts.stacks import StackGrouper
from voco_data.layouts.table import IndexTable
from voco_data.limits import deadline
from voco_data.nifti import count_slices, is_label_map, is_nifti
from voco_data.reasons import Reason

_SIGNATURE_BYTES = 1024
"""First bytes of a file that are read to recognise DICOM."""


def index(base: Path, table: IndexTable, advance: Advance, *, kinds: Collection[str]) -> str:
    """Read every DICOM header, group slices into series, and make each NIfTI file a series.

    `kinds` are `dicom`, `nifti` or both; a file of another kind becomes an odd file. Returns the
    kinds of the images in the archive: `dicom`, `nifti` or `dicom+nifti`.
    """
    stacks, masks = StackGrouper(table, base), MaskMatcher(table)
    kinds_found = set()
    for number, path in table.files():
        advance()
        try:
            if is_hidden(path):
                raise SeriesRefused(
                    Reason.NOT_MEDICAL, "in a hidden folder, or a resource fork of macOS"
                )
            if (kind := mask_kind(path)) and not _holds_image(base / path, kind):
                masks.add(number, path, kind)
            elif is_nifti(Path(path)):
                if "nifti" not in kinds:
                    raise SeriesRefused(Reason.NOT_CT, "NIfTI, and DICOM was asked for")
                _add_nifti(base, table, number, path)
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
    name_patients(table.connection, base)
    table.tell_sources_apart()
    masks.offer_to_series()
    return "+".join(sorted(kinds_found or kinds))


def _holds_image(path: Path, kind: str) -> bool:
    """Whether a file that is named as a mask holds an image. NRRD is never read as an image."""
    return kind == "nifti" and is_label_map(path) is False


def _add_nifti(base: Path, table: IndexTable, number: int, path: str) -> None:
    if is_empty(base / path):
        raise SeriesRefused(Reason.NOT_MEDICAL, EMPTY)
    stem = nifti_stem(path)
    series = table.add_series("nifti", patient=stem.rpartition("/")[2], uid=stem)
    table.add_slice(number, series, frames=count_slices(base / path))


HEADER_LIMIT_S = 5.0
"""Time limit for a header. Real ones take a millisecond, or a second with a thousand frames."""


def _add_dicom(
    base: Path, path: str, number: int, stacks: StackGrouper, masks: MaskMatcher, *, is_wanted: bool
) -> bool:
    """Add a slice of CT (returns True) or a segmentation (returns False). Raises SeriesRefused."""
    full, folder = base / path, path.rpartition("/")[0]
    scanned = _scanned_header(full) if is_wanted else None
    if scanned is not None:
        times = header_scanner().last_times()
        shared = scanned.shared
        stacks.add(number, folder, scanned.header, shared.stack_key, times, shared=shared)
        return True
    dataset = None
    faulty_key: StackKey | None = None
    try:
        _check_signature(full, path, is_wanted=is_wanted)
        with deadline(HEADER_LIMIT_S):
            # pydicom converts values at the first access, so the limit covers all accesses.
            dataset = read_dataset(full, pixels=False)
            reference = segmentation_reference(dataset)
            if reference is None:
                header, end_mm = end_frames(parse_frames(dataset, full))
                key, times = make_stack_key(dataset), make_slice_times(dataset)
    except SeriesRefused as error:
        refusal = error
        if refusal.reason == Reason.NOT_MEDICAL and _may_be_slice(path):
            detail = "named as DICOM, and holds no image" if dicom_suffix(path) else NOT_DICOM
            refusal = SeriesRefused(Reason.UNREADABLE, detail)
        if not is_wanted or refusal.reason not in FAULTS:
            raise
        with deadline(HEADER_LIMIT_S):
            ids = None if dataset is None else find_slice_ids(dataset)
            if dataset is not None and ids is not None:
                faulty_key = make_stack_key(dataset)
        if dataset is not None and ids is None:  # another object than CT
            raise
        stacks.add_faulty(number, path, refusal, ids, faulty_key)
        return ids is not None
    if reference is not None:
        masks.add_segmentation(number, path, reference)
        return False
    stacks.add(number, folder, header, key, times, end_mm=end_mm)
    return True


def _scanned_header(path: Path) -> ScannedHeader | None:
    """The header of a plain slice; None if pydicom must read the file, or after an OSError."""
    try:
        return header_scanner().read_header(path)
    except OSError:
        return None


def _check_signature(path: Path, name: str, *, is_wanted: bool) -> None:
    """Raise SeriesRefused for a file whose first bytes are not those of a DICOM image.

    `name` is its path in the archive. A file that may be a slice by its name and is none has a
    fault (UNREADABLE): its bytes may be lost. One that does not open is an IO_ERROR.
    """
    try:
        # O_NONBLOCK: opening a pipe that replaced the file must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SeriesRefused(Reason.UNREADABLE, "is no regular file any more")
            start = file.read(_SIGNATURE_BYTES)
    except OSError as error:
        raise SeriesRefused(Reason.IO_ERROR, f"cannot be opened ({error.strerror})") from error
    if not may_be_dicom(start):
        if dicom_suffix(name):
            detail = "named as DICOM, and its bytes are not" if start else EMPTY
            raise SeriesRefused(Reason.UNREADABLE, detail)
        is_candidate = is_wanted and _may_be_slice(name)
        reason = Reason.UNREADABLE if is_candidate else Reason.NOT_MEDICAL
        raise SeriesRefused(reason, NOT_DICOM if start else EMPTY)
    if is_dicomdir(start):
        raise SeriesRefused(Reason.NOT_AN_IMAGE, "a DICOMDIR; its files are indexed by themselves")
    if not is_wanted:
        raise SeriesRefused(Reason.NOT_CT, "DICOM, and NIfTI was asked for")


def _may_be_slice(path: str) -> bool:
    """Whether a file is named as slices are: with a suffix of DICOM, or with a number."""
    return not is_companion(path) and bool(name_shape(path.rpartition("/")[2]))
