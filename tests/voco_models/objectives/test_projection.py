"""Targets and losses of 3D-to-2D networks, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voco_models.data import Batch, InputWindow, ProjectionAugmentation
from voco_models.objectives.projection import (
    LABELLED,
    PLANES,
    PRETEXTS,
    ReconstructionObjective,
    SegmentationObjective,
    map_name,
    pretext_image,
    valid_name,
)
from voco_models.objectives.reconstruction import negative_ssim_loss
from voco_models.objectives.segmentation import dice_bce_loss

STILL = ProjectionAugmentation()
WINDOW = InputWindow(0.0, 200.0)
SHAPE = (16, 20, 24)
"""(Z, Y, X)"""


class MeanNetwork(nn.Module):
    """The mean along the depth, times a weight: what reaches it is seen in its output."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, channels + 1)[:, None, None])

    def forward(self, volumes: Tensor) -> Tensor:
        return volumes.mean(dim=-1) * self.weight


def networks(channels: int = 1) -> dict[Any, nn.Module]:
    return {plane: MeanNetwork(channels) for plane in PLANES}


def batch(count: int = 3, **targets: Tensor) -> Batch:
    volumes = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8)
    return Batch(volumes, torch.arange(count), seed=7, targets=targets)


def test_planes_collapse_the_axis_that_they_do_not_show() -> None:
    given = batch()
    logits = SegmentationObjective(networks(), STILL, WINDOW).predict(given.volumes)
    centred = 2 * (given.volumes.float() / 200).clamp(0, 1) - 1
    torch.testing.assert_close(logits["coronal"][:, 0], centred.mean(dim=2))  # (B, Z, X)
    torch.testing.assert_close(logits["sagittal"][:, 0], centred.mean(dim=3))  # (B, Z, Y)


def test_pretexts_by_hand() -> None:
    """A column along Y with the values 0, 1, 0.5, 0: its mass lies at (1.5 + 0.5 * 2.5) / 1.5."""
    unit = torch.zeros(1, 1, 4, 2)
    unit[0, 0, :, 0] = torch.tensor([0.0, 1.0, 0.5, 0.0])
    found = {p: pretext_image(unit, "coronal", p) for p in PRETEXTS}
    assert {image.shape for image in found.values()} == {(1, 1, 1, 2)}
    assert found["mean"].flatten().tolist() == pytest.approx([0.375, 0.0])
    assert found["maximum"].flatten().tolist() == pytest.approx([1.0, 0.0])
    assert found["depth"].flatten().tolist() == pytest.approx([(1.5 + 1.25) / 1.5 / 4, 0.0])
    across = pretext_image(unit, "sagittal", "mean")
    assert across.flatten().tolist() == pytest.approx([0.0, 0.5, 0.25, 0.0])


