"""The conversion of stored voxels to the input of a network, in this module only.

The network sees a part of the store's window, the input window. Its low end becomes -1 and its high
end 1. Augmentation of volumes works on values in [0, 1], before the last step.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from voco_data.errors import InputError
from voco_data.store import StoreSpec


@dataclass(frozen=True, slots=True)
class InputWindow:
    """The part of a store's window that a network sees, in stored values.

    Raises InputError unless low < high.
    """

    low: float
    """Stored value that becomes 0."""
    high: float
    """Stored value that becomes 1."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"window: expected low < high, got {self.low}, {self.high}")

    def to_unit(self, volumes: Tensor) -> Tensor:
        """Stored `volumes` (...) as float32 in [0, 1]; values outside the window are clipped."""
        return ((volumes.float() - self.low) / (self.high - self.low)).clamp_(0, 1)


def input_window(window_hu: tuple[float, float] | None, spec: StoreSpec) -> InputWindow:
    """The input window from `window_hu` = (low, high) HU; all of the store's window if None.

    Raises InputError if the store's window does not contain `window_hu`.
    """
    lowest, highest = spec.window.lowest, spec.window.highest
    if window_hu is None:
        return InputWindow(lowest, highest)
    steps = highest - lowest
    low, high = (
        (hu - spec.window_low_hu) / spec.window_width_hu * steps + lowest for hu in window_hu
    )
    if not lowest <= low < high <= highest:
        top = spec.window_low_hu + spec.window_width_hu
        raise InputError(
            f"the recipe looks at {window_hu[0]:g} to {window_hu[1]:g} HU, the store keeps "
            f"{spec.window_low_hu:g} to {top:g} HU; use another recipe or store"
        )
    return InputWindow(low, high)


def centre(unit: Tensor) -> Tensor:
    """Network input in [-1, 1] of values in [0, 1]: mean 0.5, standard deviation 0.5."""
    return 2 * unit - 1


def uncentre(inputs: Tensor) -> Tensor:
    """Values in [0, 1] of network input in [-1, 1]; the inverse of `centre`."""
    return (inputs + 1) / 2


def normalise(volumes: Tensor, window: InputWindow) -> Tensor:
    """Network input, float32, of stored `volumes` (...): in [-1, 1] within the window.

    `centre(window.to_unit(volumes))` in one pass, without the clipping.
    """
    scale = 2 / (window.high - window.low)
    return volumes.float().mul_(scale).sub_(1 + window.low * scale)
