"""Medical Segmentation Decathlon and AMOS: `imagesTr/liver_1.nii.gz`, `labelsTr/liver_1.nii.gz`.

Image and label map have the same name. `imagesTs` and `imagesVa` may have no label maps.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from voco_data.errors import InputError
from voco_data.layouts.base import Advance, Layout, is_hidden

if TYPE_CHECKING:
    from voco_data.layouts.table import IndexTable

_FILE = re.compile(
    r"(?P<root>(?:.*/)?)(?P<kind>images|labels)(?P<part>Tr|Ts|Te|Va|Val)/"
    r"(?P<case>[^/]+?)\.nii(?:\.gz)?"
)


def is_own_file(path: str) -> bool:
    """Whether a path is that of an image or a label map."""
    return _FILE.fullmatch(path) is not None and not is_hidden(path)


def is_image(path: str) -> bool:
    """Whether a path is that of an image."""
    match = _FILE.fullmatch(path)
    return match is not None and match["kind"] == "images" and not is_hidden(path)


def index(base: Path, table: IndexTable, advance: Advance) -> str:
    """Make each image a series; the name of its file is the patient id."""
    from voco_data.layouts.nifti_cases import NiftiCases  # here: it imports nibabel

    cases = NiftiCases(base, table)
    for number, path in table.files():
        advance()
        match = _FILE.fullmatch(path)
        if match is None or is_hidden(path):
            cases.add_other(path, DECATHLON.title)
        elif match["kind"] == "images":
            cases.add_image(number, path, root=match["root"], case=match["case"])
        else:
            image = f"{match['root']}images{match['part']}/{match['case']}"
            cases.add_mask(number, path, root=match["root"], case=match["case"], image=image)
    if not cases.n_images:
        raise InputError(
            f"{base}: expected imagesTr/<case>.nii.gz, found none; "
            "give the folder that holds imagesTr, or --layout nifti"
        )
    cases.finish()
    return DECATHLON.name


DECATHLON = Layout(
    name="decathlon",
    title="the Decathlon",
    index=index,
    signs=(is_image,),
    is_own_file=is_own_file,
)
