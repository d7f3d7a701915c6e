"""Changes of whole volumes before crops are cut: hand-made volumes, and targets that stay exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from voco_data.errors import InputError
from voco_data.store.spec import StoreSpec
from voco_models.data import Batch, InputWindow, input_window
from voco_models.data.augment_planes import VolumeAugment, VolumeDraws
from voco_models.networks.encoder import EncoderOptions, SliceEncoder
from voco_models.networks.registry import create_backbone
from voco_models.objectives.crops import Boxes
from voco_models.objectives.voco2d import Voco2d, Voco2dConfig


def draws(flips: list[list[bool]], angles_deg: list[float] | None = None) -> VolumeDraws:
    angles = None if angles_deg is None else torch.deg2rad(torch.tensor(angles_deg))
    return VolumeDraws(tuple(map(tuple, zip(*flips, strict=True))), angles)


def test_flips_are_those_of_numpy_and_keep_the_type() -> None:
    volumes = torch.arange(4 * 2 * 3 * 5, dtype=torch.uint8).reshape(4, 2, 3, 5)
    flips = [[True, False, False, True], [False, True, False, True], [False, False, True, True]]
    found = draws(flips).apply(volumes, outside=0)
    assert found.dtype == torch.uint8
    for index, axes in enumerate([(0,), (1,), (2,), (0, 1, 2)]):
        np.testing.assert_array_equal(found[index], np.flip(volumes[index].numpy(), axes))


@pytest.mark.parametrize("shape", [(6, 6), (7, 7)])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_those_of_numpy(shape: tuple[int, int], turns: int) -> None:
    volume = torch.rand(1, 2, *shape) * 255
    found = draws([[False]] * 3, [90.0 * turns]).apply(volume, outside=0)
    # From x towards y: the other way round than numpy's turn in the plane of (y, x).
    expected = np.rot90(volume[0].numpy(), -turns, axes=(1, 2))
    np.testing.assert_allclose(found[0], expected, atol=2e-3)


def test_a_turn_moves_a_point_where_trigonometry_says() -> None:
    """Also where slices are not square: the turn is in pixels."""
    Y, X, angle = 41, 61, 30.0
    volume = torch.zeros(1, 1, Y, X)
    y, x = 20, 48  # 18 px along x from the centre (20, 30)
    volume[0, 0, y, x] = 100
    found = draws([[False]] * 3, [angle]).apply(volume, outside=0)[0, 0]
    weights = found / found.sum()
    ys, xs = torch.meshgrid(torch.arange(Y).float(), torch.arange(X).float(), indexing="ij")
    dy, dx = float((weights * ys).sum()) - 20, float((weights * xs).sum()) - 30
    assert math.degrees(math.atan2(dy, dx)) == pytest.approx(angle, abs=1)
    assert math.hypot(dy, dx) == pytest.approx(18, abs=0.3)


def test_what_comes_from_outside_is_the_lowest_value() -> None:
    volume = torch.full((1, 1, 9, 9), 7, dtype=torch.int16)
    found = draws([[False]] * 3, [45.0]).apply(volume, outside=-30)
    assert found[0, 0, 0, 0] == -30
    assert found[0, 0, 4, 4] == pytest.approx(7)


def test_draws_are_of_the_seed_and_within_the_ranges() -> None:
    augment = VolumeAugment(flip_x=0.25, rotate_deg=20)
    first, again = (augment.draw(4000, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.flips == again.flips
    z, y, x = np.array(first.flips).T
    assert not z.any()
    assert not y.any()
    assert x.mean() == pytest.approx(0.25, abs=0.03)
    assert first.angles_rad is not None
    assert first.angles_rad.abs().max() <= math.radians(20)
    assert first.angles_rad.std() == pytest.approx(math.radians(20) / math.sqrt(3), rel=0.05)
    assert VolumeAugment(flip_x=0.25).draw(4, torch.Generator()).angles_rad is None


def test_impossible_values_are_refused() -> None:
    for options in ({"flip_x": 1.1}, {"flip_z": -0.1}, {"rotate_deg": 181.0}):
        with pytest.raises(InputError, match="volume_augment"):
            VolumeAugment(**options)


def make_objective(augment: VolumeAugment) -> Voco2d:
    config = Voco2dConfig(projector_width=4, embedding=4, volume_augment=augment)
    encoder = SliceEncoder(
        create_backbone("test_byobnet"), (16, 16), EncoderOptions(projector_width=4, embedding=4)
    )
    window = input_window(None, StoreSpec("small", (2, 48, 48)))
    assert window == InputWindow(0, 255)
    return Voco2d(encoder, (48, 48), config, window)


PLAIN = make_objective(VolumeAugment())
FLIPPED = make_objective(VolumeAugment(flip_x=1, flip_z=1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**62))
def test_targets_are_the_overlaps_of_what_the_crops_show(seed: int) -> None:
    """The volume says where a voxel lies: its value is its x after the flip."""
    x = torch.arange(48, dtype=torch.uint8).expand(1, 2, 48, 48)
    batch = Batch(x.clone(), torch.zeros(1, dtype=torch.int64), seed)
    plain_crops, plain_targets = PLAIN.crops_and_targets(batch)
    crops, targets = FLIPPED.crops_and_targets(batch)
    assert torch.equal(targets, plain_targets)  # the draws of crops do not change
    shown = (
        (crops + 1) * 255 / 2
    ).round()  # the x in the stored volume, that is 47 - x in the flipped
    torch.testing.assert_close(
        shown + ((plain_crops + 1) * 255 / 2).round(), torch.full_like(crops, 47)
    )
    starts = (47 - shown[0, :, 0, 0, 0]).long()
    base = Boxes(torch.stack([torch.arange(9) // 3 * 16, starts[2:]], dim=1), (16, 16))
    assert base.corners[:, 1].tolist() == [0, 16, 32] * 3
    in_x = (16 - (starts[:2, None] - starts[None, 2:]).abs()).clamp(min=0) / 16
    assert bool((targets[0] <= in_x + 1e-6).all())
    assert targets[0].sum(dim=1).tolist() == pytest.approx([1, 1])
    sums = targets[0].reshape(2, 3, 3).sum(dim=1)  # over y: the overlap in x alone
    torch.testing.assert_close(sums, in_x[:, :3])
