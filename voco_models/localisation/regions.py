"""Regions whose box is that of several organs: the abdomen along z, and both kidneys."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from voco_models.localisation.boxes import OrganBox, join_boxes

ABDOMEN, KIDNEYS = "abdomen", "kidney"
REGIONS = MappingProxyType(
    {
        ABDOMEN: (("liver", "spleen"), ("bowel",)),
        KIDNEYS: (("kidney_left", "kidney_right"),),
    }
)
"""Groups of organs of each region: of every group, one is needed. The highest of liver and spleen
is the top of the abdomen, and the bowel its bottom."""
OPEN_REGIONS = frozenset({ABDOMEN})
"""Regions that are bounded along z alone: in the plane, the abdomen has the box of the body."""


def choose_box(boxes: Mapping[str, OrganBox], wanted: str) -> OrganBox | None:
    """The box of a region or an organ from those of organs; None if an organ that it needs lacks.

    Of an open region, only the ends along z count.
    """
    groups = REGIONS.get(wanted, ((wanted,),))
    found = [[boxes[organ] for organ in group if organ in boxes] for group in groups]
    if not all(found):
        return None
    return join_boxes([box for group in found for box in group])
