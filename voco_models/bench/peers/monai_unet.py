"""MONAI's 3D U-Net, as in its tutorial of spleen segmentation: residual units, batch norm."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import UNet
from torch import nn


def create_unet(widths: Sequence[int], channels: int) -> nn.Module:
    """A network from (B, 1, Z, Y, X) to logits (B, `channels`, Z, Y, X).

    `widths` are the channels of its levels; each level but the first halves all three axes.
    """
    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=channels,
        channels=tuple(widths),
        strides=(2,) * (len(widths) - 1),
        num_res_units=2,
        norm="batch",
    )
    return network
