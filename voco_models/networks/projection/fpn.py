"""The feature projection network (FPN) of Morano et al., MICCAI 2023."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from voco_models.networks.projection.blocks import DepthReduction, conv_norm
from voco_models.networks.projection.encoder_decoder import ProjectingUNet, ProjectionNetwork

DEPTH_KERNEL = 4


class FeatureProjection(nn.Module):
    """The depth reduced to that of the deepest level, a convolution 1x1x4 without padding, a mean.

    The mean is over the depths that remain, so one network takes any depth. The columns (z, w) do
    not mix.
    """

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        self.reduce = DepthReduction(channels, halvings)
        self.collapse = nn.Sequential(
            conv_norm(channels, channels, (1, 1, DEPTH_KERNEL), pad_depth=False),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, Z, W, D) to (N, C, Z, W)."""
        remaining: Tensor = self.collapse(self.reduce(features))
        return remaining.mean(dim=-1)


def create_fpn(widths: Sequence[int], out_channels: int, in_channels: int) -> ProjectionNetwork:
    """4.37 million parameters at the published widths."""
    body = ProjectingUNet(in_channels, widths, FeatureProjection)
    return ProjectionNetwork(body, widths[0], out_channels, in_channels)
