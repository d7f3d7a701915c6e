"""One decoded series: its HU in the scanner's order, its geometry and its digests."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.volumes.geometry import Geometry

AIR_HU = -1024
"""HU of air for us. Padding (-2000, -3024) and lower values count as this wherever HU are used."""

LIGHT_HU = (-1200, -50)
"""Exclusive bounds of air, lung and fat. Padding lies below, water and denser tissue above."""
MIN_LIGHT_SHARE = 0.001
"""In a scan of a person a larger share of the voxels is air, lung or fat."""
_SAMPLING = 4
"""`may_be_hu` looks at every so many voxels along each axis."""


def may_be_hu(hu: npt.NDArray[np.int16]) -> bool:
    """Whether values look like HU: a CT without its intercept has nothing lighter than water."""
    sample = hu[:: max(1, min(_SAMPLING, len(hu) // 8)), ::_SAMPLING, ::_SAMPLING]
    n_light: int = _count_between(sample, *LIGHT_HU)
    return n_light >= MIN_LIGHT_SHARE * sample.size


@numba.njit(nogil=True, cache=True)
def _count_between(hu, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """How many values lie above `low` and below `high`."""
    count = 0
    for z in range(hu.shape[0]):
        for y in range(hu.shape[1]):
            for x in range(hu.shape[2]):
                count += low < hu[z, y, x] < high
    return count


@dataclass(frozen=True, slots=True)
class Volume:
    """The HU of one series."""

    hu: npt.NDArray[np.int16]
    """(slice, row, column), slices along their normal."""
    geometry: Geometry
    instance_numbers: tuple[int, ...]
    """InstanceNumber of every slice in the array's order; -1 where there is none."""
    transfer_syntax: str
    """UID of the transfer syntax, or `nifti`."""
    flags: tuple[str, ...] = ()
    known_content_digest: str = ""
    """The content digest where it was computed while reading; empty otherwise."""

    def __post_init__(self) -> None:
        if self.hu.shape != self.geometry.shape:
            raise ValueError(f"hu {self.hu.shape} does not match geometry {self.geometry.shape}")

    def content_digest(self) -> str:
        """XXH3-128 of shape and HU along the canonical axes, or those nearest to them."""
        if self.known_content_digest:
            return self.known_content_digest
        canonical_hu = np.ascontiguousarray(self.geometry.nearest_canonical().view(self.hu))
        state = content_state(canonical_hu.shape)
        state.update(canonical_hu.data)
        return state.hexdigest()

    def input_digest(self, driver: str = "") -> str:
        """XXH3-128 over the content digest, the geometry and `driver`.

        `driver` is the digest of a mask or a given box that determines the box, or empty. Equal
        digests mean equal HU in the scanner's order too: the geometry gives permutation and flips.
        No id and no path enters: a moved, copied or renamed archive has the same digests.
        """
        state = xxhash.xxh3_128(self.content_digest().encode())
        g = self.geometry
        numbers = [*g.shape, *g.spacing_mm, *g.origin_mm, *(c for axis in g.axes for c in axis)]
        state.update(np.asarray(numbers, dtype="<f8").data)
        state.update(driver.encode())
        return state.hexdigest()


def content_state(shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """The state of a content digest before its first voxel: update it with HU in C order."""
    return xxhash.xxh3_128(np.asarray(shape, "<i8").data)
