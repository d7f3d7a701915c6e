"""Text burned into the pixels: it may name the patient, so such a series is refused.

Overlaid text is drawn in one value, the brightest of its slice, which nothing measured is: noise
makes every bone and every implant pixel differ, unless the scanner's range ends there. So: many
small pieces of exactly the brightest value, of one height, side by side on one baseline.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SLICES_LOOKED_AT = 32
"""Evenly spread, with the first and the last; text is on every slice, or on those."""
LEAST_PIXELS = 40
"""Fewer pixels of the brightest value write no word."""
LEAST_LETTERS = 6
"""Pieces on one baseline; fewer may be chance."""
LETTER_HEIGHT_PX = (5, 48)
HEIGHT_SPREAD_PX = 2
BASELINE_SPREAD_PX = 1
MAX_LETTER_GAP = 2.5
"""Largest distance between neighbours, in letter heights."""
ALL_ROUND = np.ones((3, 3), bool)


def looks_like_text(hu: npt.NDArray[np.int16]) -> bool:
    """Whether a slice of `hu` (slice, row, column) carries a line of text."""
    count = min(len(hu), SLICES_LOOKED_AT)
    picked = np.unique(np.linspace(0, len(hu) - 1, count).round().astype(int))
    return any(_has_line(hu[index]) for index in picked)


def _has_line(plane: npt.NDArray[np.int16]) -> bool:
    brightest = plane == plane.max()
    pixels = int(np.count_nonzero(brightest))
    if not LEAST_PIXELS <= pixels <= plane.size // 4:
        return False
    labels, _ = ndimage.label(brightest, ALL_ROUND)
    letters = []
    for rows, columns in ndimage.find_objects(labels):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if LETTER_HEIGHT_PX[0] <= height <= LETTER_HEIGHT_PX[1] and width <= 2 * height:
            letters.append((rows.stop, height, columns.start, columns.stop))
    return any(_is_line(letters, letter) for letter in letters)


def _is_line(letters: list[tuple[int, int, int, int]], first: tuple[int, int, int, int]) -> bool:
    """Whether enough letters follow `first` to the right, alike in height and baseline."""
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
    return run >= LEAST_LETTERS
