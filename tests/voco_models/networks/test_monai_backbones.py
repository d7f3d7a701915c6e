"""3D backbones: published sizes, the features of MONAI's own forward pass, and one-line errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flows.command import main
from tests.support.project import PROJECT
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_models.networks.registry import create_backbone, takes_volumes

nets = pytest.importorskip("monai.networks.nets")

PUBLISHED = {
    "monai:swin_b": (53.2, (1152, 1, 1, 1)),
    "monai:resnet18": (33.2, (512, 2, 4, 4)),
    "monai:resnet50": (46.2, (2048, 2, 4, 4)),
    "monai:efficientnet_b0": (4.7, (1280, 1, 2, 2)),
}
"""Millions of parameters, and the feature map of 32 slices of 64 x 64 px."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    millions, shape = PUBLISHED[name]
    backbone = create_backbone(name)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert round(count / 1e6, 1) == millions
    assert backbone.feature_shape((32, 64, 64)) == shape
    assert backbone.num_features == shape[0]
    assert takes_volumes(backbone.name)


def resnet18() -> nn.Module:
    network: nn.Module = nets.resnet18(spatial_dims=3, n_input_channels=1, feed_forward=False)
    return network


def efficientnet_b0() -> nn.Module:
    network: nn.Module = nets.EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1
    )
    return network


def swin_unetr() -> nn.Module:
    network: nn.Module = nets.SwinUNETR(
        in_channels=1, out_channels=2, feature_size=48, use_v2=True,
        depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24), window_size=7,
    )  # fmt: skip
    return network


@pytest.mark.parametrize(
    ("name", "build", "classifier"),
    [
        ("monai:resnet18", resnet18, {"fc.weight": torch.zeros(400, 512)}),
        ("monai:efficientnet_b0", efficientnet_b0, {}),  # has a classifier
    ],
)
def test_maps_average_to_what_monai_gives(
    name: str, build: Callable[[], nn.Module], classifier: dict[str, Tensor], tmp_path: Path
) -> None:
    plain = build().eval()
    torch.save(plain.state_dict() | classifier, tmp_path / "weights.pth")
    if hasattr(plain, "_fc"):
        plain._fc = nn.Identity()
    backbone = create_backbone(name, pretrained=tmp_path / "weights.pth").eval()
    images = torch.randn(2, 1, 32, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps, expected = backbone(images), plain(images)
    assert maps.shape[3] != maps.shape[4]
    torch.testing.assert_close(maps.mean(dim=(2, 3, 4)), expected, rtol=1e-4, atol=1e-5)
    assert backbone.plain_weights().keys() == plain.state_dict().keys()


def test_swin_features_are_averages_of_the_skips_of_swin_unetr(tmp_path: Path) -> None:
    plain = swin_unetr().eval()
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    backbone = create_backbone("monai:swin_b", pretrained=tmp_path / "weights.pth").eval()
    skips: dict[str, Tensor] = {}
    for name in ("encoder1", "encoder2", "encoder3", "encoder4", "encoder10"):
        plain.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: skips.update({name: output})
        )
    images = torch.randn(1, 1, 32, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain(images)
        features = backbone(images)
    expected = torch.cat([nn.AdaptiveAvgPool3d(1)(skip) for skip in skips.values()], dim=1)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


LIMITS: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("monai:efficientnet_b0", (32, 32, 32), (31, 32, 32)),
    ("monai:efficientnet_b0", (32, 32, 32), (40, 64, 16)),
    ("monai:swin_b", (32, 32, 64), (32, 32, 32)),
    ("monai:swin_b", (64, 32, 32), (48, 64, 64)),
]


@pytest.mark.parametrize(("name", "possible", "too_small"), LIMITS)
def test_sizes_that_monai_cannot_take_are_refused(
    name: str, possible: tuple[int, ...], too_small: tuple[int, ...]
) -> None:
    backbone = create_backbone(name)
    backbone.check_size(possible)
    with pytest.raises(InputError, match=" x ".join(map(str, too_small))) as caught:
        backbone.feature_shape(too_small)
    assert "\n" not in str(caught.value)
    plain = swin_unetr() if name == "monai:swin_b" else efficientnet_b0()
    with torch.inference_mode(), pytest.raises((RuntimeError, ValueError)):
        plain.eval()(torch.zeros(1, 1, *too_small))


@pytest.mark.parametrize("size", [(1, 16, 16), (5, 33, 20)])
def test_a_resnet_takes_any_size(size: tuple[int, int, int]) -> None:
    backbone = create_backbone("monai:resnet18")
    sixteenths = tuple(-(-side // 16) for side in size)
    assert backbone.feature_shape(size) == (512, *sixteenths)


def test_no_block_is_dropped_in_training() -> None:
    images = torch.randn(4, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone, plain = create_backbone("monai:efficientnet_b0").train(), efficientnet_b0().train()
    with torch.no_grad():
        assert torch.equal(backbone(images), backbone(images))
        assert not torch.equal(plain(images), plain(images))


def test_swin_recomputes_its_blocks_and_gradients_stay_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = create_backbone("monai:swin_b")
    block = backbone.network.swinViT.layers1[0].blocks[0]
    images = torch.randn(1, 1, 8, 8, 64, generator=torch.Generator().manual_seed(0))
    calls, gradients = [], []
    original = type(block).forward_part1

    def counting(self: nn.Module, *inputs: Any) -> Tensor:
        calls.append(self)
        result: Tensor = original(self, *inputs)
        return result

    monkeypatch.setattr(type(block), "forward_part1", counting)
    for recompute, expected in ((False, 1), (True, 2), (False, 1)):
        backbone.set_recompute(recompute)
        backbone.zero_grad()
        calls.clear()
        backbone(images).square().sum().backward()
        assert sum(call is block for call in calls) == expected
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    # Not to the bit: MKL's sums depend on the alignment of the tensors in memory.
    for one, other in zip(gradients[0], gradients[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="turn recompute off"):
        create_backbone("monai:resnet18").set_recompute(True)


@pytest.mark.parametrize("missing", ["monai", "einops"])
def test_without_monai_one_line_names_the_extra(
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)  # Python: then its import fails
    store = make_store(tmp_path / "stores", random_volumes(2, (4, 48, 48)))
    words = ["pretrain", str(store.path), "--out", str(tmp_path / "run"), "--recipe", "tiny"]
    assert main([*words, "--set", "backbone=monai:resnet18"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"voco pretrain: error: backbone monai:resnet18: {missing} is not installed; "
        "pip install 'voco[volumetric]'"
    )
    assert not (tmp_path / "run").exists()


def test_a_2d_network_does_not_load_monai() -> None:
    code = """
        import sys
        from voco_models.networks import create_encoder
        create_encoder("test_byobnet", (32, 32))
        assert not {"monai", "einops"} & set(sys.modules)
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([sys.executable, "-c", lines], cwd=PROJECT, check=True)


def test_names_and_weights_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "resnet.pth")
    cases: list[tuple[str, Any, str]] = [
        ("monai:resnet81", False, "did you mean monai:resnet18"),
        ("monai:", False, "MODEL one of efficientnet_b0, resnet18, resnet50, swin_b, got 'monai:'"),
        ("monai:resnet18", True, "no ImageNet weights of this 3D network"),
        ("monai:resnet50", tmp_path / "resnet.pth", "of the backbone monai:resnet50, but"),
        ("monai:resnet18", tmp_path / "absent.pth", "found none at"),
    ]
    for name, pretrained, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            create_backbone(name, pretrained=pretrained)
        assert "\n" not in str(caught.value)
