"""Blocks of projection networks, for maps (N, C, Z, W) and volumes (N, C, Z, W, D)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from voco_models.networks.projection.plane_conv import PlaneConv3d

Kernel = tuple[int, int] | tuple[int, int, int]
"""Sizes along (Z, W) or (Z, W, D); their number says whether a layer is 2D or 3D."""


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: Kernel,
    *,
    depth_stride: int = 1,
    pad_depth: bool = True,
) -> nn.Sequential:
    """A convolution without bias, with an odd kernel and zeros around; batch normalisation.

    It keeps the size, but for the depth where this has a stride or is not padded.
    """
    if len(kernel) == 2:
        z, w = kernel
        plane = nn.Conv2d(in_channels, out_channels, kernel, padding=(z // 2, w // 2), bias=False)
        return nn.Sequential(plane, nn.BatchNorm2d(out_channels))
    z, w, d = kernel
    volume = PlaneConv3d(
        in_channels,
        out_channels,
        kernel,
        stride=(1, 1, depth_stride),
        padding=(z // 2, w // 2, d // 2 if pad_depth else 0),
        bias=False,
    )
    return nn.Sequential(volume, nn.BatchNorm3d(out_channels))


def conv_chain(layers: Sequence[nn.Sequential]) -> nn.Sequential:
    """Layers with a ReLU between two of them, and none at the end."""
    chain = nn.Sequential()
    for index, layer in enumerate(layers):
        if index:
            chain.append(nn.ReLU(inplace=True))
        chain.append(layer)
    return chain


class ResidualBlock(nn.Module):
    """Convolutions with `kernels` in turn, plus the input; ReLU follows each, and the sum.

    The input passes a convolution of size 1 where the numbers of channels differ.
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: Sequence[Kernel]) -> None:
        super().__init__()
        inputs = (in_channels, *[out_channels] * (len(kernels) - 1))
        self.convs = conv_chain(
            [conv_norm(c, out_channels, kernel) for c, kernel in zip(inputs, kernels, strict=True)]
        )
        one: Kernel = (1, 1) if len(kernels[0]) == 2 else (1, 1, 1)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else conv_norm(in_channels, out_channels, one)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *size) to (N, out_channels, *size)."""
        y: Tensor = self.relu(self.convs(x) + self.shortcut(x))
        return y


class DepthReduction(nn.Module):
    """The depth divided by 2^n, by n convolutions 1x1x3 of stride 2, plus a shortcut; then ReLU.

    The shortcut is one convolution 1x1x1 of stride 2^n. Without halvings, the block does nothing.
    """

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        self.halvings = halvings
        if not halvings:
            return
        self.halve = conv_chain(
            [conv_norm(channels, channels, (1, 1, 3), depth_stride=2) for _ in range(halvings)]
        )
        self.shortcut = conv_norm(channels, channels, (1, 1, 1), depth_stride=2**halvings)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Z, W, D) to (N, C, Z, W, ceil(D / 2^n))."""
        if not self.halvings:
            return x
        y: Tensor = self.relu(self.halve(x) + self.shortcut(x))
        return y
