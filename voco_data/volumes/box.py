"""A box in a canonical volume: voxel bounds, who made it and how sure they were."""

from __future__ import annotations

from dataclasses import dataclass

from voco_data.volumes.geometry import Canonical, Triple

Index = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Box:
    """Voxels start..stop-1 along canonical (z, y, x)."""

    start: Index
    stop: Index
    method: str
    """`profile` (dome, pelvis or own ends), `body` (the body alone) or `whole`."""
    confidence: float
    """0 to 1; below 0.5 the box is a fallback that may hold more than the abdomen."""

    def __post_init__(self) -> None:
        if not all(0 <= a < b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"empty box {self.start}..{self.stop}")

    def low_mm(self, where: Canonical) -> Triple:
        """Lowest LPS coordinate (z, y, x) inside the box, voxel edges included."""
        return where.edge_mm(self.start)

    def high_mm(self, where: Canonical) -> Triple:
        """Highest LPS coordinate (z, y, x) inside the box, voxel edges included."""
        return where.edge_mm(self.stop)


def whole(shape: Index) -> Box:
    """The box that cuts nothing."""
    return Box((0, 0, 0), shape, "whole", 0.0)
