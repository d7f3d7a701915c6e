"""Augmentation of volumes: each change does what it says, alike in all slices, and repeats."""

from __future__ import annotations

import math

import pytest
import torch

from voco_models.data.augment_volumes import Augmentation, X, Y, Z, apply_draws
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_changes_nothing() -> None:
    volumes = torch.rand(3, 4, 6, 6)
    assert torch.equal(apply_draws(volumes, Augmentation().draw(3, generator())), volumes)


@pytest.mark.parametrize(("field", "axis"), [("flip_z", Z), ("flip_y", Y), ("flip_x", X)])
def test_flips_turn_their_axis(field: str, axis: int) -> None:
    volumes = torch.rand(2, 4, 6, 6)
    draws = Augmentation(**{field: 1.0}).draw(2, generator())  # type: ignore[arg-type]
    assert torch.equal(apply_draws(volumes, draws), volumes.flip(axis))


def test_quarter_turns_are_in_plane() -> None:
    volumes = torch.rand(20, 4, 6, 6)
    found = apply_draws(volumes, Augmentation(rot90=1.0).draw(20, generator()))
    turns = [
        next(k for k in range(4) if torch.equal(f, torch.rot90(v, k, (1, 2))))
        for f, v in zip(found, volumes, strict=True)
    ]
    assert set(turns) == {1, 2, 3}


def test_gamma_and_brightness_stay_in_range() -> None:
    volumes = torch.rand(8, 2, 4, 4)
    found = apply_draws(volumes, Augmentation(log_gamma=0.5).draw(8, generator()))
    exponents = (found.log() / volumes.log()).flatten(1)
    assert (exponents.std(dim=1) < 1e-3).all()  # one exponent a volume
    assert math.exp(-0.5) <= exponents.min() < exponents.max() <= math.exp(0.5)
    bright = apply_draws(volumes, Augmentation(brightness=0.9).draw(8, generator()))
    assert bright.min() >= 0
    assert bright.max() <= 1


def test_cutout_is_one_box() -> None:
    augmentation = Augmentation(cutout=1.0, cutout_fraction=0.5)
    found = apply_draws(torch.ones(10, 4, 8, 8), augmentation.draw(10, generator()))
    for volume in found:
        z, y, x = (volume == 0).nonzero().unbind(dim=1)
        assert len(z) == 2 * 4 * 4
        assert [int(i.max() - i.min()) + 1 for i in (z, y, x)] == [2, 4, 4]


def test_shift_moves_all_slices_alike() -> None:
    draws = Augmentation(shift=0.25).draw(1, generator())
    draws.shift[:] = torch.tensor([[0.25, -0.25]])  # y, x: the content moves by the opposite
    volume = torch.zeros(1, 3, 8, 8)
    volume[:, :, 4, 4] = 1
    found = apply_draws(volume, draws)
    assert found[0].argmax(dim=0)[2, 6] == 0
    assert torch.allclose(found[0, :, 2, 6], torch.ones(3))
    assert found.sum() == pytest.approx(3.0)


def test_shift_along_z_repeats_the_end() -> None:
    draws = Augmentation(shift_z=0.5).draw(1, generator())
    draws.shift_z[:] = 0.5
    volume = torch.arange(4.0)[None, :, None, None].expand(1, 4, 2, 2) / 4
    found = apply_draws(volume, draws)[0, :, 0, 0] * 4
    assert found.tolist() == [0, 0, 0, 1]


def test_augmentation_repeats_by_seed() -> None:
    augmentation = FINETUNE_RECIPES["tiny"].augmentation
    volumes = torch.rand(2, 4, 8, 8)
    one, two = (apply_draws(volumes, augmentation.draw(2, generator(3))) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, apply_draws(volumes, augmentation.draw(2, generator(4))))
