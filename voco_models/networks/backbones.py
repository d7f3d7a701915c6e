"""2D CNN backbones of timm. No other module imports timm."""

from __future__ import annotations

import difflib
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.networks.encoder import Backbone

DEFAULT_BACKBONE = "efficientnetv2_rw_t"
"""EfficientNetV2-T, the paper's smaller backbone."""
TINY_BACKBONE = "test_byobnet"
"""For demos and tests: 0.2 M parameters, the fastest step on a CPU among timm's CNNs."""


class TimmBackbone(Backbone):
    """A timm CNN without its pooling and classifier.

    `forward` maps float (B, C, H, W) to a feature map (B, `num_features`, h, w), in channels-last
    memory.
    """

    def __init__(self, name: str, network: nn.Module, in_chans: int) -> None:
        super().__init__(name, in_chans, int(network.num_features))  # type: ignore[arg-type]
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Feature map (B, F, h, w) of float images (B, C, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return features


def create_timm_backbone(
    name: str, in_chans: int = 1, pretrained: bool | Path = False
) -> TimmBackbone:
    """A timm CNN by name, for images of `in_chans` channels.

    `pretrained=True` fetches timm's ImageNet weights; a path reads them from that file instead
    (.safetensors or .pth as timm publishes them). timm sums the RGB stem to `in_chans`. Raises
    InputError for an unknown name, and for weights that cannot be loaded.
    """
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(similar)}?" if similar else ""
        raise InputError(f"backbone: expected the name of a timm model, got {name!r}{hint}")
    network = (
        timm.create_model(name, in_chans=in_chans, num_classes=0)
        if pretrained is False
        else _create_pretrained(name, in_chans, pretrained)
    )
    return TimmBackbone(name, network, in_chans)


def _create_pretrained(name: str, in_chans: int, pretrained: bool | Path) -> nn.Module:
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
        # timm, huggingface_hub, safetensors and the network each raise errors of their own.
        raise InputError(
            f"backbone {name}: ImageNet weights cannot be loaded ({_first_line(error)}); "
            "connect to huggingface.co once, or give the path of a downloaded weight file"
        ) from error
    return network


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
