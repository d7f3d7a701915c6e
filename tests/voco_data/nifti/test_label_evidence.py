"""Label maps against images of 8 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.abdomen_scans import planned_scan
from voco_data.nifti.label_evidence import LabelEvidence


def looks_like_labels(volume: npt.NDArray[np.generic]) -> bool:
    evidence = LabelEvidence()
    for plane in volume:
        evidence.add(plane, np.rint(np.asarray(plane, np.float64)))
    return evidence.looks_like_labels


@pytest.mark.parametrize(("low", "width"), [(-160, 400), (-1024, 2048), (-150, 250), (0, 100)])
def test_a_window_in_8_bits_is_an_image(low: int, width: int) -> None:
    hu = planned_scan(5, 2).hu
    assert not looks_like_labels(np.clip((hu - low) * 255.0 / width, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("low", "high"), [(-50, 100), (-45, 105), (-40, 160), (-25, 230), (0, 200)]
)
def test_hu_clipped_to_a_narrow_window_are_an_image(low: int, high: int) -> None:
    assert not looks_like_labels(np.clip(planned_scan(5, 2).hu, low, high))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_organs_are_labels(dtype: type) -> None:
    organs = planned_scan(5, 2).organs
    assert looks_like_labels(organs.astype(dtype))
    assert looks_like_labels((organs > 0).astype(dtype))


def test_many_labels_with_an_ignored_class_are_labels() -> None:
    """200 blocks of 12 mm in a body, each with its label, and -1 outside."""
    z, y, x = (index // 6 for index in np.ogrid[:24, :60, :60])
    labels = (z * 100 + y * 10 + x) % 200 + 1
    labels[:, :6] = -1
    assert len(np.unique(labels)) > 100
    assert looks_like_labels(labels.astype(np.int16))


def test_one_value_is_neither() -> None:
    assert not looks_like_labels(np.zeros((9, 20, 20), np.uint8))
    assert not looks_like_labels(np.full((9, 20, 20), 0.5))
    assert not looks_like_labels(planned_scan(5, 2).hu)
