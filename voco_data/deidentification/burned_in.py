"""Text burned into the pixels: it may name the patient, so such a series is refused.

Overlaid text is drawn in one exact value, which nothing measured is: noise makes the pixels of
every bone and every implant differ, unless the scanner's range ends there. So: many small pieces
of one conspicuously frequent value, of one height, side by side on one line.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

SLICES_LOOKED_AT = 16
"""Evenly spread, with the first and the last; text is on every slice, or on those."""
LEAST_PIXELS = 40
"""Fewer pixels of one value write no word."""
MOST_SHARE = 0.25
"""A value that fills more of the slice is a background."""
SPIKE = 8.0
"""Text makes its value so many times as frequent as the values around it are on average."""
AROUND_HU = 12
VALUES_LOOKED_AT = 4
LEAST_LETTERS = 6
"""Pieces on one line; fewer may be chance."""
LEAST_SHARE = 0.2
"""Of the larger pieces of a value, so many are on the longest line of a text."""
MOST_PIECES = 1000
"""More is noise, clipped at the end of the scanner's range."""
LETTER_HEIGHT_PX = (5, 48)
MOST_FILLED = 0.7
"""Letters are strokes; a row of screws is made of solid pieces that fill their rectangle."""
HEIGHT_SPREAD_PX = 2
BASELINE_SPREAD_PX = 1
MAX_LETTER_GAP = 2.5
"""Largest distance between neighbours, in letter heights."""
ALL_ROUND = np.ones((3, 3), bool)

Letter = tuple[int, int, int, int]
"""Bottom row, height, first column, one past the last column."""


def looks_like_text(hu: npt.NDArray[np.int16]) -> bool:
    """Whether a slice of `hu` (slice, row, column) carries a line of text, along either axis."""
    count = min(len(hu), SLICES_LOOKED_AT)
    picked = np.unique(np.linspace(0, len(hu) - 1, count).round().astype(int))
    return any(_is_written(np.ascontiguousarray(hu[index])) for index in picked)


def _is_written(plane: npt.NDArray[np.int16]) -> bool:
    return any(
        # Noise, clipped at the end of the range, is told from text without finding its pieces.
        _fewest_pieces(plane, value) <= MOST_PIECES and _has_line(plane == value)
        for value in _conspicuous(plane)
    )


def _conspicuous(plane: npt.NDArray[np.int16]) -> list[int]:
    """Each conspicuously frequent value, the most frequent first."""
    counts, lowest = _count(plane, int(plane.min()), int(plane.max()))
    usual = ndimage.uniform_filter1d(counts.astype(np.float64), 2 * AROUND_HU + 1, mode="constant")
    others = (usual * (2 * AROUND_HU + 1) - counts) / (2 * AROUND_HU)
    spikes = (counts >= LEAST_PIXELS) & (counts <= MOST_SHARE * plane.size)
    values = np.flatnonzero(spikes & (counts > SPIKE * others))
    values = values[np.argsort(counts[values])[::-1]][:VALUES_LOOKED_AT]
    return [value + lowest for value in values.tolist()]


@numba.njit(nogil=True, cache=True)
def _count(plane, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """How often each value from `low` to `high` occurs, and `low`."""
    counts = np.zeros(high - low + 1, np.int64)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            counts[plane[y, x] - low] += 1
    return counts, low


@numba.njit(nogil=True, cache=True)
def _fewest_pieces(plane, value):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Pieces less holes (the Euler number) of the pixels of a value that touch all round.

    There are at least so many pieces. It is a sum over the windows of 2 x 2 pixels: four times
    the number is the windows with one pixel, less those with three, less twice those with two on
    a diagonal (Gray, IEEE Trans. Comput. C-20, 551, 1971).
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
    labels, count = ndimage.label(drawn, ALL_ROUND)
    if not LEAST_LETTERS <= count <= MOST_PIECES:
        return False
    areas = np.bincount(labels.ravel())
    found = list(zip(ndimage.find_objects(labels), areas[1:].tolist(), strict=True))
    along_rows = [(rows, columns, area) for (rows, columns), area in found]
    along_columns = [(columns, rows, area) for (rows, columns), area in found]
    return _is_text(along_rows) or _is_text(along_columns)


def _is_text(pieces: list[tuple[slice, slice, int]]) -> bool:
    """Whether a good part of the pieces are letters on lines; noise has a few by chance."""
    letters: list[Letter] = []
    large = 0
    for rows, columns, area in pieces:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        large += height >= LETTER_HEIGHT_PX[0]
        strokes = area <= MOST_FILLED * height * width
        tall = LETTER_HEIGHT_PX[0] <= height <= LETTER_HEIGHT_PX[1]
        if tall and strokes and width <= 2 * height:
            letters.append((rows.stop, height, columns.start, columns.stop))
    if len(letters) < max(LEAST_LETTERS, LEAST_SHARE * large):
        return False
    longest = max(_line_length(letters, letter) for letter in letters)
    return longest >= max(LEAST_LETTERS, LEAST_SHARE * large)


def _line_length(letters: list[Letter], first: Letter) -> int:
    """How many letters, alike in height and baseline, follow `first` to the right, with it."""
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
