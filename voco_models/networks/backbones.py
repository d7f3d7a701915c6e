"""2D CNN backbones: the only module that knows timm."""

from __future__ import annotations

import difflib
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from voco_data.errors import InputError

DEFAULT_BACKBONE = "efficientnetv2_rw_t"
"""EfficientNetV2-T, the paper's smaller backbone."""
TINY_BACKBONE = "test_byobnet"
"""For demos and tests: 0.2 M parameters, the least time a step on a CPU among timm's CNNs."""


class Backbone(nn.Module):
    """A timm CNN without its pooling and classifier.

    `forward` maps float (B, C, H, W) to a feature map (B, `num_features`, h, w), in channels-last
    memory. The network's width and stride are asked of the network, never written down.
    """

    def __init__(self, name: str, network: nn.Module, in_chans: int) -> None:
        super().__init__()
        self.name = name
        self.in_chans = in_chans
        self.network = network.to(memory_format=torch.channels_last)
        self.num_features = int(network.num_features)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Feature map (B, F, h, w) of float images (B, C, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return features

    @torch.no_grad()
    def feature_shape(self, size_px: int | tuple[int, int]) -> tuple[int, int, int]:
        """(F, h, w) for images of `size_px` (height, width), found by one forward pass."""
        height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
        parameter = next(self.parameters())
        probe = torch.zeros(1, self.in_chans, height, width, device=parameter.device)
        was_training = self.training
        try:
            shape = tuple(self.eval()(probe).shape)
        finally:
            self.train(was_training)
        if len(shape) != 4 or shape[1] != self.num_features:
            raise InputError(
                f"backbone {self.name}: expected a CNN with features (B, {self.num_features}, h, w)"
                f", got {shape}; choose a convolutional timm model"
            )
        return shape[1], shape[2], shape[3]


def create_backbone(
    name: str = DEFAULT_BACKBONE, *, in_chans: int = 1, pretrained: bool | Path = False
) -> Backbone:
    """A timm CNN by name, for images of `in_chans` channels.

    `pretrained=True` fetches timm's ImageNet weights; a path reads them from that file instead
    (.safetensors or .pth as timm publishes them). The RGB stem is summed to `in_chans` by timm.
    Raises InputError for an unknown name, for weights that cannot be had, and for networks that
    have no (B, F, h, w) feature map.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"backbone: expected the name of a timm model, got {name!r}{hint}")
    network = (
        timm.create_model(name, in_chans=in_chans, num_classes=0)
        if pretrained is False
        else _with_weights(name, in_chans, pretrained)
    )
    return Backbone(name, network, in_chans)


def _with_weights(name: str, in_chans: int, pretrained: bool | Path) -> nn.Module:
    overlay = None
    if isinstance(pretrained, Path):
        if not pretrained.is_file():
            raise InputError(f"backbone weights: expected a file, found none at {pretrained}")
        overlay = {"file": str(pretrained)}
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=in_chans, num_classes=0
        )
    except Exception as error:
        # Any library between here and the download may fail in its own way; none of it is ours.
        raise InputError(
            f"backbone {name}: ImageNet weights cannot be loaded ({_first_line(error)}); "
            "connect to huggingface.co once, or give the path of a downloaded weight file"
        ) from error
    return network


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
