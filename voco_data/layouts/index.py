"""From a folder or file to a cohort: recognise the layout, then index by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voco_data.cohort import Cohort
from voco_data.errors import InputError
from voco_data.layouts import flare, plain, ratic
from voco_data.layouts.walk import walk

LAYOUTS = ("auto", "ratic", "flare", "dicom", "nifti")


def index(
    source: Path,
    *,
    layout: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Cohort:
    """Index the archive at `source`, a folder or one file. Nothing is written.

    `auto` recognises RATIC and FLARE23 by their markers; any other tree may mix DICOM and NIfTI.
    Raises InputError if there is nothing to read, or not the layout that was asked for.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give the folder of the CT archive")
    base = source.parent if source.is_file() else source
    files = list(walk(source, include=include, exclude=exclude))
    if not files:
        filters = " that the filters let through" if include or exclude else ""
        raise InputError(f"{source}: holds no files{filters}; give the folder of the CT archive")
    if layout == "ratic" or (layout == "auto" and ratic.recognises(base, files)):
        return ratic.index(base, files)
    if layout == "flare" or (layout == "auto" and flare.recognises(files)):
        return flare.index(base, files)
    return plain.index(base, files, kinds={"dicom", "nifti"} if layout == "auto" else {layout})
