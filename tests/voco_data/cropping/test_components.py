"""Connected components against scipy.ndimage.label, labels included."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from voco_data.cropping.components import label_components
from voco_data.deidentification.burned_in import _euler_number

IN_PLANE = np.zeros((3, 3, 3), np.uint8)
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


@settings(max_examples=300, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**16),
    across_slices=st.booleans(),
)
def test_labels_equal_scipys(
    shape: tuple[int, int, int], share: float, seed: int, across_slices: bool
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    expected, count = ndimage.label(mask, None if across_slices else IN_PLANE)
    labels, number = label_components(mask, across_slices=across_slices)
    assert number == count
    assert np.array_equal(labels, expected)


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 2),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_the_euler_number_is_components_minus_holes(
    shape: tuple[int, int], share: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed).random(shape) < share
    _, pieces = ndimage.label(drawn, np.ones((3, 3)))
    _, outside = ndimage.label(np.pad(~drawn, 1, constant_values=True))
    plane = np.where(drawn, 7, -1024).astype(np.int16)
    assert _euler_number(plane, 7) == pieces - (outside - 1)
