"""True boxes of organs, from the masks of stored series at full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from voco_data.store import Record
from voco_models.localisation.boundary_errors import Extent
from voco_models.localisation.boxes import OrganBox
from voco_models.localisation.regions import REGIONS, choose_box


class Truth(NamedTuple):
    """What the masks of a series tell of some organs."""

    organs: dict[str, Extent]
    """Boxes of the organs that are in the scan and marked wholly."""
    absent: frozenset[str]
    """Organs that are known not to be in the scan."""
    volume: Extent
    """The stored box."""

    @property
    def is_known(self) -> bool:
        """Whether the masks tell of any of the organs."""
        return bool(self.organs or self.absent)

    def with_regions(self, regions: Sequence[str]) -> Truth:
        """The same with the boxes of `regions`, of those whose organs are all known.

        An organ of a region may be absent, if another one of its group is there.
        """
        boxes = {
            name: OrganBox(extent.low_mm, extent.high_mm, 1.0)
            for name, extent in self.organs.items()
        }
        known = self.organs.keys() | self.absent
        found = {
            region: choose_box(boxes, region)
            for region in regions
            if all(organ in known for group in REGIONS[region] for organ in group)
        }
        extents = {
            region: Extent(box.low_mm, box.high_mm)
            for region, box in found.items()
            if box is not None
        }
        return self._replace(organs=self.organs | extents)


def read_truth(record: Record, organs: Sequence[str]) -> Truth:
    """The true boxes of `organs` in a series. An organ without a map in its record is not known.

    The boxes of a record are those of voxels before resampling.
    """
    known = [organ for organ in organs if organ in record.organ_maps]
    present = {organ: Extent(*record.organs[organ]) for organ in known if organ in record.organs}
    return Truth(
        present,
        frozenset(known) - present.keys(),
        Extent(record.box_low_mm, record.box_high_mm),
    )
