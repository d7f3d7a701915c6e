"""nnU-Net: `imagesTr/liver_001_0000.nii.gz` with a channel, `labelsTr/liver_001.nii.gz`.

`dataset.json` names the channels. Channels that it does not call CT are no CT.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from voco_data.errors import InputError
from voco_data.layouts.base import Advance, Layout, is_hidden

if TYPE_CHECKING:
    from voco_data.layouts.table import IndexTable

_IMAGE = re.compile(
    r"(?P<root>(?:.*/)?)images(?P<part>Tr|Ts|Te|Va|Val)/"
    r"(?P<case>[^/]+?)_(?P<channel>[0-9]{4})\.nii(?:\.gz)?"
)
_LABEL = re.compile(
    r"(?P<root>(?:.*/)?)labels(?P<part>Tr|Ts|Te|Va|Val)/(?P<case>[^/]+?)\.nii(?:\.gz)?"
)
MAX_TABLE_BYTES = 2**20
"""Largest `dataset.json` that is read; it may list all cases."""


def is_image(path: str) -> bool:
    """Whether a path is that of a channel of an image."""
    return _IMAGE.fullmatch(path) is not None and not is_hidden(path)


def is_own_file(path: str) -> bool:
    """Whether a path is that of a channel or a label map."""
    return is_image(path) or (_LABEL.fullmatch(path) is not None and not is_hidden(path))


def index(base: Path, table: IndexTable, advance: Advance) -> str:
    """Make each channel of CT a series; the name of the case is the patient id."""
    from voco_data.layouts.nifti_cases import NiftiCases  # here: it imports nibabel

    cases = NiftiCases(base, table)
    channels: dict[str, dict[int, str]] = {}
    for number, path in table.files():
        advance()
        if is_hidden(path):
            cases.add_other(path, NNUNET.title)
        elif match := _IMAGE.fullmatch(path):
            root = match["root"]
            if root not in channels:
                channels[root] = _read_channels(base / root / "dataset.json")
            if _is_ct(channels[root].get(int(match["channel"]), "CT")):
                cases.add_image(number, path, root=root, case=match["case"])
            else:
                cases.add_other_channel(path)
        elif match := _LABEL.fullmatch(path):
            cases.add_mask(number, path, root=match["root"], case=match["case"])
        else:
            cases.add_other(path, NNUNET.title)
    if not cases.n_images:
        raise InputError(
            f"{base}: expected imagesTr/<case>_0000.nii.gz of CT, found none; "
            "give the folder that holds imagesTr, or --layout nifti"
        )
    cases.finish()
    return NNUNET.name


def _is_ct(name: str) -> bool:
    """Whether a channel is CT by its name, such as `CT` and `CT_portal`."""
    return "CT" in re.findall("[A-Z]+", name.upper())


def _read_channels(path: Path) -> dict[int, str]:
    """Names of the channels by number; empty if `dataset.json` is missing or names none."""
    try:
        with path.open("rb") as file:
            table = json.loads(file.read(MAX_TABLE_BYTES + 1)[:MAX_TABLE_BYTES])
        names = table.get("channel_names") or table.get("modality") or {}
        return {int(number): str(name) for number, name in names.items()}
    except (OSError, ValueError, AttributeError, RecursionError):  # not a table of channels
        return {}


NNUNET = Layout(
    name="nnunet",
    title="nnU-Net",
    index=index,
    signs=(is_image,),
    is_own_file=is_own_file,
)
