"""One decoded series: its HU in the scanner's order, its geometry and its digests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.volumes.geometry import Geometry

AIR_HU = -1024
"""HU of air. Lower values, such as padding of -2000 or -3024, count as air."""


@dataclass(frozen=True, slots=True)
class Volume:
    """The HU of one series."""

    hu: npt.NDArray[np.int16]
    """(slice, row, column), slices along their normal."""
    geometry: Geometry
    instance_numbers: tuple[int, ...]
    """InstanceNumber of every slice in the array's order; -1 if it is missing."""
    transfer_syntax: str
    """UID of the transfer syntax, or `nifti`."""
    flags: tuple[str, ...] = ()
    """Remarks for the ledger, such as `lossy`."""
    precomputed_digest: str = ""
    """The content digest if the reader computed it; empty otherwise."""

    def __post_init__(self) -> None:
        if self.hu.shape != self.geometry.shape:
            raise ValueError(f"hu {self.hu.shape} does not match geometry {self.geometry.shape}")

    def content_digest(self) -> str:
        """XXH3-128 of shape and HU along the canonical axes, or those nearest to them."""
        if self.precomputed_digest:
            return self.precomputed_digest
        canonical_hu = np.ascontiguousarray(self.geometry.nearest_canonical().to_canonical(self.hu))
        hasher = content_hasher(canonical_hu.shape)
        hasher.update(canonical_hu.data)
        return hasher.hexdigest()

    def input_digest(self, box_digest: str = "") -> str:
        """XXH3-128 over the content digest, the geometry and `box_digest`.

        `box_digest` is the digest of given box and masks, or empty. Equal digests mean equal HU in
        the scanner's order too: the geometry gives permutation and flips.
        Ids and paths are not part of it, so a moved or renamed archive has the same digests.
        """
        hasher = xxhash.xxh3_128(self.content_digest().encode())
        g = self.geometry
        numbers = [*g.shape, *g.spacing_mm, *g.origin_mm, *(c for axis in g.axes for c in axis)]
        hasher.update(np.asarray(numbers, dtype="<f8").data)
        hasher.update(box_digest.encode())
        return hasher.hexdigest()


def content_hasher(shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """A hasher for the content digest of a volume of `shape`, to be updated with HU in C order."""
    return xxhash.xxh3_128(np.asarray(shape, "<i8").data)
