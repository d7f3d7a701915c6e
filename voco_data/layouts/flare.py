"""FLARE23: `<folder>/FLARE23_0001_0000.nii.gz`, in any nesting; label maps have no `_0000`."""

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

_IMAGE = re.compile(r"(?:.*/)?(?P<case>FLARE[A-Za-z0-9]*(?:_[A-Za-z0-9]+)+?)_0000\.nii(?:\.gz)?")
_LABEL = re.compile(r"(?:.*/)?(?P<case>FLARE[A-Za-z0-9]*(?:_[A-Za-z0-9]+)+)\.nii(?:\.gz)?")


def is_image(path: str) -> bool:
    """Whether a file is named as a FLARE image."""
    return _IMAGE.fullmatch(path) is not None and not is_hidden(path)


def is_own_file(path: str) -> bool:
    """Whether a file is named as FLARE's images or label maps."""
    return _LABEL.fullmatch(path) is not None and not is_hidden(path)


def index(base: Path, table: IndexTable, advance: Advance) -> str:
    """Make each image file a series; its case name is both patient id and series id.

    A label map is the mask of the images of its case, in any folder.
    """
    from voco_data.nifti import count_slices  # here: it imports nibabel

    has_images = False
    for number, path in table.files():
        advance()
        if is_image(path) and (match := _IMAGE.fullmatch(path)):
            case = match["case"]
            series = table.add_series("nifti", patient=case, uid=case)
            table.add_slice(number, series, frames=count_slices(base / path))
            has_images = True
        elif not is_own_file(path):
            table.add_odd_file(OddFile(path, Reason.NOT_MEDICAL, "not an image of FLARE23"))
    if not has_images:
        raise InputError(
            f"{base}: expected FLARE23's images named FLARE23_0001_0000.nii.gz, found none; "
            "give the folder that holds imagesTr2200, or --layout nifti"
        )
    for number, path in table.files():
        if is_own_file(path) and not is_image(path) and (match := _LABEL.fullmatch(path)):
            table.add_masks_by_uid(match["case"], number, path, "nifti", "flare")
    table.set_file_ranges()
    return FLARE.name


FLARE = Layout(
    name="flare",
    title="FLARE23",
    index=index,
    signs=(is_image,),
    is_own_file=is_own_file,
    public_ids=True,
)
