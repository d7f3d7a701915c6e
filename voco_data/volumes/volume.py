"""One decoded series: HU in the scanner's order, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.volumes.geometry import Geometry

AIR_HU = -1024
"""Padding fields (-2000, -3024) and overshoot are raised to this before anything looks at HU."""


LIGHTER_THAN_WATER_HU = (-1200, -50)
"""Air, lung and fat; padding lies below, water and what is heavier above."""
LEAST_LIGHT_SHARE = 0.001
"""Of the voxels of any scan of a person, more than this are air, lung or fat."""
SAMPLING = 4
"""Every so many voxels along each axis are looked at to judge a volume."""


def may_be_hu(hu: npt.NDArray[np.int16]) -> bool:
    """Whether values look like HU: without its intercept, a CT has nothing lighter than water."""
    seen = hu[:: max(1, min(SAMPLING, len(hu) // 8)), ::SAMPLING, ::SAMPLING]
    light: int = _between(seen, *LIGHTER_THAN_WATER_HU)
    return light >= LEAST_LIGHT_SHARE * seen.size


@numba.njit(nogil=True, cache=True)
def _between(hu, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """How many values lie above `low` and below `high`."""
    count = 0
    for z in range(hu.shape[0]):
        for y in range(hu.shape[1]):
            for x in range(hu.shape[2]):
                count += low < hu[z, y, x] < high
    return count


@dataclass(frozen=True, slots=True)
class Volume:
    """HU of one series. `hu` is int16 (slice, row, column), slices along their normal."""

    hu: npt.NDArray[np.int16]
    geometry: Geometry
    instance_numbers: tuple[int, ...]
    """InstanceNumber of every slice in the array's order; -1 where there is none."""
    transfer_syntax: str
    """UID of the transfer syntax, or `nifti`."""
    flags: tuple[str, ...] = ()
    hashed: str = ""
    """What `content_digest` gives, if it was taken while reading."""

    def __post_init__(self) -> None:
        if self.hu.shape != self.geometry.shape:
            raise ValueError(f"hu {self.hu.shape} does not match geometry {self.geometry.shape}")

    def content_digest(self) -> str:
        """XXH3-128 of shape and HU, turned to the canonical axes (or the nearest to them)."""
        if self.hashed:
            return self.hashed
        turned = np.ascontiguousarray(self.geometry.turned().view(self.hu))
        state = content_state(turned.shape)
        state.update(turned.data)
        return state.hexdigest()

    def input_digest(self, driver: str = "") -> str:
        """XXH3-128 over the content digest, the geometry and the digest of what drove the box.

        The geometry says how the canonical HU were turned, so equal digests mean equal HU in the
        scanner's order too. No id and no path enters: a moved, copied or renamed archive has the
        same digests.
        """
        state = xxhash.xxh3_128(self.content_digest().encode())
        g = self.geometry
        numbers = [*g.shape, *g.spacing_mm, *g.origin_mm, *(c for axis in g.axes for c in axis)]
        state.update(np.asarray(numbers, dtype="<f8").data)
        state.update(driver.encode())
        return state.hexdigest()


def content_state(shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """The hash of a content digest before its first voxel: feed it HU in C order."""
    return xxhash.xxh3_128(np.asarray(shape, "<i8").data)
