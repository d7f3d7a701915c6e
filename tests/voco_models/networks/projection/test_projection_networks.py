"""Projection networks: shapes by the published table, sizes, gradients, and what they see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.networks import (
    PROJECTION_NETWORKS,
    PROJECTION_WIDTHS,
    TINY_PROJECTION_WIDTHS,
    ProjectionNetwork,
    create_projection_network,
    to_projection_axes,
)

Shape = tuple[int, ...]
LEVEL_SIZES = ((32, 256, 128), (32, 128, 64), (32, 64, 32), (16, 32, 16), (8, 16, 8))
"""(Z, W, D) by level for a volume of (32, 256, 128): the table of Morano et al."""


def shapes_of(network: nn.Module, volume: Tensor, *prefixes: str) -> dict[str, list[Shape]]:
    """Output shapes (without N) of the direct children of modules, in the order of their calls."""
    found: dict[str, list[Shape]] = {prefix: [] for prefix in prefixes}
    for prefix, shapes in found.items():
        for module in network.get_submodule(prefix).children():
            module.register_forward_hook(
                lambda _module, _inputs, output, to=shapes: to.append(tuple(output.shape[1:]))
            )
    network.eval()(volume)
    return found


@pytest.mark.parametrize("widths", [PROJECTION_WIDTHS, TINY_PROJECTION_WIDTHS, (3, 5, 7, 6, 2)])
@pytest.mark.parametrize("name", ["fpn", "resensnet", "depth_max"])
def test_every_level_has_the_shape_of_the_table(name: str, widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = create_projection_network(name, widths, 2)
        volume = torch.empty(1, 1, 32, 256, 128)
        assert network(volume).shape == (1, 2, 32, 256)
        shapes = shapes_of(
            network, volume, "body.encoder.levels", "body.projections", "body.decoder.levels"
        )
    expected = list(zip(widths, LEVEL_SIZES, strict=True))
    assert shapes["body.encoder.levels"] == [(c, z, w, d) for c, (z, w, d) in expected]
    assert shapes["body.projections"] == [(c, z, w) for c, (z, w, _) in expected]
    assert shapes["body.decoder.levels"] == [(c, z, w) for c, (z, w, _) in expected[-2::-1]]


def test_the_steps_of_the_fpn_projection_have_the_depths_of_the_table() -> None:
    """Convolutions of stride 2 to D/16, the kernel of 4 without padding, then the mean."""
    with torch.device("meta"):
        network = create_projection_network("fpn", PROJECTION_WIDTHS, 1)
        volume = torch.empty(1, 1, 32, 256, 128)
        first, deepest = "body.projections.0", "body.projections.4"
        shapes = shapes_of(network, volume, f"{first}.reduce.halve", first, deepest)
    halved = shapes[f"{first}.reduce.halve"][::2]  # without the ReLUs
    assert halved == [(16, 32, 256, depth) for depth in (64, 32, 16, 8)]
    assert shapes[first] == [(16, 32, 256, 8), (16, 32, 256, 5)]
    assert shapes[deepest] == [(256, 8, 16, 8), (256, 8, 16, 5)]


def test_lachinovs_levels_keep_the_slices_and_an_eighth_of_the_depth() -> None:
    with torch.device("meta"):
        network = create_projection_network("lachinov", PROJECTION_WIDTHS, 1)
        volume = torch.empty(1, 1, 32, 256, 128)
        shapes = shapes_of(
            network, volume, "body.stem", "body.encoder.levels", "body.decoder.levels"
        )
    assert shapes["body.stem"][-1] == (32, 32, 256, 128)
    assert shapes["body.encoder.levels"] == [
        (32, 32, 256, 128),
        (64, 32, 128, 64),
        (128, 32, 64, 32),
        (256, 32, 32, 16),
    ]
    assert shapes["body.decoder.levels"] == [
        (128, 32, 64, 16),
        (64, 32, 128, 16),
        (32, 32, 256, 16),
    ]


def test_the_2d_baseline_has_the_levels_of_the_fpn_without_the_depth() -> None:
    with torch.device("meta"):
        network = create_projection_network("unet_2d", PROJECTION_WIDTHS, 1)
        shapes = shapes_of(network, torch.empty(1, 1, 32, 256, 128), "body.encoder.levels")
    expected = [(c, z, w) for c, (z, w, _) in zip(PROJECTION_WIDTHS, LEVEL_SIZES, strict=True)]
    assert shapes["body.encoder.levels"] == expected


def published_weights() -> int:
    """Weights of the convolutions of the FPN by its table, with two numbers a channel for norms."""
    total, before = 0, 1
    for level, c in enumerate(PROJECTION_WIDTHS):
        n = 4 - level
        total += 9 * before * c + 9 * c * c + before * c + 9 * c * c + 9 * c * c + 3 * c * c
        total += n * 3 * c * c + (c * c if n else 0) + 4 * c * c
        total += 2 * c * (6 + n + (1 if n else 0) + 1)
        before = c
    deeper = 256
    for c in (128, 64, 32, 16):
        total += 9 * (deeper + c) * c + 9 * c * c + (deeper + c) * c + 2 * c * 3
        deeper = c
    return total + 16 + 1


def parameters_of(name: str) -> int:
    with torch.device("meta"):
        network = create_projection_network(name, PROJECTION_WIDTHS, 1)
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_fpn_has_the_published_number_of_parameters() -> None:
    found = parameters_of("fpn")
    assert found == published_weights()
    assert found == pytest.approx(4.37e6, rel=0.005)


def test_resensnet_differs_from_the_fpn_by_the_depth_of_one_kernel() -> None:
    more = sum((8 - 4) * width**2 for width in PROJECTION_WIDTHS)
    assert parameters_of("resensnet") - parameters_of("fpn") == more


@pytest.mark.parametrize("depth", [64, 67, 80, 127, 128, 200, 496])
@pytest.mark.parametrize("name", PROJECTION_NETWORKS)
def test_any_depth_from_64_gives_a_map(name: str, depth: int) -> None:
    with torch.device("meta"):
        network = create_projection_network(name, PROJECTION_WIDTHS, 3, in_channels=2)
        assert network(torch.empty(2, 2, 12, 48, depth)).shape == (2, 3, 12, 48)


def tiny(name: str, out_channels: int = 1) -> ProjectionNetwork:
    torch.manual_seed(0)
    return create_projection_network(name, TINY_PROJECTION_WIDTHS, out_channels)


@pytest.mark.parametrize("depth", [64, 80])
@pytest.mark.parametrize("name", PROJECTION_NETWORKS)
def test_every_parameter_has_a_gradient(name: str, depth: int) -> None:
    network = tiny(name, out_channels=2)
    logits = network(torch.randn(2, 1, 8, 32, depth))
    assert logits.shape == (2, 2, 8, 32)
    (logits * torch.randn_like(logits)).sum().backward()
    without = [
        parameter_name
        for parameter_name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("name", PROJECTION_NETWORKS)
def test_a_pixel_sees_its_own_column_most(name: str) -> None:
    """Z and W have the same size here: networks that exchange them have the right shape, too."""
    network = tiny(name).eval()
    volume = torch.randn(1, 1, 32, 32, 64, requires_grad=True)
    z, w = 9, 21
    network(volume)[0, 0, z, w].backward()
    assert volume.grad is not None
    strength = volume.grad[0, 0].abs().sum(dim=-1)
    near = strength[z - 3 : z + 4, w - 3 : w + 4]
    assert strength.argmax() in [32 * i + j for i in range(6, 13) for j in range(18, 25)]
    assert near.mean() > 3 * strength.mean()


@pytest.mark.parametrize("name", PROJECTION_NETWORKS)
def test_only_the_2d_baseline_ignores_the_order_of_depths(name: str) -> None:
    network = tiny(name).eval()
    volume = torch.randn(1, 1, 8, 16, 64)
    with torch.no_grad():
        maps = network(volume), network(volume[..., torch.randperm(64)])
    same = torch.allclose(*maps, rtol=1e-4, atol=1e-5)
    assert same == (name == "unet_2d")


def test_the_2d_baseline_sees_the_image_that_is_constant_along_the_depth() -> None:
    network = tiny("unet_2d").eval()
    image = torch.randn(1, 1, 8, 16)
    seen = []
    network.get_submodule("body.encoder").register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0])
    )
    network(image[..., None].expand(-1, -1, -1, -1, 64))
    torch.testing.assert_close(seen[0], torch.cat([image, image], dim=1))


def test_depth_max_takes_the_largest_features() -> None:
    network = tiny("depth_max").eval()
    features = torch.randn(1, 4, 2, 3, 9)
    projected = network.get_submodule("body.projections.0")(features)
    assert torch.equal(projected, features.max(dim=-1).values)


def test_a_coronal_map_loses_y_and_a_sagittal_map_loses_x() -> None:
    volume = torch.randn(1, 1, 3, 4, 5)  # (N, C, Z, Y, X)
    coronal, sagittal = (to_projection_axes(volume, plane) for plane in ("coronal", "sagittal"))
    torch.testing.assert_close(coronal.mean(dim=-1), volume.mean(dim=3))
    torch.testing.assert_close(sagittal.mean(dim=-1), volume.mean(dim=4))
    with pytest.raises(InputError, match="expected the plane coronal or sagittal, got 'axial'"):
        to_projection_axes(volume, "axial")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 32, 64, 63), "a depth D of at least 64, got Z 32, W 64, D 63; crop"),
        ((1, 1, 30, 64, 64), "expected Z divisible by 4, W by 16 .*, got Z 30, W 64, D 64"),
        ((1, 1, 32, 72, 64), "expected Z divisible by 4, W by 16 .*, got Z 32, W 72, D 64"),
        ((1, 1, 0, 64, 64), "got Z 0, W 64"),
        ((1, 32, 64, 64), r"the axes \(N, C, Z, W, D\), got shape \(1, 32, 64, 64\); add"),
        ((1, 3, 32, 64, 64), "with 1 channels, got 3; create the network with in_channels=3"),
    ],
)
@pytest.mark.parametrize("name", PROJECTION_NETWORKS)
def test_other_sizes_are_refused_in_one_line(name: str, shape: Shape, message: str) -> None:
    with torch.device("meta"):
        network = create_projection_network(name, TINY_PROJECTION_WIDTHS, 1)
        with pytest.raises(InputError, match=message) as caught:
            network(torch.empty(shape))
    assert "\n" not in str(caught.value)


def test_one_place_on_the_deepest_level_cannot_be_trained_but_predicted() -> None:
    network = tiny("fpn")
    volume = torch.randn(1, 1, 4, 16, 64)
    with pytest.raises(InputError, match="at least 2 places on the deepest level"):
        network(volume)
    assert network.eval()(volume).shape == (1, 1, 4, 16)


@pytest.mark.parametrize(
    ("name", "widths", "channels", "message"),
    [
        ("unet", TINY_PROJECTION_WIDTHS, 1, "expected one of fpn, .*, got 'unet'"),
        ("fpn", (4, 8, 16, 32), 1, r"expected 5 widths of at least 1, got \(4, 8, 16, 32\); the"),
        ("fpn", (4, 8, 16, 32, 0), 1, "expected 5 widths of at least 1"),
        (
            "fpn",
            TINY_PROJECTION_WIDTHS,
            0,
            "at least 1 input and 1 output channel, got in_channels",
        ),
    ],
)
def test_networks_that_cannot_be_made_are_refused_in_one_line(
    name: str, widths: Shape, channels: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        create_projection_network(name, widths, channels)
