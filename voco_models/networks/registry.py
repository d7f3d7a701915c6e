"""Backbones and encoders by name: the one table from a recipe's words to networks.

A name is `FAMILY:MODEL`, or a timm model alone. A new family is a module of its own and a line of
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

SEPARATOR = ":"
TIMM = "timm"
"""The family of a name without a family."""


@dataclass(frozen=True, slots=True)
class Family:
    """Networks that are built and fed in one way."""

    backbone: Callable[[str, int, bool | Path], Backbone]
    """Takes MODEL, the channels of an image, and `pretrained` as of `create_backbone`."""
    encoder: type[Encoder]
    """Makes embeddings of crops with such a backbone."""


FAMILIES: dict[str, Family] = {
    TIMM: Family(create_timm_backbone, SliceEncoder),
}


def create_backbone(name: str, *, in_chans: int = 1, pretrained: bool | Path = False) -> Backbone:
    """A backbone by name, for images of `in_chans` channels.

    `pretrained=True` takes the weights that the family publishes; a path reads them from that file.
    Raises InputError for an unknown name and for weights that cannot be had.
    """
    family, model = _parse(name)
    backbone = FAMILIES[family].backbone(model, in_chans, pretrained)
    backbone.name = name
    return backbone


def create_encoder(
    name: str, crop_px: tuple[int, int], options: EncoderOptions = DEFAULT_OPTIONS
) -> Encoder:
    """The encoder of a backbone's family around a new backbone, for crops of (h, w) pixels.

    Raises InputError for an unknown name, or if the backbone cannot take such crops.
    """
    family, _ = _parse(name)
    return FAMILIES[family].encoder(create_backbone(name), crop_px, options)


def _parse(name: str) -> tuple[str, str]:
    """Family and model of a name."""
    family, separator, model = name.partition(SEPARATOR)
    if not separator:
        return TIMM, name
    if family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise InputError(
            f"backbone: expected a timm model or FAMILY:MODEL, FAMILY one of {known}, got {name!r}"
        )
    return family, model
