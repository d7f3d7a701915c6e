"""Which grey values of a store the network sees: all of the window, or the part of one tissue."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from voco_data.errors import InputError
from voco_data.store.spec import StoreSpec

WHITE = 255.0
"""The stored value at the window's high end."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A linear map of stored uint8 values; what lies outside `low`..`high` is clipped."""

    low: float = 0.0
    """Stored value that becomes 0."""
    high: float = WHITE
    """Stored value that becomes 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= WHITE:
            raise InputError(
                f"contrast: expected 0 <= low < high <= {WHITE:g}, got {self.low}, {self.high}"
            )

    def unit(self, volumes: Tensor) -> Tensor:
        """float32 in 0..1 of uint8 `volumes`."""
        return ((volumes.float() - self.low) / (self.high - self.low)).clamp_(0, 1)


def contrast_of(window_hu: tuple[float, float] | None, spec: StoreSpec) -> Contrast:
    """The contrast that shows `window_hu` (low, high) of a store; all of its window if None.

    Raises InputError if the store's window does not hold `window_hu`.
    """
    if window_hu is None:
        return Contrast()
    low, high = ((hu - spec.window_low_hu) / spec.window_width_hu * WHITE for hu in window_hu)
    if not 0 <= low < high <= WHITE:
        top = spec.window_low_hu + spec.window_width_hu
        raise InputError(
            f"the recipe looks at {window_hu[0]:g} to {window_hu[1]:g} HU, the store keeps "
            f"{spec.window_low_hu:g} to {top:g} HU; use another recipe or store"
        )
    return Contrast(low, high)
