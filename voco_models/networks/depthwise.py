"""Depthwise convolutions that are fast under bf16 autocast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that stays in float32 under autocast on a CPU.

    In bf16, its backward pass takes several times as long as in float32. Under autocast
    on CUDA it is an ordinary convolution.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take over the settings, and the very parameters, of `convolution`."""
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            bias=False,
            padding_mode=convolution.padding_mode,
            device="meta",
        )
        self.weight = convolution.weight
        self.bias = convolution.bias
        self.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  PyTorch's name
        """(B, C, h, w) of (B, C, H, W), in float32 under autocast on a CPU."""
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def replace_depthwise(network: nn.Module) -> nn.Module:
    """Replace depthwise convolutions by `DepthwiseConv2d`, in place. Names do not change.

    Subclasses of `nn.Conv2d`, which pad or scale in their own ways, are left as they are.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and 1 < child.groups == child.in_channels:
                setattr(parent, name, DepthwiseConv2d(child))
    return network
