"""3D backbones of MONAI. No other module imports MONAI, and this one does at first use.

The extra `volumetric` installs it. The models, and MONAI's own constructors of them:

swin_b           SwinUNETR(in_channels=1, out_channels=1, feature_size=48, use_v2=True)
resnet18         resnet18(spatial_dims=3, n_input_channels=1, feed_forward=False)
resnet50         resnet50(spatial_dims=3, n_input_channels=1, feed_forward=False)
efficientnet_b0  EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1)
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.networks.encoder import Backbone
from voco_models.networks.weight_files import load_matching, read_weights

FAMILY = "monai"
EXTRA = "volumetric"
"""Extra of this package that installs MONAI, and einops, which MONAI's Swin needs."""

SMALLEST_EFFICIENTNET = 32
"""Voxels along each axis: below, a kernel of EfficientNet is larger than its padded input."""
SWIN_MULTIPLE = 32
"""Voxels along each axis are a multiple: patches of 2, halved four times."""
SWIN_FEATURE_SIZE = 48


class MonaiBackbone(Backbone):
    """A MONAI network without its pooling, classifier or decoder.

    `forward` maps float (B, C, D, H, W) to a feature map (B, `num_features`, d, h, w).
    """

    without: tuple[str, ...] = ()
    """Beginnings of the names of weights that MONAI's network has, and this one leaves out."""

    def __init__(self, name: str, in_chans: int, num_features: int, network: Any) -> None:
        super().__init__(name, in_chans, num_features)
        self.network: Any = network

    def plain_weights(self) -> dict[str, Tensor]:
        """The state dict of the MONAI network."""
        return dict(self.network.state_dict())

    def _refuse(self, expected: str, size_px: tuple[int, ...]) -> InputError:
        sides = " x ".join(map(str, size_px))
        return InputError(
            f"backbone {self.name}: expected crops with {expected}, got {sides} (slices, rows, "
            "columns); change voco.slice_stride, voco.grid or voco.encode_px, or the store's grid"
        )


class MonaiResNet(MonaiBackbone):
    """A ResNet. Its map has 1/16 of the voxels of the image along each axis, rounded up."""

    without = ("fc.",)

    def forward(self, images: Tensor) -> Tensor:
        """Feature map (B, F, d, h, w) of float images (B, C, D, H, W)."""
        net = self.network
        maps = net.maxpool(net.act(net.bn1(net.conv1(images))))
        maps = net.layer4(net.layer3(net.layer2(net.layer1(maps))))
        assert isinstance(maps, Tensor)
        return maps


class MonaiEfficientNet(MonaiBackbone):
    """An EfficientNet. Its map has 1/32 of the voxels of the image along each axis, rounded down.

    MONAI drops whole blocks at random in training. Here all are kept, as in timm's networks: the
    drops would not come back when a run is resumed, and student and teacher would drop others.
    """

    without = ("_fc.",)

    def __init__(self, name: str, in_chans: int, num_features: int, network: Any) -> None:
        network._fc = nn.Identity()
        for module in network.modules():
            if hasattr(module, "drop_connect_rate"):
                module.drop_connect_rate = 0.0
        super().__init__(name, in_chans, num_features, network)

    def check_size(self, size_px: tuple[int, ...]) -> None:
        """Raise InputError unless each side has 32 voxels."""
        if min(size_px) < SMALLEST_EFFICIENTNET:
            raise self._refuse(f"at least {SMALLEST_EFFICIENTNET} voxels along each axis", size_px)

    def forward(self, images: Tensor) -> Tensor:
        """Feature map (B, F, d, h, w) of float images (B, C, D, H, W)."""
        net = self.network
        maps = net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(images))))
        maps = net._conv_head(net._conv_head_padding(net._blocks(maps)))
        maps = net._swish(net._bn1(maps))
        assert isinstance(maps, Tensor)
        return maps


