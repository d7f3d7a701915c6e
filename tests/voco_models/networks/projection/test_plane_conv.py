"""Convolutions by planes against PyTorch's Conv3d, with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from voco_models.networks.projection.plane_conv import PlaneConv3d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)},
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)},
        {"kernel_size": (1, 1, 3), "padding": (0, 0, 1), "stride": (1, 1, 2)},
        {"kernel_size": (1, 1, 1), "stride": (1, 1, 8)},
        {"kernel_size": (1, 1, 4)},
        {"kernel_size": (3, 3, 3), "padding": (1, 1, 1)},
        {"kernel_size": (3, 1, 3), "padding": (1, 0, 1)},
    ],
)
def test_it_is_conv3d(options: dict[str, Any], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours = PlaneConv3d(3, 5, bias=False, **options).double()
    theirs = nn.Conv3d(3, 5, bias=False, **options).double()
    theirs.load_state_dict(ours.state_dict())
    volumes = torch.randn(2, 3, 6, 8, 16, dtype=torch.float64)
    inputs = [volumes.to(memory_format=memory_format).requires_grad_() for _ in range(2)]
    found, expected = ours(inputs[0]), theirs(inputs[1])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-10, atol=1e-10)


def test_slices_with_the_channels_last_are_not_copied() -> None:
    volumes = torch.randn(2, 3, 6, 8, 16).contiguous(memory_format=torch.channels_last_3d)
    slices = volumes.transpose(1, 2).flatten(0, 1)
    assert slices.data_ptr() == volumes.data_ptr()
    assert slices.is_contiguous(memory_format=torch.channels_last)
    conv = PlaneConv3d(3, 4, (1, 3, 3), padding=(0, 1, 1), bias=False)
    assert conv(volumes).is_contiguous(memory_format=torch.channels_last_3d)
