"""Strokes against scipy's opening, pieces against its labels, and lines that are drawn by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from voco_data.deidentification.text_lines import (
    STROKE_PX,
    _measure,
    count_strokes,
    strokes_above,
)

LETTERS = {
    "H": ["#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"],
    "I": ["#", "#", "#", "#", "#", "#", "#"],
    "L": ["#....", "#....", "#....", "#....", "#....", "#....", "#####"],
}
"""Seven rows: a row crosses 13/7 strokes of H, and 1 of I and L."""


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 30)] * 2), seed=st.integers(0, 2**16))
def test_strokes_are_what_an_opening_removes(shape: tuple[int, int], seed: int) -> None:
    plane = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    around = 2 * STROKE_PX
    padded = np.pad(plane, around, mode="edge")
    opened = ndimage.grey_opening(padded, (STROKE_PX, STROKE_PX))
    expected = (padded - opened)[around:-around, around:-around]
    assert np.array_equal(strokes_above(plane), expected)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 2),
    values=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_pieces_are_those_of_scipy(shape: tuple[int, int], values: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, values + 1, shape).astype(np.int16)
    boxes, of_code = _measure(codes, 1)
    found = {(*box[:5].tolist(), code) for box, code in zip(boxes, of_code.tolist(), strict=True)}
    expected = set()
    for code in range(1, values + 1):
        labels, _ = ndimage.label(codes == code, np.ones((3, 3)))
        areas = np.bincount(labels.ravel())[1:].tolist()
        for (rows, columns), area in zip(ndimage.find_objects(labels), areas, strict=True):
            expected.add((rows.start, rows.stop, columns.start, columns.stop, area, code))
    assert found == expected
    assert len(boxes) == len(expected)


def draw(word: str, *, gap: int = 2, drop: int = 0) -> npt.NDArray[np.int16]:
    """A word in an empty picture; each letter lies `drop` rows lower than the one before."""
    picture = np.zeros((60, 90), np.int16)
    column = 10
    for number, letter in enumerate(word):
        rows = np.array([[sign == "#" for sign in row] for row in LETTERS[letter]])
        top = 8 + number * drop
        picture[top : top + len(rows), column : column + rows.shape[1]] = rows
        column += rows.shape[1] + gap
    return picture


@pytest.mark.parametrize(
    ("word", "strokes"), [("HIL", 13 / 7 + 2), ("LIH", 13 / 7 + 2), ("HHH", 39 / 7), ("LLLL", 4)]
)
def test_the_strokes_of_a_line_are_counted_along_rows_and_columns(
    word: str, strokes: float
) -> None:
    assert count_strokes(draw(word)) == pytest.approx(strokes)
    assert count_strokes(draw(word, drop=1)) == pytest.approx(strokes)
    turned = np.ascontiguousarray(draw(word).T[::-1])
    assert count_strokes(turned) == pytest.approx(strokes)


@pytest.mark.parametrize(
    "picture",
    [
        draw("HI"),  # two letters
        draw("HIL", gap=12),  # far apart
        draw("HIL", drop=9),  # a staircase
        draw("IIIII"),  # bars alone
        np.zeros((60, 90), np.int16),
        np.ones((60, 90), np.int16),
    ],
)
def test_no_line_has_no_strokes(picture: npt.NDArray[np.int16]) -> None:
    assert count_strokes(picture) == 0


def test_letters_of_different_codes_are_no_line() -> None:
    picture = draw("LIL")
    assert count_strokes(picture) > 0
    picture[:, 14:] *= 2
    picture[:, 20:] *= 2
    assert count_strokes(picture) == 0
