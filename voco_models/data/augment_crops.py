"""Random changes of the intensity of crops, on the device.

The target of a crop is its position. So only changes are allowed that keep every pixel in its
place: contrast, brightness, gamma and noise. A shift, scale or rotation of a crop would make its
overlap target wrong. A flip would keep the overlap, but it would train the network to ignore the
side, by which it can tell the liver from the spleen. All slices of a crop share one set of
parameters, because the crop column has one embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data.transfer import copy_to_device
from voco_models.data.window import centre, uncentre


@dataclass(frozen=True, slots=True)
class IntensityAugment:
    """Ranges of random intensity changes; zero switches a change off."""

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
        """Random parameters (*shape,), one set per crop, on the generator's device."""
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
    """The drawn parameters of crops, float (...) each."""

    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    @staticmethod
    def stack(parts: Sequence[IntensityParameters]) -> IntensityParameters:
        """The parameters of all `parts`, with a new first axis."""
        return IntensityParameters(
            *(torch.stack([getattr(part, name) for part in parts]) for name in _PARAMETERS)
        )

    def apply(self, crops: Tensor, noise_seeds: Sequence[int]) -> Tensor:
        """Change normalised `crops` (B, ..., Z, h, w); the result is clamped to [-1, 1].

        The order is gamma, contrast, brightness, noise. The noise of each of the B volumes is a
        function of its seed and of the device.
        """
        together = torch.stack([getattr(self, name) for name in _PARAMETERS])
        columns = copy_to_device(together, crops.device)[..., None, None, None]
        gamma, contrast, brightness, noise = columns
        unit = uncentre(crops).clamp(0, 1) ** gamma
        changed = centre(unit) * contrast + brightness
        white = torch.empty_like(crops)
        generator = torch.Generator(crops.device)
        for volume, seed in zip(white, noise_seeds, strict=True):
            volume.normal_(generator=generator.manual_seed(seed))
        noisy: Tensor = changed + noise * white
        return noisy.clamp(-1, 1)


_PARAMETERS = ("gamma", "contrast", "brightness", "noise")
