"""On the device: uint8 to float, and changes of intensity.

The target of a crop is where it lies, so only changes that keep every pixel in its place are
legal for a crop by itself: contrast, brightness, gamma, noise. A shift, scale or rotation of one
crop would make its overlap target wrong. A flip would keep the overlap, but would teach that left
and right look alike, and the liver is not the spleen: no flips here. One set of parameters serves
all slices of a crop, because the crop column has one embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from voco_data.errors import InputError


def normalise(volumes: Tensor) -> Tensor:
    """float32 in [-1, 1] of stored uint8: 0 (window's low end) is -1, 255 (its high end) is 1."""
    return volumes.float().mul_(2 / 255).sub_(1)


@dataclass(frozen=True, slots=True)
class IntensityAugment:
    """Ranges of random intensity changes. All zero means none."""

    gamma: float = 0.0
    """The exponent is exp(u), u uniform in [-gamma, gamma]."""
    contrast: float = 0.0
    """The factor about mid-grey is exp(u), u uniform in [-contrast, contrast]."""
    brightness: float = 0.0
    """The shift is uniform in [-brightness, brightness], in units of the normalised range."""
    noise: float = 0.0
    """Largest standard deviation of white noise; each crop draws its own from [0, noise]."""

    def __post_init__(self) -> None:
        if min(self.gamma, self.contrast, self.brightness, self.noise) < 0:
            raise InputError("augment: gamma, contrast, brightness and noise must be >= 0")

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed."""
        return not (self.gamma or self.contrast or self.brightness or self.noise)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> IntensityParameters:
        """Parameters for crops (*shape,), on the generator's device."""
        u = torch.rand((4, *shape), generator=generator, device=generator.device)
        signed = 2 * u[:3] - 1
        return IntensityParameters(
            gamma=(signed[0] * self.gamma).exp(),
            contrast=(signed[1] * self.contrast).exp(),
            brightness=signed[2] * self.brightness,
            noise=u[3] * self.noise,
        )


@dataclass(frozen=True, slots=True)
class IntensityParameters:
    """What was drawn: one number a crop, each float (...)."""

    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    def apply(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Change normalised `crops` (..., Z, h, w); the result stays in [-1, 1].

        Gamma, contrast, brightness, then noise; the noise itself comes from `generator`, which
        must be on the device of the crops.
        """

        def column(values: Tensor) -> Tensor:
            return values.to(crops.device)[..., None, None, None]

        unit = ((crops + 1) / 2).clamp(0, 1) ** column(self.gamma)
        changed = (2 * unit - 1) * column(self.contrast) + column(self.brightness)
        white = torch.randn(crops.shape, generator=generator, device=crops.device)
        return (changed + column(self.noise) * white).clamp(-1, 1)
