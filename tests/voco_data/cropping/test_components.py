"""Connected components against scipy.ndimage.label, labels included."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from voco_data.cropping.components import label_components

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
