"""The network of Lachinov et al. (MICCAI 2021), from its short description by Morano et al.

Published: a stem of 3x1x3, channels 32 to 256, Z never down-sampled, skips averaged along the depth
to D/8. Not published there, and chosen here: residual pairs of 3x3x3 on every level, max-pools
(1, 2, 2), nearest upsampling along W, and a mean over the depth before the head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from voco_models.networks.projection.blocks import Kernel, ResidualBlock, conv_norm
from voco_models.networks.projection.encoder_decoder import Decoder, Encoder, ProjectionNetwork

STEM: Kernel = (3, 1, 3)
POOLS: tuple[Kernel, ...] = ((1, 2, 2),) * 3


class ProjectiveSkips(nn.Module):
    """A 3D encoder and a 3D decoder that keeps the depth of the deepest level, floor(D/8)."""

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(in_channels, widths[0], STEM), nn.ReLU(inplace=True))
        self.encoder = Encoder(widths[0], widths, POOLS, cubic_level)
        self.decoder = Decoder(widths, cubic_level)

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (N, widths[0], Z, W) of volumes (N, in_channels, Z, W, D)."""
        features = self.encoder(self.stem(volumes))
        depth = features[-1].shape[-1]
        skips = [
            functional.adaptive_avg_pool3d(skip, (*skip.shape[2:4], depth))
            for skip in features[:-1]
        ]
        decoded: Tensor = self.decoder([*skips, features[-1]])
        return decoded.mean(dim=-1)


def cubic_level(in_channels: int, out_channels: int) -> nn.Module:
    """Two convolutions 3x3x3 in a residual block."""
    return ResidualBlock(in_channels, out_channels, ((3, 3, 3), (3, 3, 3)))


def create_lachinov(
    widths: Sequence[int], out_channels: int, in_channels: int
) -> ProjectionNetwork:
    """Four levels, of the last four of the five `widths`: 32 to 256 of the published ones."""
    used = widths[1:]
    return ProjectionNetwork(ProjectiveSkips(in_channels, used), used[0], out_channels, in_channels)