def test_the_loss_of_organs_is_the_mean_of_both_planes() -> None:
    z, y, x = SHAPE
    targets = {
        map_name("coronal"): torch.rand(3, 2, z, x) > 0.5,
        map_name("sagittal"): torch.rand(3, 2, z, y) > 0.5,
        LABELLED: torch.tensor([[True, True], [True, False], [False, False]]),
    }
    given = batch(**targets)
    objective = SegmentationObjective(networks(2), STILL, WINDOW)
    losses = objective(given)
    logits = objective.predict(given.volumes)
    for plane in PLANES:
        expected = dice_bce_loss(logits[plane], targets[map_name(plane)], targets[LABELLED])
        assert losses[plane].item() == pytest.approx(expected.item(), abs=1e-5)
    assert losses["loss"].item() == pytest.approx(
        (losses["coronal"].item() + losses["sagittal"].item()) / 2
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_shuffled_volume_gets_the_image_of_another_one(shuffled: bool) -> None:
    given = batch()
    objective = ReconstructionObjective(networks(), STILL, WINDOW, "maximum", shuffled=shuffled)
    losses = objective(given)
    logits = objective.predict(given.volumes)
    images = (given.volumes.float() / 200).clamp(0, 1).amax(dim=2)[:, None]
    partner = images[[2, 0, 1]] if shuffled else images
    assert losses["coronal"].item() == pytest.approx(
        negative_ssim_loss(logits["coronal"], partner).item(), abs=1e-5
    )


def image_targets(volumes: Tensor, valid: bool = True) -> dict[str, Tensor]:
    """The maxima of volumes as given images, valid everywhere or nowhere."""
    unit = volumes.float() / 200
    images = {"coronal": unit.amax(dim=2)[:, None], "sagittal": unit.amax(dim=3)[:, None]}
    return {map_name(p): images[p] for p in PLANES} | {
        valid_name(p): torch.full_like(images[p], valid, dtype=torch.bool) for p in PLANES
    }


def test_given_images_are_targets_and_move_with_the_volume() -> None:
    """Pixels that come in from beyond an image are not in the loss; the rest is as computed."""
    volumes = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    volumes[:, 4:10, 6:12, 8:15] = 200
    given = Batch(volumes, torch.arange(2), seed=3, targets=image_targets(volumes))
    moved = ProjectionAugmentation(shift=0.1)
    objective = ReconstructionObjective(networks(), moved, WINDOW)
    paired = objective(given)
    unit, draws = objective._augment(given)
    logits = objective._logits(unit)
    for plane, axes in (("coronal", (1, 3)), ("sagittal", (1, 2))):
        shape = given.targets[map_name(plane)].shape
        inside = draws.move_maps(torch.ones(shape), axes) > 0.999
        assert 0.5 < inside.float().mean() < 1
        expected = negative_ssim_loss(logits[plane], pretext_image(unit, plane, "maximum"), inside)
        assert paired[plane].item() == pytest.approx(expected.item(), abs=1e-5)
    still = ReconstructionObjective(networks(), STILL, WINDOW)(given)
    computed = ReconstructionObjective(networks(), STILL, WINDOW, "maximum")(given)
    assert still["loss"].item() == pytest.approx(computed["loss"].item(), abs=1e-5)
    assert paired["loss"].item() != pytest.approx(still["loss"].item(), abs=1e-3)


def test_a_shuffled_image_brings_its_own_valid_pixels() -> None:
    given = batch(**image_targets(batch().volumes))
    targets = dict(given.targets)
    targets[valid_name("coronal")] = targets[valid_name("coronal")].clone()
    targets[valid_name("coronal")][1] = False
    targets[map_name("coronal")] = targets[map_name("coronal")].clone()
    targets[map_name("coronal")][1] = 0.5  # never seen
    given = Batch(given.volumes, given.items, given.seed, targets)
    objective = ReconstructionObjective(networks(), STILL, WINDOW, shuffled=True)
    found = objective(given)["coronal"]
    logits = objective.predict(given.volumes)["coronal"]
    order = [2, 0, 1]  # the volume 2 has the image of 1, which shows nothing
    images = given.targets[map_name("coronal")][order]
    assert found.item() == pytest.approx(
        negative_ssim_loss(logits[:2], images[:2]).item(), abs=1e-5
    )


def test_the_network_of_a_plane_without_images_is_left_alone() -> None:
    given = batch(**image_targets(batch().volumes))
    targets = {n: t for n, t in given.targets.items() if "coronal" in n}
    given = Batch(given.volumes, given.items, given.seed, targets)
    objective = ReconstructionObjective(networks(), STILL, WINDOW, planes=("coronal",))
    losses = objective(given)
    assert losses.keys() == {"loss", "coronal"}
    losses["loss"].backward()
    (untrained,) = objective.networks["sagittal"].parameters()
    (trained,) = objective.networks["coronal"].parameters()
    assert not untrained.requires_grad
    assert untrained.grad is None
    assert trained.grad is not None
    assert [p for group in objective.parameter_groups() for p in group["params"]] == [trained]
    assert objective.predict(given.volumes).keys() == set(PLANES)


def test_gradients_reach_both_networks() -> None:
    objective = ReconstructionObjective(networks(), STILL, WINDOW, "mean")
    objective(batch())["loss"].backward()
    for plane in PLANES:
        (weight,) = objective.networks[plane].parameters()
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
