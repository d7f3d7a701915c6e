"""timm backbones: shapes are read from the network, and bad names and weights are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from voco_data.errors import InputError
from voco_models.networks.backbones import DEFAULT_BACKBONE, TINY_BACKBONE
from voco_models.networks.registry import create_backbone


def test_the_paper_s_backbone_gives_4096_features_for_a_64_px_crop() -> None:
    backbone = create_backbone(DEFAULT_BACKBONE)
    assert DEFAULT_BACKBONE == "efficientnetv2_rw_t"
    assert backbone.feature_shape(64) == (1024, 2, 2)
    assert backbone.num_features == 1024


@pytest.mark.parametrize(
    ("name", "shape"),
    [("efficientnet_b0", (1280, 2, 3)), ("resnet18", (512, 2, 3)), (TINY_BACKBONE, (256, 2, 3))],
)
def test_the_width_of_any_cnn_is_read_from_the_network(
    name: str, shape: tuple[int, int, int]
) -> None:
    backbone = create_backbone(name)
    assert backbone.feature_shape((64, 96)) == shape
    assert backbone(torch.rand(2, 1, 64, 96)).shape == (2, *shape)
    assert backbone.num_features == shape[0]


def test_feature_shape_leaves_the_network_unchanged() -> None:
    backbone = create_backbone(TINY_BACKBONE).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.feature_shape(64)
    assert backbone.training
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_features_do_not_depend_on_the_memory_layout_of_the_images() -> None:
    backbone = create_backbone(TINY_BACKBONE, in_chans=3).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = backbone(images)
    torch.testing.assert_close(backbone(images.to(memory_format=torch.channels_last)), expected)


def test_an_unknown_name_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match=r"efficientnetv2_rw_tt.*did you mean efficientnetv2_rw_t"):
        create_backbone("efficientnetv2_rw_tt")


def test_a_network_without_a_feature_map_is_refused() -> None:
    with pytest.raises(InputError, match="convolutional"):
        create_backbone("test_vit").feature_shape(160)


def test_missing_weights_are_refused_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none at"):
        create_backbone(TINY_BACKBONE, pretrained=tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(InputError, match=r"expected weights in .* or a state dict") as caught:
        create_backbone(TINY_BACKBONE, pretrained=broken)
    assert "\n" not in str(caught.value)


def test_weights_come_from_a_file_and_the_colour_stem_is_summed(tmp_path: Path) -> None:
    colour = create_backbone(TINY_BACKBONE, in_chans=3).eval()
    weights = {
        **colour.network.state_dict(),
        "head.fc.weight": torch.zeros(1000, 256),
        "head.fc.bias": torch.zeros(1000),
    }
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    grey = create_backbone(TINY_BACKBONE, pretrained=path).eval()
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(
        grey(image), colour(image.expand(1, 3, 64, 64)), rtol=1e-4, atol=1e-5
    )
