"""Activations that are computed again: the same gradients, statistics and dropout, less memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from voco_data.errors import InputError
from voco_models.bench.counting import LiveBytes, count_saved
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.encoder import Backbone
from voco_models.networks.recompute import StatisticsGuard
from voco_models.networks.registry import create_backbone
from voco_models.networks.slice_features import SliceFeatures

FLOAT = 4
"""Bytes."""
SIDE = 64
TOLERANCE = 1e-5

VOLUMES = torch.rand(2, 6, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1

SAME = [
    ({"recompute": "blocks"}, {}),
    ({"recompute": "calls", "images_per_call": 12}, {}),  # one call, as without
    ({"recompute": "blocks", "images_per_call": 4}, {"images_per_call": 4}),
    ({"recompute": "calls", "images_per_call": 4}, {"images_per_call": 4}),
    ({"recompute": "calls", "images_per_call": 5}, {"images_per_call": 5}),  # 5, 5 and 2
]
"""Options, and those of the pass that keeps all activations and has the same batch norm."""


def features_of(name: str = TINY_BACKBONE, **options: Any) -> SliceFeatures:
    """Features in training mode, with dropout inside the backbone."""
    torch.manual_seed(0)
    backbone = create_backbone(name)
    network = backbone.network
    stages = network.stages if hasattr(network, "stages") else network.blocks
    stages[1].append(nn.Dropout(0.3))
    return SliceFeatures(backbone, SIDE, **options).train()


def gradients_of(features: SliceFeatures, volumes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The features, and gradients of a loss that weights each of them differently."""
    torch.manual_seed(1)  # dropout
    found = features(volumes)
    loss = (found.square() * torch.linspace(0.5, 2, found.numel()).view_as(found)).sum()
    loss.backward()
    return found.detach(), {name: p.grad for name, p in features.named_parameters()}


@pytest.mark.parametrize("pooling", ["mean", "quadrants", "stages"])
@pytest.mark.parametrize(("options", "plain"), SAME)
def test_gradients_are_those_of_kept_activations(
    options: dict[str, Any], plain: dict[str, Any], pooling: str
) -> None:
    volumes = VOLUMES.double()
    found, gradients = gradients_of(features_of(pooling=pooling, **options).double(), volumes)
    expected, kept = gradients_of(features_of(pooling=pooling, **plain).double(), volumes)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert sum(float(gradient.abs().sum()) for gradient in kept.values()) > 1
    torch.testing.assert_close(gradients, kept, rtol=TOLERANCE, atol=TOLERANCE)


def test_an_efficientnet_recomputes_its_blocks() -> None:
    volumes = VOLUMES[:, :2].double()
    _, gradients = gradients_of(
        features_of("efficientnet_lite0", recompute="blocks").double(), volumes
    )
    _, kept = gradients_of(features_of("efficientnet_lite0").double(), volumes)
    torch.testing.assert_close(gradients, kept, rtol=TOLERANCE, atol=TOLERANCE)


def test_parts_have_other_statistics_than_the_whole() -> None:
    """Why `calls` is not `blocks`: batch norm normalises the slices of a call."""
    parts, _ = gradients_of(features_of(recompute="calls", images_per_call=4), VOLUMES)
    whole, _ = gradients_of(features_of(), VOLUMES)
    assert not torch.allclose(parts, whole, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "calls"),
    [({"recompute": "blocks"}, 1), ({"recompute": "calls", "images_per_call": 3}, 4)],
)
def test_statistics_of_batch_norm_are_updated_once(options: dict[str, Any], calls: int) -> None:
    """By hand for the first batch norm: m <- 0.9 m + 0.1 mean of the call, from 0."""
    features = features_of(**options)
    before = copy.deepcopy(features.backbone)
    guard = StatisticsGuard()
    guard.restore()  # nothing yet
    found = features(VOLUMES)
    guard.keep(features)
    found.sum().backward()
    norms = [m for m in features.modules() if isinstance(m, _BatchNorm)]
    assert max(int(norm.num_batches_tracked) for norm in norms) == 2 * calls
    guard.restore()
    assert {int(norm.num_batches_tracked) for norm in norms} == {calls}
    mean = torch.zeros(24)
    for images in VOLUMES.reshape(12, 1, SIDE, SIDE).split(12 // calls):
        mean = 0.9 * mean + 0.1 * before.network.stem.conv(images).mean(dim=(0, 2, 3))
    torch.testing.assert_close(features.backbone.network.stem.bn.running_mean, mean)
    with torch.no_grad():
        norms[0].running_mean.fill_(7)
    guard.restore()  # only once
    assert float(norms[0].running_mean[0]) == 7


def kept_bytes(**options: Any) -> int:
    features = features_of(**options)
    with count_saved(features) as saved:
        features(VOLUMES)
    return saved.total


def test_kept_bytes_by_hand() -> None:
    """`test_byobnet` halves the side in the stem and in each of its four stages."""
    slices = len(VOLUMES) * VOLUMES.shape[1]
    images = SIDE**2
    # Kept of `calls`: the images alone. The mean of a map keeps nothing.
    assert kept_bytes(recompute="calls", images_per_call=4) == FLOAT * slices * images
    # Of `blocks`: the images, what the stem's batch norm and rectifier gave, and the inputs of the
    # stages after the first one, whose input is the rectifier's.
    stem = 2 * 24 * 32**2
    between = 32 * 16**2 + 64 * 8**2 + 128 * 4**2
    by_hand = FLOAT * slices * (images + stem + between)
    small = FLOAT * 2 * 24  # mean and deviation of the stem's batch norm
    assert by_hand <= kept_bytes(recompute="blocks") <= by_hand + small
    # Without: at least the convolutions' outputs and the batch norms' in the first stage too.
    assert kept_bytes() >= by_hand + FLOAT * slices * 2 * (16 + 32 + 32) * 16**2


def peak_bytes(slices: int, **options: Any) -> int:
    """Largest memory of forward and backward pass of one volume of so many slices."""
    features = features_of(**options)
    volumes = torch.rand(1, slices, SIDE, SIDE)
    with LiveBytes() as live:
        features(volumes).sum().backward()
    return live.peak


def test_only_one_call_lives_at_a_time() -> None:
    """A further call adds the 256 features of its slices, and their gradients."""
    few, many = (peak_bytes(n, recompute="calls", images_per_call=4) for n in (8, 40))
    assert many - few <= 32 * FLOAT * 4 * 256
    kept_few, kept_many = (peak_bytes(n, images_per_call=4) for n in (8, 40))
    assert kept_many - kept_few > 32 * FLOAT * 2 * 24 * 32**2


class Plain(Backbone):
    """A backbone that cannot recompute."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_a_backbone_that_cannot_recompute_is_refused() -> None:
    with pytest.raises(InputError, match="turn recompute off"):
        SliceFeatures(Plain("plain", 1, 1), SIDE, recompute="blocks")


def test_prediction_is_the_same() -> None:
    """Without gradients nothing is kept and nothing computed again."""
    expected = features_of().eval()
    for options in ({"recompute": "blocks"}, {"recompute": "calls", "images_per_call": 5}):
        with torch.inference_mode():
            found = features_of(**options).eval()(VOLUMES)
        torch.testing.assert_close(found, expected(VOLUMES), rtol=1e-4, atol=1e-5)


def test_unused_parameters_are_found_where_activations_are_recomputed() -> None:
    backbone = create_backbone(TINY_BACKBONE).train()
    backbone.set_recompute(True)
    assert backbone.unused_parameters() == []
    assert backbone.training
