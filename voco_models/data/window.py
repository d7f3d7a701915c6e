"""From stored uint8 to the input of a network: the only place that knows how one becomes the other.

Stored 0 is the low end of the store's window, 255 its high end. A network sees values in [-1, 1]:
-1 is the low end of what it looks at, 1 the high end. Augmentation works in between, on values in
[0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from voco_data.errors import InputError
from voco_data.store import StoreSpec
from voco_data.volumes import HIGHEST_VOXEL

WHITE = float(HIGHEST_VOXEL)
"""The stored value at the window's high end."""


@dataclass(frozen=True, slots=True)
class InputWindow:
    """The part of a store's window that a network sees; values outside it are clipped."""

    low: float = 0.0
    """Stored value that becomes 0."""
    high: float = WHITE
    """Stored value that becomes 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= WHITE:
            raise InputError(
                f"window: expected 0 <= low < high <= {WHITE:g}, got {self.low}, {self.high}"
            )

    def unit(self, volumes: Tensor) -> Tensor:
        """float32 in [0, 1] of stored uint8 `volumes`."""
        return ((volumes.float() - self.low) / (self.high - self.low)).clamp_(0, 1)


WHOLE_WINDOW = InputWindow()
"""All of the store's window."""


def input_window(window_hu: tuple[float, float] | None, spec: StoreSpec) -> InputWindow:
    """The window that shows `window_hu` (low, high) of a store; all of its window if None.

    Raises InputError if the store's window does not hold `window_hu`.
    """
    if window_hu is None:
        return WHOLE_WINDOW
    low, high = ((hu - spec.window_low_hu) / spec.window_width_hu * WHITE for hu in window_hu)
    if not 0 <= low < high <= WHITE:
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


def normalise(volumes: Tensor) -> Tensor:
    """Network input, float32 in [-1, 1], of the whole window of stored uint8 `volumes`."""
    return volumes.float().mul_(2 / WHITE).sub_(1)
