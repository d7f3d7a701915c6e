"""Maps that move with their volumes, against projections of the moved volumes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data.augment_projections import ProjectionAugmentation, ProjectionDraws
from voco_models.data.augment_volumes import X, Y, Z

STRONG = ProjectionAugmentation(log_scale=0.3, shift=0.15, log_gamma=0.5, brightness=0.1)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def blocks() -> Tensor:
    """Volumes (4, 16, 24, 20) of boxes that stay inside when they are moved."""
    volumes = torch.zeros(4, 16, 24, 20)
    volumes[:, 6:10, 8:15, 7:12] = 1
    return volumes


@pytest.mark.parametrize(("axes", "collapsed"), [((Z, X), Y), ((Z, Y), X)])
def test_the_moved_projection_is_the_projection_of_the_moved_volume(
    axes: tuple[int, int], collapsed: int
) -> None:
    """Exact for a box, which is a product of its three axes; the mean is scaled with its axis."""
    still = dataclasses.replace(STRONG, log_gamma=0.0, brightness=0.0)
    draws = still.draw(generators(4))
    volumes = blocks()
    maps = volumes.amax(dim=collapsed)[:, None]
    moved = draws.move_volumes(volumes).amax(dim=collapsed)
    torch.testing.assert_close(draws.move_maps(maps, axes)[:, 0], moved, atol=1e-5, rtol=0)
    assert not torch.allclose(moved, maps[:, 0], atol=0.1)


def test_a_shift_moves_by_its_fraction_of_the_axis() -> None:
    draws = ProjectionDraws(
        scale=torch.ones(1, 3),
        shift=torch.tensor([[0.25, 0.0, -0.1]]),
        gamma=torch.ones(1),
        brightness=torch.zeros(1),
    )
    volumes = torch.zeros(1, 16, 24, 20)
    volumes[0, 5, 6, 7] = 1
    moved = draws.move_volumes(volumes)
    assert moved[0].nonzero().tolist() == [[9, 6, 5]]
    assert moved.max() == pytest.approx(1, abs=1e-5)


def test_a_scale_of_two_doubles_lengths() -> None:
    draws = ProjectionDraws(
        scale=torch.tensor([[2.0, 1.0, 1.0]]),
        shift=torch.zeros(1, 3),
        gamma=torch.ones(1),
        brightness=torch.zeros(1),
    )
    maps = torch.zeros(1, 1, 16, 20)
    maps[0, 0, 6:10] = 1
    moved = draws.move_maps(maps, (Z, X))
    assert moved.sum() == pytest.approx(2 * maps.sum(), rel=1e-5)
    assert (moved[0, 0, 4:12, 5] >= 0.5).all()


def test_maps_keep_their_values_when_intensities_change() -> None:
    bright = ProjectionAugmentation(log_gamma=0.5, brightness=0.2)
    draws = bright.draw(generators(4))
    maps = torch.rand(4, 2, 16, 20)
    torch.testing.assert_close(draws.move_maps(maps, (Z, X)), maps, atol=1e-5, rtol=0)
    changed = draws.move_volumes(0.5 * blocks())
    assert (changed - 0.5 * blocks()).abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_draws_of_a_volume_do_not_depend_on_the_others() -> None:
    alone = STRONG.draw(generators(3)[2:])
    among = STRONG.draw(generators(3))
    for field in dataclasses.fields(ProjectionDraws):
        torch.testing.assert_close(getattr(alone, field.name)[0], getattr(among, field.name)[2])


@pytest.mark.parametrize("wrong", [{"shift": 1.0}, {"log_scale": -0.1}, {"brightness": 11.0}])
def test_a_range_that_is_not_possible_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"augmentation.{next(iter(wrong))} must be from 0"):
        ProjectionAugmentation(**wrong)


def test_labels_in_3d_move_as_their_maps_and_their_volume_do() -> None:
    """A block that reaches along y through the volume: its coronal map is the block itself."""
    draws = ProjectionAugmentation(log_scale=0.2, shift=0.1).draw(
        [torch.Generator().manual_seed(3)]
    )
    block = torch.zeros(1, 1, 16, 20, 24)
    block[:, :, 4:10, :, 6:15] = 1
    moved = draws.move_labels(block)
    assert moved.shape == block.shape
    torch.testing.assert_close(moved[:, 0], draws.move_volumes(block[:, 0]))
    maps = draws.move_maps(block[:, :, :, 10], (Z, X))
    torch.testing.assert_close(moved[:, :, :, 10], maps)
