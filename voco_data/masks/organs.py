"""Organs in label maps: the organ of each number, and the bounds of each organ."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.volumes import Canonical, Index, Triple

RATIC_ORGANS = {1: "liver", 2: "spleen", 3: "kidney_left", 4: "kidney_right", 5: "bowel"}
FLARE_ORGANS = {
    1: "liver",
    2: "kidney_right",
    3: "spleen",
    4: "pancreas",
    5: "aorta",
    6: "inferior_vena_cava",
    7: "adrenal_right",
    8: "adrenal_left",
    9: "gallbladder",
    10: "oesophagus",
    11: "stomach",
    12: "duodenum",
    13: "kidney_left",
    14: "tumour",
}
VOCABULARIES: dict[str, dict[int, str]] = {
    "ratic": RATIC_ORGANS,
    "flare": FLARE_ORGANS,
    "unknown": {},
}

WHOLE_LABEL_SETS: dict[str, frozenset[str]] = {"ratic": frozenset(RATIC_ORGANS.values())}
"""Organs that every mask of a data set marks. FLARE23's masks are partial: an organ without voxels
was perhaps not marked."""

ABDOMINAL_ORGANS = frozenset(
    {
        "liver",
        "spleen",
        "kidney",
        "kidney_left",
        "kidney_right",
        "bowel",
        "pancreas",
        "adrenal_right",
        "adrenal_left",
        "gallbladder",
        "stomach",
        "duodenum",
    }
)
"""Organs that lie wholly in the abdomen, so that its box must hold them; unlike the aorta."""

NUMBER_PREFIX = "label_"
"""Beginning of the name of a label whose organ is not known: `label_7`."""

SUBDIAPHRAGMATIC_ORGANS = frozenset({"liver", "spleen"})
"""Organs below the dome of the diaphragm: the highest of them is the top of the abdomen."""


def match_organ(text: str) -> str:
    """The organ that a free text names, its words in any order; empty if it is none of _KNOWN."""
    words = sorted(re.findall(r"[a-z]+", text.lower()))
    return next((name for name in sorted(_KNOWN) if sorted(name.split("_")) == words), "")


_KNOWN = {*RATIC_ORGANS.values(), *FLARE_ORGANS.values(), "kidney"}


@dataclass(frozen=True, slots=True)
class OrganBounds:
    """Bounds of one organ in a canonical volume: voxels start..stop-1 along (z, y, x)."""

    start: Index
    stop: Index
    goes_on_below: bool = False
    """Whether it reaches the lower face of its mask, and the scan goes on: no end along z."""
    goes_on_above: bool = False
    """The same for the upper face."""

    def in_mm(self, canonical: Canonical) -> tuple[Triple, Triple]:
        """Lowest and highest LPS coordinate (z, y, x), voxel edges included."""
        return canonical.edge_mm(self.start), canonical.edge_mm(self.stop)


def find_organs(
    labels: npt.NDArray[np.integer],
    names: dict[int, str],
    *,
    below: Set[int] = frozenset(),
    above: Set[int] = frozenset(),
) -> dict[str, OrganBounds]:
    """Bounds of every label of a canonical label map (z, y, x), by name; `label_7` without one.

    Labels of `below` and `above` reach the lower and the upper face of their mask inside the scan.
    """
    organs: dict[str, OrganBounds] = {}
    for number, bounds in enumerate(ndimage.find_objects(labels), start=1):
        if bounds is not None:
            z, y, x = bounds
            organs[names.get(number, f"{NUMBER_PREFIX}{number}")] = OrganBounds(
                (z.start, y.start, x.start),
                (z.stop, y.stop, x.stop),
                goes_on_below=number in below,
                goes_on_above=number in above,
            )
    return organs
