"""Depthwise convolutions under autocast on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from voco_models.networks.depthwise import DepthwiseConv2d, replace_depthwise

SETTINGS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": 5, "padding": 2, "dilation": 2, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_is_the_convolution_that_it_replaces(settings: dict[str, object]) -> None:
    plain = nn.Conv2d(4, 8, groups=4, **settings)  # type: ignore[arg-type]
    network = nn.Sequential(nn.Conv2d(3, 4, 1), plain).eval()
    images = torch.randn(2, 3, 16, 16)
    names, expected = list(network.state_dict()), network(images)
    assert replace_depthwise(network) is network
    assert type(network[0]) is nn.Conv2d
    assert type(network[1]) is DepthwiseConv2d
    assert not network[1].training
    assert network[1].weight is plain.weight
    assert network[1].bias is plain.bias
    assert list(network.state_dict()) == names
    assert torch.equal(network(images), expected)


def test_under_autocast_it_is_in_float32_with_its_gradients() -> None:
    convolution = DepthwiseConv2d(nn.Conv2d(6, 6, 3, padding=1, groups=6))
    images = torch.randn(4, 6, 8, 8)
    seed = torch.randn(4, 6, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolution(images)
        others = functional.conv2d(images, convolution.weight, groups=6)
    assert found.dtype == torch.float32
    assert others.dtype == torch.bfloat16  # what autocast does to other convolutions
    found.backward(seed)

    # Each weight's gradient is a product of the image, moved by its place, and the output's.
    padded = functional.pad(images.double(), (1, 1, 1, 1))
    for y in range(3):
        for x in range(3):
            moved = padded[:, :, y : y + 8, x : x + 8]
            expected = (moved * seed.double()).sum(dim=(0, 2, 3))
            gradient = convolution.weight.grad
            assert gradient is not None
            torch.testing.assert_close(
                gradient[:, 0, y, x].double(), expected, rtol=1e-4, atol=1e-4
            )


def test_other_convolutions_stay() -> None:
    class Padded(nn.Conv2d):
        """A convolution with a forward pass of its own, such as timm's."""

    kept = [Padded(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(1, 8, 3)]
    network = replace_depthwise(nn.ModuleList(kept))
    assert list(network.children()) == kept