class MonaiSwin(MonaiBackbone):
    """The encoder of Swin UNETR as 3D VoCo uses it: a Swin transformer and five residual blocks.

    The feature map is one voxel: the averages of the five blocks, of the image and of four levels
    of the transformer, concatenated (48 + 48 + 96 + 192 + 768 = 1152 features).
    """

    without = ("decoder", "out.")

    def __init__(self, name: str, in_chans: int, num_features: int, network: Any) -> None:
        for part in [part for part, _ in network.named_children()]:
            if f"{part}.".startswith(self.without):
                delattr(network, part)
        super().__init__(name, in_chans, num_features, network)

    def check_size(self, size_px: tuple[int, ...]) -> None:
        """Raise InputError unless all sides are multiples of 32, and not all are 32.

        The instance norm of the last block needs two voxels, and there one is left of 32^3.
        """
        multiples = all(side % SWIN_MULTIPLE == 0 for side in size_px)
        if not multiples or max(size_px) == SWIN_MULTIPLE:
            raise self._refuse(
                f"a multiple of {SWIN_MULTIPLE} voxels along each axis and more than "
                f"{SWIN_MULTIPLE} along one",
                size_px,
            )

    def set_recompute(self, enabled: bool) -> None:
        """Compute the activations of the transformer's blocks again in the backward pass, or not.

        The convolutions of the network keep theirs. There is no batch norm.
        """
        for module in self.network.swinViT.modules():
            if hasattr(module, "use_checkpoint"):
                module.use_checkpoint = enabled

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 1152, 1, 1, 1) of float images (B, C, D, H, W)."""
        net = self.network
        levels = net.swinViT(images, net.normalize)
        maps = (
            net.encoder1(images),
            net.encoder2(levels[0]),
            net.encoder3(levels[1]),
            net.encoder4(levels[2]),
            net.encoder10(levels[4]),
        )
        return torch.cat([level.mean(dim=(2, 3, 4), keepdim=True) for level in maps], dim=1)


def _swin_b(name: str, nets: Any, in_chans: int) -> MonaiBackbone:
    size = SWIN_FEATURE_SIZE
    network = nets.SwinUNETR(
        in_channels=in_chans, out_channels=1, feature_size=size, use_v2=True
    )  # MONAI's defaults are depths 2-2-2-2, heads 3-6-12-24 and windows of 7
    return MonaiSwin(name, in_chans, (1 + 1 + 2 + 4 + 16) * size, network)


def _resnet18(name: str, nets: Any, in_chans: int) -> MonaiBackbone:
    network = nets.resnet18(spatial_dims=3, n_input_channels=in_chans, feed_forward=False)
    return MonaiResNet(name, in_chans, 512, network)


def _resnet50(name: str, nets: Any, in_chans: int) -> MonaiBackbone:
    network = nets.resnet50(spatial_dims=3, n_input_channels=in_chans, feed_forward=False)
    return MonaiResNet(name, in_chans, 2048, network)


def _efficientnet_b0(name: str, nets: Any, in_chans: int) -> MonaiBackbone:
    network = nets.EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=in_chans
    )
    return MonaiEfficientNet(name, in_chans, 1280, network)


MODELS: dict[str, Callable[[str, Any, int], MonaiBackbone]] = {
    "efficientnet_b0": _efficientnet_b0,
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "swin_b": _swin_b,
}


def create_monai_backbone(
    model: str, in_chans: int = 1, pretrained: bool | Path = False
) -> MonaiBackbone:
    """A 3D backbone by its name in `MODELS`, for volumes of `in_chans` channels.

    A path as `pretrained` gives weights under MONAI's names. Raises InputError for an unknown name,
    if MONAI is not installed, for `pretrained=True`, and for weights of another network.
    """
    name = f"{FAMILY}:{model}"
    if model not in MODELS:
        similar = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"; did you mean {FAMILY}:{similar[0]}?" if similar else ""
        raise InputError(
            f"backbone: expected {FAMILY}:MODEL, MODEL one of {', '.join(MODELS)}, got "
            f"{name!r}{hint}"
        )
    if pretrained is True:
        raise InputError(
            f"backbone {name}: there are no ImageNet weights of this 3D network; give --init "
            "scratch, a file of weights, or the folder of a pretraining run"
        )
    backbone = MODELS[model](name, _import_networks(name), in_chans)
    if isinstance(pretrained, Path):
        weights = {
            key: tensor
            for key, tensor in read_weights(pretrained).items()
            if not key.startswith(backbone.without)
        }
        load_matching(backbone.network, name, weights, pretrained)
    return backbone


def _import_networks(name: str) -> Any:
    """The module `monai.networks.nets`. Raises InputError if it or einops is not installed."""
    try:
        importlib.import_module("einops")  # else MONAI's Swin raises in its forward pass
        return importlib.import_module("monai.networks.nets")
    except ModuleNotFoundError as error:
        missing = (error.name or str(error)).partition(".")[0]
        raise InputError(
            f"backbone {name}: {missing} is not installed; pip install 'voco[{EXTRA}]'"
        ) from error
