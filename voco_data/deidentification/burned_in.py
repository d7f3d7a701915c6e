"""Detect text that is burned into the pixels, and may name the patient.

All pixels of such text have the same value. Measured pixels have not: because of noise those of
bones and implants differ, except at the ends of the scanner's range. So text consists of many small
components of one unusually frequent value, of equal height, side by side on a line.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

SLICES_EXAMINED = 16
"""Slices are examined at even distances, with the first and the last."""
MIN_PIXELS = 40
"""Fewer pixels of one value do not form a word."""
MAX_SHARE = 0.25
"""A value that fills a larger share of the slice is a background."""
SPIKE = 8.0
"""Least ratio of the frequency of a text's value to the mean of the values around it."""
AROUND_HU = 12
"""Values on either side that a value is compared with."""
VALUES_EXAMINED = 4
"""Number of frequent values of a slice that are examined."""
MIN_LETTERS = 6
"""Least number of components on a line; fewer may be there by chance."""
MIN_LINE_SHARE = 0.2
"""Share of a value's larger components that the longest line of a text has."""
MAX_COMPONENTS = 1000
"""Largest number of components; more are noise, clipped at an end of the scanner's range."""
LETTER_HEIGHT_PX = (5, 48)
MAX_FILLED = 0.7
"""Largest share of its bounding box that a letter fills; a screw of an implant fills more."""
HEIGHT_SPREAD_PX = 2
BASELINE_SPREAD_PX = 1
MAX_LETTER_GAP = 2.5
"""Largest distance between neighbours, in letter heights."""
EIGHT_CONNECTED = np.ones((3, 3), bool)

Letter = tuple[int, int, int, int]
"""Bottom row, height, first column, one past the last column."""


def looks_like_text(hu: npt.NDArray[np.int16]) -> bool:
    """Whether a slice of `hu`, int16 (slice, row, column), has a line of text along either axis."""
    count = min(len(hu), SLICES_EXAMINED)
    picked = np.unique(np.linspace(0, len(hu) - 1, count).round().astype(int))
    return any(_has_text(np.ascontiguousarray(hu[index])) for index in picked)


def _has_text(plane: npt.NDArray[np.int16]) -> bool:
    return any(
        # The Euler number excludes clipped noise before its components are labelled.
        _euler_number(plane, value) <= MAX_COMPONENTS and _has_line(plane == value)
        for value in _frequent_values(plane)
    )


def _frequent_values(plane: npt.NDArray[np.int16]) -> list[int]:
    """Values that are far more frequent than those around them, the most frequent first."""
    counts, lowest = _count_values(plane, int(plane.min()), int(plane.max()))
    mean = ndimage.uniform_filter1d(counts.astype(np.float64), 2 * AROUND_HU + 1, mode="constant")
    others = (mean * (2 * AROUND_HU + 1) - counts) / (2 * AROUND_HU)
    spikes = (counts >= MIN_PIXELS) & (counts <= MAX_SHARE * plane.size)
    values = np.flatnonzero(spikes & (counts > SPIKE * others))
    values = values[np.argsort(counts[values])[::-1]][:VALUES_EXAMINED]
    return [value + lowest for value in values.tolist()]


@numba.njit(nogil=True, cache=True)
def _count_values(plane, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(counts, low): how often each value from `low` to `high` occurs."""
    counts = np.zeros(high - low + 1, np.int64)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            counts[plane[y, x] - low] += 1
    return counts, low


@numba.njit(nogil=True, cache=True)
def _euler_number(plane, value):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Components minus holes of the pixels of a value, 8-connected: a lower bound of components.

    Four times the number is the count of 2 x 2 windows with one such pixel, minus those with
    three, minus twice those with two on a diagonal (Gray, IEEE Trans. Comput. C-20, 551, 1971).
    """
    width = plane.shape[1]
    above = np.zeros(width + 2, np.uint8)
    here = np.zeros(width + 2, np.uint8)
    total = np.int64(0)
    for y in range(plane.shape[0] + 1):
        if y < plane.shape[0]:
            for x in range(width):
                here[x + 1] = plane[y, x] == value
        else:
            here[:] = 0
        row = np.int32(0)
        for x in range(width + 1):
            drawn = above[x] + above[x + 1] + here[x] + here[x + 1]
            diagonal = drawn == 2 and above[x] == here[x + 1]
            row += np.int32(drawn == 1) - np.int32(drawn == 3) - np.int32(2 * diagonal)
        total += row
        above, here = here, above
    return total // 4


def _has_line(drawn: npt.NDArray[np.bool_]) -> bool:
    """Whether the components of a mask form a line of text along rows or columns."""
    labels, count = ndimage.label(drawn, EIGHT_CONNECTED)
    if not MIN_LETTERS <= count <= MAX_COMPONENTS:
        return False
    areas = np.bincount(labels.ravel())
    components = list(zip(ndimage.find_objects(labels), areas[1:].tolist(), strict=True))
    along_rows = [(rows, columns, area) for (rows, columns), area in components]
    along_columns = [(columns, rows, area) for (rows, columns), area in components]
    return _is_text(along_rows) or _is_text(along_columns)


def _is_text(components: list[tuple[slice, slice, int]]) -> bool:
    """Whether a good part of the components are letters on a line.

    A component is its extent across the line, its extent along the line, and its area.
    """
    letters: list[Letter] = []
    large = 0
    for rows, columns, area in components:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        large += height >= LETTER_HEIGHT_PX[0]
        strokes = area <= MAX_FILLED * height * width
        tall = LETTER_HEIGHT_PX[0] <= height <= LETTER_HEIGHT_PX[1]
        if tall and strokes and width <= 2 * height:
            letters.append((rows.stop, height, columns.start, columns.stop))
    if len(letters) < max(MIN_LETTERS, MIN_LINE_SHARE * large):
        return False
    longest = max(_line_length(letters, letter) for letter in letters)
    return longest >= max(MIN_LETTERS, MIN_LINE_SHARE * large)


def _line_length(letters: list[Letter], first: Letter) -> int:
    """Letters of the line that begins with `first` and goes right, alike in height and baseline."""
    bottom, height, _, right = first
    alike = sorted(
        (start, stop)
        for other, tall, start, stop in letters
        if abs(other - bottom) <= BASELINE_SPREAD_PX and abs(tall - height) <= HEIGHT_SPREAD_PX
    )
    run = 1
    for start, stop in alike:
        if start >= right and start - right <= MAX_LETTER_GAP * height:
            run, right = run + 1, stop
    return run
