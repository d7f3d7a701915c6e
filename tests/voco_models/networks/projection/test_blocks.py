"""Blocks of projection networks beside their formulas, as new in evaluation mode.

A new batch normalisation divides by sqrt(1 + 1e-5) then.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_models.networks import create_projection_network
from voco_models.networks.projection.blocks import DepthReduction, Kernel, ResidualBlock
from voco_models.networks.projection.encoder_decoder import Decoder
from voco_models.networks.projection.fpn import FeatureProjection
from voco_models.networks.projection.resensnet import WholeDepthProjection

NORM = (1 + 1e-5) ** -0.5


def weights_of(module: nn.Module) -> list[Tensor]:
    """Of the convolutions, in the order in which they were made."""
    return [m.weight for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]


@pytest.mark.parametrize("kernels", [((3, 3), (3, 3)), ((1, 3, 3), (1, 3, 3), (3, 1, 1))])
def test_a_residual_block_adds_its_input(kernels: tuple[Kernel, ...]) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(5, 5, kernels).eval()
    x = torch.randn(2, 5, *(8, 9, 7)[: len(kernels[0])])
    conv = functional.conv2d if len(kernels[0]) == 2 else functional.conv3d
    y = x
    for index, weight in enumerate(weights_of(block)):
        y = conv(y.relu() if index else y, weight, padding="same") * NORM
    torch.testing.assert_close(block(x), (x + y).relu(), rtol=1e-4, atol=1e-5)


def test_a_residual_block_of_other_channels_adds_a_layer_of_its_input() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3, 4, ((3, 3), (3, 3))).eval()
    x = torch.randn(2, 3, 8, 9)
    first, second, shortcut = weights_of(block)
    y = functional.conv2d(x, first, padding="same") * NORM
    y = functional.conv2d(y.relu(), second, padding="same") * NORM
    expected = (y + functional.conv2d(x, shortcut) * NORM).relu()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [32, 37])
def test_a_depth_reduction_adds_every_fourth_depth(depth: int) -> None:
    torch.manual_seed(0)
    reduction = DepthReduction(4, 2).eval()
    x = torch.randn(1, 4, 2, 3, depth)
    first, second, shortcut = weights_of(reduction)
    y = functional.conv3d(x, first, stride=(1, 1, 2), padding=(0, 0, 1)) * NORM
    y = functional.conv3d(y.relu(), second, stride=(1, 1, 2), padding=(0, 0, 1)) * NORM
    expected = (y + functional.conv3d(x[..., ::4], shortcut) * NORM).relu()
    torch.testing.assert_close(reduction(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [4, 5, 31])
def test_a_projection_of_features_constant_along_the_depth_is_the_sum_of_its_kernel(
    depth: int,
) -> None:
    """On the deepest level. No depth is padded, so the depth of the volume does not matter."""
    torch.manual_seed(0)
    projection = FeatureProjection(6, 0).eval()
    image = torch.randn(2, 6, 3, 5)
    (kernel,) = weights_of(projection)
    expected = torch.einsum("oc,nczw->nozw", kernel[:, :, 0, 0].sum(dim=-1), image) * NORM
    found = projection(image[..., None].expand(-1, -1, -1, -1, depth))
    torch.testing.assert_close(found, expected.relu(), rtol=1e-5, atol=1e-5)


def test_a_projection_is_the_mean_over_the_places_of_its_kernel() -> None:
    torch.manual_seed(0)
    projection = FeatureProjection(6, 0).eval()
    features = torch.randn(2, 6, 3, 5, 6)
    of_places = [projection(features[..., start : start + 4]) for start in range(3)]
    expected = torch.stack(of_places).mean(dim=0)
    torch.testing.assert_close(projection(features), expected, rtol=1e-5, atol=1e-6)


def test_a_projection_does_not_mix_columns() -> None:
    torch.manual_seed(0)
    projection = FeatureProjection(4, 2).eval()
    features = torch.randn(1, 4, 5, 6, 32)
    changed = features.clone()
    changed[:, :, 2, 3] += 1
    differs = (projection(features) != projection(changed)).any(dim=1)[0]
    assert differs.nonzero().tolist() == [[2, 3]]


def test_resensnets_kernel_weighs_each_of_8_depths() -> None:
    torch.manual_seed(0)
    projection = WholeDepthProjection(4, 0).eval()
    features = torch.randn(1, 4, 2, 3, 8)
    (kernel,) = weights_of(projection)
    expected = torch.einsum("ocd,nczwd->nozw", kernel[:, :, 0, 0], features) * NORM
    torch.testing.assert_close(projection(features), expected.relu(), rtol=1e-5, atol=1e-5)


def test_resensnet_averages_more_depths_than_8_and_repeats_fewer() -> None:
    torch.manual_seed(0)
    projection = WholeDepthProjection(4, 0).eval()
    features = torch.randn(1, 4, 2, 3, 16)
    pairs = features.unflatten(-1, (8, 2)).mean(dim=-1)
    torch.testing.assert_close(projection(features), projection(pairs))
    few = features[..., :4]
    torch.testing.assert_close(projection(few), projection(few.repeat_interleave(2, dim=-1)))


def test_a_decoder_repeats_pixels_and_joins_the_skip() -> None:
    decoder = Decoder((2, 3), lambda _in_channels, _out_channels: nn.Identity())
    skip, deepest = torch.randn(1, 2, 8, 6), torch.randn(1, 3, 4, 6)
    expected = torch.cat([deepest.repeat_interleave(2, dim=2), skip], dim=1)
    assert torch.equal(decoder([skip, deepest]), expected)


def test_lachinovs_skips_and_output_are_means_along_the_depth() -> None:
    torch.manual_seed(0)
    body = create_projection_network("lachinov", (1, 2, 3, 4, 5), 1).eval().body
    encoded: list[Tensor] = []
    skips: list[Tensor] = []
    decoded: list[Tensor] = []
    body.get_submodule("encoder").register_forward_hook(lambda _m, _i, out: encoded.extend(out))
    body.get_submodule("decoder").register_forward_pre_hook(lambda _m, args: skips.extend(args[0]))
    body.get_submodule("decoder").register_forward_hook(lambda _m, _i, out: decoded.append(out))
    maps = body(torch.randn(1, 1, 4, 16, 64))
    for level, (features, skip) in enumerate(zip(encoded, skips, strict=True)):
        expected = features.unflatten(-1, (8, 8 >> level)).mean(dim=-1)
        torch.testing.assert_close(skip, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps, decoded[0].mean(dim=-1))
