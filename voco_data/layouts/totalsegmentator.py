"""TotalSegmentator: `s0001/ct.nii.gz`, and a file for each organ in `s0001/segmentations/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from voco_data.errors import InputError
from voco_data.layouts.base import Advance, Layout, is_hidden

if TYPE_CHECKING:
    from voco_data.layouts.table import IndexTable

_IMAGE = re.compile(r"(?P<root>(?:.*/)?)(?P<case>[^/]+)/ct\.nii(?:\.gz)?")
_MASK = re.compile(
    r"(?P<root>(?:.*/)?)(?P<case>[^/]+)/segmentations/(?P<organ>[^/]+)\.nii(?:\.gz)?"
)


def is_image(path: str) -> bool:
    """Whether a path is that of an image."""
    return _IMAGE.fullmatch(path) is not None and not is_hidden(path)


def is_mask(path: str) -> bool:
    """Whether a path is that of the mask of a structure."""
    return _MASK.fullmatch(path) is not None and not is_hidden(path)


def is_own_file(path: str) -> bool:
    """Whether a path is that of an image or a mask."""
    return is_image(path) or is_mask(path)


def index(base: Path, table: IndexTable, advance: Advance) -> str:
    """Make each image a series; the name of its folder is the patient id."""
    from voco_data.layouts.nifti_cases import NiftiCases  # here: it imports nibabel
    from voco_data.masks import organ_of_file

    cases = NiftiCases(base, table)
    for number, path in table.files():
        advance()
        if is_hidden(path):
            cases.add_other(path, TOTALSEGMENTATOR.title)
        elif match := _IMAGE.fullmatch(path):
            cases.add_image(number, path, root=match["root"], case=match["case"])
        elif match := _MASK.fullmatch(path):
            if organ_of_file(path):
                cases.add_mask(
                    number, path, root=match["root"], case=match["case"], labels="file_name"
                )
            else:
                cases.add_unused_mask(number, path, root=match["root"], case=match["case"])
        else:
            cases.add_other(path, TOTALSEGMENTATOR.title)
    if not cases.n_images:
        raise InputError(
            f"{base}: expected <case>/ct.nii.gz, found none; "
            "give the folder that holds the cases, or --layout nifti"
        )
    cases.finish()
    return TOTALSEGMENTATOR.name


TOTALSEGMENTATOR = Layout(
    name="totalsegmentator",
    title="TotalSegmentator",
    index=index,
    signs=(is_image, is_mask),
    is_own_file=is_own_file,
)
