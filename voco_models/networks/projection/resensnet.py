"""ReSensNet, as Morano et al. compare it with their FPN: another projection of the features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from voco_models.networks.projection.blocks import DepthReduction, conv_norm
from voco_models.networks.projection.encoder_decoder import ProjectingUNet, ProjectionNetwork

DEPTH_KERNEL = 8


class WholeDepthProjection(nn.Module):
    """The depth reduced to that of the deepest level, and a kernel 1x1x8 over all of it.

    The published network takes the depth 128 only, where exactly 8 depths remain. For other
    volumes, averages (or repetitions, below 128) bring the depths that remain to 8; this is ours.
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
        x: Tensor = self.reduce(features)
        if x.shape[-1] != DEPTH_KERNEL:
            x = functional.adaptive_avg_pool3d(x, (*x.shape[2:4], DEPTH_KERNEL))
        collapsed: Tensor = self.collapse(x)
        return collapsed.squeeze(-1)


def create_resensnet(
    widths: Sequence[int], out_channels: int, in_channels: int
) -> ProjectionNetwork:
    """Encoder, decoder and head are those of the FPN."""
    body = ProjectingUNet(in_channels, widths, WholeDepthProjection)
    return ProjectionNetwork(body, widths[0], out_channels, in_channels)
