"""Changes of the intensity of crops, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from voco_models.data.augment_crops import IntensityAugment


def test_no_augmentation_by_default() -> None:
    assert IntensityAugment().is_identity
    assert not IntensityAugment(noise=0.1).is_identity


def test_augmentation_of_nothing_changes_nothing() -> None:
    crops = torch.rand(2, 3, 4, 5, 6) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    same = IntensityAugment().draw((2, 3), generator).apply(crops, [1, 2])
    torch.testing.assert_close(same, crops)


def test_each_augmentation_is_what_its_numbers_say() -> None:
    crops = torch.full((1, 2, 3, 1), -0.5)  # a quarter of the range
    generator = torch.Generator().manual_seed(0)
    drawn = IntensityAugment(gamma=0.5).draw((1,), generator)
    torch.testing.assert_close(
        drawn.apply(crops, [1]), torch.full_like(crops, 2 * 0.25 ** drawn.gamma.item() - 1)
    )
    drawn = IntensityAugment(contrast=0.3, brightness=0.1).draw((1,), generator)
    expected = -0.5 * drawn.contrast.item() + drawn.brightness.item()
    torch.testing.assert_close(drawn.apply(crops, [1]), torch.full_like(crops, expected))


def test_augmentation_ranges_and_the_same_change_on_every_slice() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = IntensityAugment(0.2, 0.3, 0.1, 0.05).draw((4000,), generator)
    for values, low, high in (
        (drawn.gamma.log(), -0.2, 0.2),
        (drawn.contrast.log(), -0.3, 0.3),
        (drawn.brightness, -0.1, 0.1),
        (drawn.noise, 0.0, 0.05),
    ):
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6
        assert (values.max() - values.min()).item() == pytest.approx(high - low, rel=0.01)
    crops = torch.zeros(4000, 3, 1, 1)
    slices = IntensityAugment(0.2, 0.3, 0.1).draw((4000,), generator).apply(crops, range(4000))
    assert torch.equal(slices[:, 0], slices[:, 2])
    assert slices.std() > 0.01


def test_noise_is_a_function_of_each_volumes_seed() -> None:
    crops = torch.zeros(2, 3, 4, 8, 8)
    parameters = IntensityAugment(noise=0.2).draw((2, 3), torch.Generator().manual_seed(0))
    first, again = parameters.apply(crops, [1, 2]), parameters.apply(crops, [1, 2])
    assert torch.equal(first, again)
    other = parameters.apply(crops, [1, 3])
    assert torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])
    spread = first.std(dim=(2, 3, 4))
    torch.testing.assert_close(spread, parameters.noise, rtol=0.2, atol=0.01)
