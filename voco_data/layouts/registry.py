"""All layouts, in the order in which they are tried.

A new layout is one new file that defines a `Layout`, and one line in LAYOUTS.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voco_data.errors import InputError
from voco_data.layouts.base import Advance, IndexFunction, Layout
from voco_data.layouts.decathlon import DECATHLON
from voco_data.layouts.flare import FLARE
from voco_data.layouts.nnunet import NNUNET
from voco_data.layouts.ratic import RATIC
from voco_data.layouts.totalsegmentator import TOTALSEGMENTATOR

if TYPE_CHECKING:
    from voco_data.layouts.table import IndexTable

AUTO = "auto"
"""The choice to recognise the layout."""


def _index_plain(*kinds: str) -> IndexFunction:
    def index(base: Path, table: IndexTable, advance: Advance) -> str:
        from voco_data.layouts import plain  # here: it imports pydicom

        return plain.index(base, table, advance, kinds=kinds)

    return index


LAYOUTS: tuple[Layout, ...] = (
    RATIC,
    FLARE,
    NNUNET,
    DECATHLON,
    TOTALSEGMENTATOR,
    Layout(name="dicom", title="DICOM", index=_index_plain("dicom")),
    Layout(name="nifti", title="NIfTI", index=_index_plain("nifti")),
)

FALLBACK = Layout(name=AUTO, title="any tree", index=_index_plain("dicom", "nifti"))
"""The layout of an archive that no other layout recognises. It may mix DICOM and NIfTI."""


def layout_choices() -> tuple[str, ...]:
    """The values of `--layout`."""
    return (AUTO, *(layout.name for layout in LAYOUTS))


def public_layouts() -> frozenset[str]:
    """Names of the layouts whose ids are public, and kept."""
    return frozenset(layout.name for layout in LAYOUTS if layout.public_ids)


def find_layout(name: str) -> Layout:
    """The layout with a name. Raises InputError."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise InputError(f"layout must be one of {', '.join(layout_choices())}, got {name!r}")
