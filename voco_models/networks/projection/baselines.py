"""Cheap baselines: the largest features along the depth, and a 2D U-Net on projections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from voco_models.networks.projection.encoder_decoder import (
    VOLUME_POOLS,
    Decoder,
    Encoder,
    ProjectingUNet,
    ProjectionNetwork,
    plane_level,
)

PROJECTIONS = 2
"""Mean and maximum."""


class DepthMax(nn.Module):
    """The largest value of each feature along the depth; nothing is learnt."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, Z, W, D) to (N, C, Z, W)."""
        return features.amax(dim=-1)


def create_depth_max(
    widths: Sequence[int], out_channels: int, in_channels: int
) -> ProjectionNetwork:
    """Encoder, decoder and head of the FPN, with `DepthMax` of every level between them."""
    body = ProjectingUNet(in_channels, widths, lambda _channels, _halvings: DepthMax())
    return ProjectionNetwork(body, widths[0], out_channels, in_channels)


class ProjectedUNet(nn.Module):
    """A 2D U-Net on the mean and the maximum of the voxels along the depth.

    It has the levels and strides of the FPN, without the depth.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        pools = [pool[:2] for pool in VOLUME_POOLS]
        self.encoder = Encoder(PROJECTIONS * in_channels, widths, pools, plane_level)
        self.decoder = Decoder(widths, plane_level)

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (N, widths[0], Z, W) of volumes (N, in_channels, Z, W, D)."""
        projections = torch.cat([volumes.mean(dim=-1), volumes.amax(dim=-1)], dim=1)
        maps: Tensor = self.decoder(self.encoder(projections))
        return maps


def create_unet_2d(widths: Sequence[int], out_channels: int, in_channels: int) -> ProjectionNetwork:
    """A network that never sees the order of the depths."""
    body = ProjectedUNet(in_channels, widths)
    return ProjectionNetwork(body, widths[0], out_channels, in_channels)
