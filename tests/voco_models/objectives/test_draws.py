"""The random choices of a step: a function of step and item, whatever the batch and the process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from voco_models.data.augment_crops import IntensityAugment
from voco_models.data.augment_planes import VolumeAugment
from voco_models.data.loader import Batch
from voco_models.data.sampling import BatchOrder
from voco_models.objectives.crops import CropPlan
from voco_models.objectives.draws import StepChoices, StepDraws

CHOICES = StepChoices(
    plan=CropPlan((96, 96), grid=3, n_random=2),
    slice_stride=4,
    separate_slices=True,
    intensity=IntensityAugment(0.3, 0.3, 0.2, 0.1),
    volumes=VolumeAugment(flip_z=0.5, rotate_deg=10),
)


def draw(choices: StepChoices, step: int, items: list[int]) -> StepDraws:
    return choices.draw(16, step, items)


def of_volume(draws: StepDraws, place: int) -> tuple[object, ...]:
    assert draws.intensity is not None
    assert draws.volumes is not None
    assert draws.volumes.angles_rad is not None
    return (
        draws.random.corners[place].tolist(),
        draws.intensity.gamma[place].tolist(),
        draws.intensity.noise[place].tolist(),
        draws.noise_seeds[place],
        draws.volumes.flips[place],
        draws.volumes.angles_rad[place].item(),
    )


@settings(max_examples=30, deadline=None)
@given(
    step=st.integers(0, 2**62),
    items=st.lists(st.integers(0, 10_000), min_size=2, max_size=8, unique=True),
    data=st.data(),
)
def test_a_volume_has_the_same_draws_in_every_batch(
    step: int, items: list[int], data: st.DataObject
) -> None:
    whole = draw(CHOICES, step, items)
    part = data.draw(st.permutations(items))[: data.draw(st.integers(1, len(items)))]
    again = draw(CHOICES, step, part)
    assert again.first_slices == whole.first_slices
    for place, item in enumerate(part):
        assert of_volume(again, place) == of_volume(whole, items.index(item))


def test_steps_and_items_have_draws_of_their_own() -> None:
    drawn = [of_volume(draw(CHOICES, step, [item]), 0) for step in range(5) for item in range(5)]
    for values in zip(*drawn, strict=True):
        if isinstance(values[0], (int, list, float)):
            assert len({str(value) for value in values}) == len(values)


def test_an_augmentation_does_not_change_the_crops() -> None:
    plain = replace(CHOICES, intensity=IntensityAugment(), volumes=VolumeAugment())
    one, other = draw(CHOICES, 3, [1, 2]), draw(plain, 3, [1, 2])
    assert other.intensity is None
    assert other.volumes is None
    assert torch.equal(one.random.corners, other.random.corners)
    assert one.first_slices == other.first_slices


@pytest.mark.parametrize("separate", [False, True])
def test_first_slices_are_uniform_and_separate_if_asked(separate: bool) -> None:
    choices = replace(CHOICES, separate_slices=separate)
    firsts = [draw(choices, step, [0]).first_slices for step in range(400)]
    assert {first for first, _ in firsts} == set(range(4))
    equal = sum(first == other for first, other in firsts)
    assert equal == 400 if not separate else 60 < equal < 140  # a quarter of 400


def test_a_volume_that_is_twice_in_a_batch_has_other_crops_the_second_time() -> None:
    batch = Batch(torch.zeros(4, 16, 96, 96), torch.tensor([3, 5, 3, 3]), seed=1)
    keys = batch.draw_keys()
    assert keys[:2] == [3, 5]
    assert len(set(keys)) == 4
    drawn = draw(CHOICES, batch.seed, keys).random.corners
    assert not torch.equal(drawn[0], drawn[2])


def test_processes_draw_for_a_repeated_volume_as_the_joined_batch_does() -> None:
    weights = np.array([4.0, 1, 1, 1, 1, 1, 1, 1])
    joined = BatchOrder(8, 4, 0, 0, 1, weights)
    parts = [BatchOrder(8, 2, 0, rank, 2, weights) for rank in (0, 1)]
    repeated = 0
    for step in range(20):
        items, repeats = joined.indices_at(step), joined.repeats_at(step)
        for rank, part in enumerate(parts):
            assert part.indices_at(step).tolist() == items[rank::2].tolist()
            assert part.repeats_at(step).tolist() == repeats[rank::2].tolist()
        repeated += int(repeats.sum())
    assert repeated
