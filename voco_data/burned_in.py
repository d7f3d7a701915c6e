"""Text burned into the pixels: it may name the patient, so such a series is refused.

Overlaid text is drawn in one exact value, which nothing measured is: noise makes the pixels of
every bone and every implant differ, unless the scanner's range ends there. So: many small pieces
of one conspicuously frequent value, of one height, side by side on one line.
"""

from __future__ import annotations

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
    return any(_has_line(drawn) for index in picked for drawn in _drawn_alike(hu[index]))


def _drawn_alike(plane: npt.NDArray[np.int16]) -> list[npt.NDArray[np.bool_]]:
    """The pixels of each conspicuously frequent value, the most frequent first."""
    lowest = int(plane.min())
    counts = np.bincount((plane.astype(np.int32) - lowest).ravel())
    usual = ndimage.uniform_filter1d(counts.astype(np.float64), 2 * AROUND_HU + 1, mode="constant")
    others = (usual * (2 * AROUND_HU + 1) - counts) / (2 * AROUND_HU)
    spikes = (counts >= LEAST_PIXELS) & (counts <= MOST_SHARE * plane.size)
    values = np.flatnonzero(spikes & (counts > SPIKE * others))
    values = values[np.argsort(counts[values])[::-1]][:VALUES_LOOKED_AT]
    return [plane == value + lowest for value in values.tolist()]


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
