"""Backbones and encoders by the names that recipes use.

A name is `FAMILY:MODEL`, or a timm model alone. To add a family, write a module and add a line to
`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from voco_data.errors import InputError
from voco_models.networks.backbones import create_timm_backbone
from voco_models.networks.encoder import (
    DEFAULT_OPTIONS,
    Backbone,
    Encoder,
    EncoderOptions,
    SliceEncoder,
)
from voco_models.networks.monai_backbones import FAMILY as MONAI, create_monai_backbone
from voco_models.networks.volume_encoder import VolumeEncoder

SEPARATOR = ":"
TIMM = "timm"
"""The family of a name without a family."""


@dataclass(frozen=True, slots=True)
class Family:
    """Networks that are built and called in the same way."""

    backbone: Callable[[str, int, bool | Path], Backbone]
    """Function of MODEL, the channels of an image, and `pretrained` (see `create_backbone`)."""
    encoder: type[Encoder]
    """Class of the encoders around such a backbone."""
    takes_volumes: bool = False
    """Whether a backbone is three-dimensional, and cannot be called on a slice."""


FAMILIES: dict[str, Family] = {
    TIMM: Family(create_timm_backbone, SliceEncoder),
    MONAI: Family(create_monai_backbone, VolumeEncoder, takes_volumes=True),
}


def create_backbone(name: str, *, in_chans: int = 1, pretrained: bool | Path = False) -> Backbone:
    """A backbone by name, for images of `in_chans` channels.

    `pretrained=True` loads the weights that the family publishes; a path reads them from that file.
    Raises InputError for an unknown name and for weights that cannot be loaded.
    """
    family, model = _split_name(name)
    backbone = FAMILIES[family].backbone(model, in_chans, pretrained)
    backbone.name = name
    return backbone


def create_encoder(
    name: str, crop_px: tuple[int, int], options: EncoderOptions = DEFAULT_OPTIONS
) -> Encoder:
    """An encoder around a new backbone, of the backbone's family, for crops of (h, w) pixels.

    Raises InputError for an unknown name, or if the backbone cannot take such crops.
    """
    family, _ = _split_name(name)
    return FAMILIES[family].encoder(create_backbone(name), crop_px, options)


def takes_volumes(name: str) -> bool:
    """Whether the backbone of this name is three-dimensional, and cannot be called on a slice.

    Builds nothing. Raises InputError for an unknown family.
    """
    family, _ = _split_name(name)
    return FAMILIES[family].takes_volumes


def _split_name(name: str) -> tuple[str, str]:
    """Family and model of a name."""
    family, separator, model = name.partition(SEPARATOR)
    if not separator:
        return TIMM, name
    if family not in FAMILIES:
        families = ", ".join(sorted(FAMILIES))
        raise InputError(
            f"backbone: expected a timm model or FAMILY:MODEL, FAMILY one of {families}, "
            f"got {name!r}"
        )
    return family, model
