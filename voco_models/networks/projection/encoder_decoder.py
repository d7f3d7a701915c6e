"""Encoder, decoder and head of projection networks.

The deepest level has Z/4, W/16 and floor(D/16); the decoder returns to (Z, W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_models.networks.projection.axes import check_projection_volumes
from voco_models.networks.projection.blocks import Kernel, ResidualBlock

VOLUME_POOLS: tuple[Kernel, ...] = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
"""Max-pools before the second to the fifth level, along (Z, W, D)."""

MakeLevel = Callable[[int, int], nn.Module]
"""A level of an encoder or decoder, from its numbers of input and output channels."""


def volume_level(in_channels: int, out_channels: int) -> nn.Module:
    """Two convolutions 1x3x3 in a residual block; two 1x3x3 and one 3x1x1 in another."""
    in_slice = (1, 3, 3)
    return nn.Sequential(
        ResidualBlock(in_channels, out_channels, (in_slice, in_slice)),
        ResidualBlock(out_channels, out_channels, (in_slice, in_slice, (3, 1, 1))),
    )


def plane_level(in_channels: int, out_channels: int) -> nn.Module:
    """Two convolutions 3x3 of maps (N, C, Z, W) in a residual block."""
    return ResidualBlock(in_channels, out_channels, ((3, 3), (3, 3)))


class Encoder(nn.Module):
    """Levels with a max-pool before all but the first; the features of every level."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], pools: Sequence[Kernel], level: MakeLevel
    ) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            [nn.MaxPool3d(pool) if len(pool) == 3 else nn.MaxPool2d(pool) for pool in pools]
        )
        inputs = (in_channels, *widths[:-1])
        self.levels = nn.ModuleList(map(level, inputs, widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features (N, width, *size) by level, the largest first."""
        features = [self.levels[0](x)]
        for pool, level in zip(self.pools, self.levels[1:], strict=True):
            features.append(level(pool(features[-1])))
        return features


class Decoder(nn.Module):
    """From the deepest level up: nearest upsampling to the next features, joined with them."""

    def __init__(self, widths: Sequence[int], level: MakeLevel) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            [
                level(deeper + width, width)
                for deeper, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
            ]
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(N, widths[0], *size) from features by level, the largest first."""
        x = features[-1]
        for level, skip in zip(self.levels, reversed(features[:-1]), strict=True):
            x = functional.interpolate(x, skip.shape[2:], mode="nearest")
            x = level(torch.cat([x, skip], dim=1))
        return x


class ProjectingUNet(nn.Module):
    """A 3D encoder, a projection of each level along the depth, and a 2D decoder."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        projection: Callable[[int, int], nn.Module],
    ) -> None:
        """`projection` is made from channels and n: depths of the level are 2^n of the deepest."""
        super().__init__()
        self.encoder = Encoder(in_channels, widths, VOLUME_POOLS, volume_level)
        self.projections = nn.ModuleList(
            [projection(width, len(widths) - 1 - level) for level, width in enumerate(widths)]
        )
        self.decoder = Decoder(widths, plane_level)

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (N, widths[0], Z, W) of volumes (N, in_channels, Z, W, D)."""
        levels = zip(self.projections, self.encoder(volumes), strict=True)
        maps: Tensor = self.decoder([project(features) for project, features in levels])
        return maps


class ProjectionNetwork(nn.Module):
    """Volumes to maps of logits: a body, which gives features of the map, and a head of size 1.

    The head gives logits; losses and predictions apply the sigmoid. Bodies can be moved between
    networks whose heads differ, such as from reconstruction to segmentation.
    """

    def __init__(self, body: nn.Module, features: int, out_channels: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.body = body
        self.head = nn.Conv2d(features, out_channels, 1)

    def forward(self, volumes: Tensor) -> Tensor:
        """Logits (N, out_channels, Z, W) of float volumes (N, in_channels, Z, W, D).

        Raises InputError for a size that projection networks do not take; see `axes`.
        """
        check_projection_volumes(volumes, self.in_channels, training=self.training)
        volumes = volumes.contiguous(memory_format=torch.channels_last_3d)  # see plane_conv
        logits: Tensor = self.head(self.body(volumes))
        return logits
