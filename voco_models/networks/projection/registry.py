"""Projection networks by name. To add one, write a module and add a line to `CREATORS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from voco_data.errors import InputError
from voco_models.networks.projection.baselines import create_depth_max, create_unet_2d
from voco_models.networks.projection.encoder_decoder import VOLUME_POOLS, ProjectionNetwork
from voco_models.networks.projection.fpn import create_fpn
from voco_models.networks.projection.lachinov import create_lachinov
from voco_models.networks.projection.resensnet import create_resensnet

PROJECTION_WIDTHS = (16, 32, 64, 128, 256)
"""Published, of the five levels."""
TINY_PROJECTION_WIDTHS = (4, 8, 16, 32, 64)
"""For tests and pilots on CPUs: about a sixteenth of the parameters."""

CREATORS: dict[str, Callable[[Sequence[int], int, int], ProjectionNetwork]] = {
    "fpn": create_fpn,
    "resensnet": create_resensnet,
    "lachinov": create_lachinov,
    "depth_max": create_depth_max,
    "unet_2d": create_unet_2d,
}
"""Functions of widths, output channels and input channels."""
PROJECTION_NETWORKS = tuple(CREATORS)


def create_projection_network(
    name: str, widths: Sequence[int], out_channels: int, in_channels: int = 1
) -> ProjectionNetwork:
    """A new network from volumes (N, in_channels, Z, W, D) to logits (N, out_channels, Z, W).

    `widths` are the channels of the five levels, such as `PROJECTION_WIDTHS`. Z must be divisible
    by 4, W by 16, and D be at least 64. Raises InputError for an unknown name, and unless there are
    five widths and all numbers of channels are at least 1.
    """
    if name not in CREATORS:
        raise InputError(f"projection network: expected one of {', '.join(CREATORS)}, got {name!r}")
    levels = len(VOLUME_POOLS) + 1
    if len(widths) != levels or min(widths) < 1:
        raise InputError(
            f"projection network: expected {levels} widths of at least 1, got {tuple(widths)}; the "
            f"published ones are {PROJECTION_WIDTHS}"
        )
    if out_channels < 1 or in_channels < 1:
        raise InputError(
            "projection network: expected at least 1 input and 1 output channel, got "
            f"in_channels={in_channels} and out_channels={out_channels}"
        )
    return CREATORS[name](widths, out_channels, in_channels)
