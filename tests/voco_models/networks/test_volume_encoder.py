"""The encoder of volumes: what its backbone sees, and the embedding worked out with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.networks.encoder import Backbone, EncoderOptions, SliceEncoder
from voco_models.networks.registry import create_backbone, create_encoder
from voco_models.networks.volume_encoder import VolumeEncoder


class Blocks(Backbone):
    """Means and maxima of blocks of 2 slices, 4 rows and 4 columns: F = 2."""

    def __init__(self) -> None:
        super().__init__("blocks", 1, 2)
        self.scale = nn.Parameter(torch.ones(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape))
        pools = functional.avg_pool3d, functional.max_pool3d
        return torch.cat([pool(images, (2, 4, 4)) for pool in pools], dim=1) * self.scale


def encoder_of(crop_px: tuple[int, int] = (8, 12), **options: Any) -> VolumeEncoder:
    encoder = VolumeEncoder(Blocks(), crop_px, EncoderOptions(**options))
    encoder.projector = nn.Identity()
    return encoder


def blocks_by_numpy(crops: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Means and maxima of the blocks, averaged over the depth: (B, N, h', w') each."""
    B, N, Z, h, w = crops.shape
    blocks = crops.numpy().reshape(B, N, Z // 2, 2, h // 4, 4, w // 4, 4)
    return blocks.mean(axis=(2, 3, 5, 7)), blocks.max(axis=(3, 5, 7)).mean(axis=2)


@pytest.mark.parametrize("slices", [2, 6])
def test_the_map_is_averaged_over_the_depth_and_flattened(slices: int) -> None:
    crops = torch.rand(2, 5, slices, 8, 12)
    means, maxima = blocks_by_numpy(crops)
    expected = np.stack([means, maxima], axis=2).reshape(2, 5, 2 * 2 * 3)
    np.testing.assert_allclose(encoder_of()(crops).numpy(force=True), expected, rtol=1e-5)


def test_gap_is_the_average_of_the_map() -> None:
    crops = torch.rand(2, 5, 4, 8, 12)
    means, maxima = blocks_by_numpy(crops)
    expected = np.stack([means.mean(axis=(2, 3)), maxima.mean(axis=(2, 3))], axis=2)
    found = encoder_of(feature="gap")(crops).numpy(force=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_crops_are_resized_in_the_plane_only() -> None:
    encoder = encoder_of(encode_px=8)
    crops = torch.rand(1, 2, 4, 16, 16)
    found = encoder(crops)
    backbone = encoder.backbone
    assert isinstance(backbone, Blocks)
    assert backbone.sizes[-1] == (2, 1, 4, 8, 8)
    slices = [
        functional.interpolate(
            crops[:, :, z], (8, 8), mode="bilinear", antialias=True, align_corners=False
        )
        for z in range(4)
    ]
    torch.testing.assert_close(found, encoder_of((8, 8))(torch.stack(slices, dim=2)))


@pytest.mark.parametrize(("feature", "width"), [("map", 512 * 2 * 3), ("gap", 512)])
def test_the_projector_has_the_width_of_the_features(feature: Any, width: int) -> None:
    """The map has 1/16 of the pixels along each axis."""
    options = EncoderOptions(feature=feature, projector_width=8, embedding=4)
    encoder = create_encoder("monai:resnet18", (32, 48), options)
    assert isinstance(encoder, VolumeEncoder)
    assert encoder.projector.layers[0].in_features == width  # type: ignore[union-attr,index]
    for slices in (1, 5, 20):  # the width does not depend on them
        assert encoder(torch.rand(2, 3, slices, 32, 48)).shape == (2, 3, 4)


def test_a_volume_is_more_than_its_slices() -> None:
    """The order of the slices counts in 3D; the 2D encoder averages over them."""
    options = EncoderOptions(projector_width=8, embedding=4)
    crops = torch.rand(2, 3, 6, 32, 32)
    volumes = create_encoder("monai:resnet18", (32, 32), options)
    slices = SliceEncoder(create_backbone("test_byobnet"), (32, 32), options)
    changes = [
        (encoder(crops) - encoder(crops.flip(2))).abs().max().item()
        for encoder in (volumes.train(), slices.train())  # batch norm of the batch, as in training
    ]
    assert changes[0] > 1e-2
    assert changes[1] < 1e-3


def test_the_level_of_slices_is_refused() -> None:
    with pytest.raises(InputError, match="backbone blocks gives one for all slices") as caught:
        encoder_of(level="slice")
    assert "\n" not in str(caught.value)


def test_slices_are_checked_with_the_plane_that_the_backbone_sees() -> None:
    options = EncoderOptions(encode_px=32, projector_width=8, embedding=4)
    encoder = create_encoder("monai:efficientnet_b0", (16, 16), options)
    encoder.check_slices(32)
    with pytest.raises(InputError, match="got 31 x 32 x 32"):
        encoder.check_slices(31)
    create_encoder("test_byobnet", (32, 32), options).check_slices(1)  # 2D takes any
