"""Operations and saved bytes of small networks, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voco_models.bench.counting import LiveBytes, count_flops, count_saved

FLOAT = 4
"""Bytes."""


def test_operations_of_a_convolution_by_hand() -> None:
    conv = nn.Conv2d(3, 8, kernel_size=5, padding=2, bias=False)
    images = torch.randn(2, 3, 7, 9)
    # 2 per multiply-add, for each output value: 3 channels and 5 x 5 weights.
    forward = 2 * (2 * 8 * 7 * 9) * (3 * 5 * 5)
    assert count_flops(lambda: conv(images)) == forward
    # No gradient of the images: once more for the weights.
    assert count_flops(lambda: conv(images).sum().backward()) == 2 * forward
    images.requires_grad_()
    assert count_flops(lambda: conv(images).sum().backward()) == 3 * forward


@pytest.mark.parametrize("groups", [2, 4])
def test_operations_of_a_grouped_convolution_by_hand(groups: int) -> None:
    conv = nn.Conv3d(4, 8, kernel_size=3, padding=1, groups=groups, bias=False)
    volumes = torch.randn(1, 4, 5, 6, 7, requires_grad=True)
    forward = 2 * (8 * 5 * 6 * 7) * (4 // groups * 27)
    assert count_flops(lambda: conv(volumes)) == forward
    assert count_flops(lambda: conv(volumes).sum().backward()) == 3 * forward


def test_operations_of_a_transposed_convolution_by_hand() -> None:
    conv = nn.ConvTranspose2d(4, 6, kernel_size=2, stride=2, groups=2, bias=False)
    images = torch.randn(3, 4, 5, 5, requires_grad=True)
    # For each input value: 6 / 2 channels and 2 x 2 weights.
    forward = 2 * (3 * 4 * 5 * 5) * (3 * 2 * 2)
    assert count_flops(lambda: conv(images)) == forward
    assert count_flops(lambda: conv(images).sum().backward()) == 3 * forward


def test_operations_of_a_matrix_product_by_hand() -> None:
    assert count_flops(lambda: torch.randn(3, 5) @ torch.randn(5, 7)) == 2 * 3 * 5 * 7


def test_saved_bytes_by_hand() -> None:
    net = nn.Sequential(nn.Linear(10, 20), nn.Sigmoid(), nn.Linear(20, 4), nn.Sigmoid())
    rows = torch.randn(6, 10)
    with count_saved(net) as saved:
        net(rows)
    # The input, and the output of each sigmoid: the first is also the input of the second layer.
    assert saved.total == FLOAT * 6 * (10 + 20 + 4)


def test_weights_are_not_saved_bytes() -> None:
    net = nn.Linear(10, 20, bias=False)
    rows = torch.randn(6, 10, requires_grad=True)
    with count_saved(net) as saved:
        net(rows).sum().backward()
    assert saved.total == FLOAT * 6 * 10
    with count_saved(nn.Module()) as with_weights:
        net(rows)
    assert with_weights.total == FLOAT * (6 * 10 + 10 * 20)


def test_a_view_saves_the_storage_once() -> None:
    rows = torch.randn(8, 10, requires_grad=True)
    doubled = rows * 2
    with count_saved(nn.Module()) as saved:
        _ = doubled[:4] * doubled[4:]
    assert saved.total == FLOAT * 8 * 10


def test_live_bytes_by_hand() -> None:
    rows = torch.randn(6, 10)
    with LiveBytes() as live:
        first = torch.zeros(100)
        second = first[:10].view(2, 5)  # no memory of its own
        assert live.now == FLOAT * 100
        third = torch.zeros(300)
        assert live.now == live.peak == FLOAT * 400
        del first
        assert live.now == FLOAT * 400  # the second still needs it
        del second, third
        assert (live.now, live.peak) == (0, FLOAT * 400)
        third = rows + 1
        assert (live.now, live.peak) == (FLOAT * 60, FLOAT * 400)
    assert third.shape == rows.shape


def test_live_bytes_of_a_backward_pass_by_hand() -> None:
    weight = torch.randn(20, 10, requires_grad=True)
    rows = torch.randn(6, 10)
    with LiveBytes() as live:
        (rows @ weight.T).sigmoid().sum().backward()
    assert live.now == FLOAT * 20 * 10  # the gradient of the weight
    # The sigmoid and its gradient, of 6 x 20 numbers each, with the product or with its gradient.
    assert live.peak >= FLOAT * 2 * 6 * 20
