"""Find lines of text among the strokes of a slice.

A stroke is thin and brighter than both sides of it: `strokes_above` gives its height over the
brightest background that it does not cover. The connected parts of strokes are letters, or words if
letters touch. Letters of like height that follow each other are a line.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt

STROKE_PX = 7
"""A structure that holds a square of this side is no stroke."""
LETTER_HEIGHT_PX = (5, 50)
MOST_PIECES = 1000
"""More pieces of the size of letters are noise."""
MAX_PIECE_ASPECT = 20
"""Largest width of a piece over its height: a word whose letters touch."""
MAX_FILLED = 0.8
"""Largest share of its bounding box that a letter fills, unless it is a bar as I is."""
BAR_ASPECT = 0.55
"""Largest width of a bar over its height. Bars alone are no text: they may be screws."""
MAX_GAP = 1.3
"""Largest gap between neighbours, over the height of the higher one."""
MOST_COVERED = 0.5
"""Largest overlap of neighbours along the line, over the height of the lower one: they may lean."""
LEAST_HEIGHT_RATIO = 0.45
"""Least height of the lower of two neighbours, over that of the higher one: small letters."""
LEAST_OVERLAP = 0.5
"""Least share of the height of the lower neighbour that lies beside the higher one."""
LEAST_STROKES = 2.6
"""Strokes that a row through a line crosses on average: three, some of them not quite upright."""
LEAST_DENSITY = 0.5
"""Strokes crossed on each stretch as long as the line is high."""
LEAST_INK = 0.15
"""Least share of the bounding boxes of its pieces that a line fills."""
LEAST_LETTERS = 3
"""Letters of a line, where a wide piece counts by its width."""
SURE_STROKES = 3.5
"""With as many strokes, a line may have fewer letters: some touch."""
WORD_ASPECT, WORD_DENSITY, WORD_INK = 1.4, 0.8, 0.2
"""Least width over height, density and ink of a line that is one piece. A couch is longer."""

Plane = npt.NDArray[np.int16]
Counts = npt.NDArray[np.int64]
Boxes = npt.NDArray[np.int64]
"""A line a piece: top, bottom, left, right (ends excluded), pixels, runs along the line."""


def strokes_above(plane: Plane) -> Plane:
    """The plane minus its opening by a square: int16 (row, column), 0 where there is no stroke.

    The plane goes on beyond its border with the values of the border.
    """
    padded = np.pad(plane, STROKE_PX - 1, mode="edge")
    eroded = _sliding(_sliding(padded, np.minimum).T, np.minimum)
    return plane - _sliding(_sliding(eroded, np.maximum).T, np.maximum)


def _sliding(plane: Plane, extreme: Callable[[Plane, Plane], Plane]) -> Plane:
    """The extreme of each `STROKE_PX` rows that follow each other, in all columns."""
    covered = 1
    while covered < STROKE_PX:  # joins windows that lie side by side, or overlap at the last
        step = min(covered, STROKE_PX - covered)
        plane = extreme(plane[:-step], plane[step:])
        covered += step
    return plane


def count_values(
    plane: Plane, heights: Plane, least: int, ends: tuple[int, int]
) -> tuple[Counts, Counts]:
    """How often each value of a plane occurs, and how often in strokes of `least` height.

    Values lie between `ends`, both included; the first count is that of the lower end.
    """
    frequency, inked = _count_values(plane, heights, least, *ends)
    return frequency, inked


def count_strokes(codes: Plane) -> float:
    """Strokes of the longest line of text of one code, along rows or along columns; 0 for none.

    `codes` is int16 (row, column); 0 is background. Neighbours of one code belong together.
    """
    strokes = 0.0
    boxes, of_code = _measure(np.ascontiguousarray(codes), LETTER_HEIGHT_PX[0])
    along_rows, along_columns = boxes[:, [0, 1, 2, 3, 4, 5]], boxes[:, [2, 3, 0, 1, 4, 6]]
    for pieces in (along_rows, along_columns):
        are_letters = _are_letters(pieces)
        if not 1 <= np.count_nonzero(are_letters) <= MOST_PIECES:
            continue
        letters, codes_of_letters = pieces[are_letters], of_code[are_letters]
        for code in np.unique(codes_of_letters):
            alike = letters[codes_of_letters == code]
            alike = alike[np.argsort(alike[:, 2], kind="stable")]
            strokes = max(strokes, _longest_line(alike))
    return strokes


def _are_letters(pieces: Boxes) -> npt.NDArray[np.bool_]:
    """Which pieces have the size and the shape of letters, or of words whose letters touch."""
    height, width = pieces[:, 1] - pieces[:, 0], pieces[:, 3] - pieces[:, 2]
    tall = (height >= LETTER_HEIGHT_PX[0]) & (height <= LETTER_HEIGHT_PX[1])
    hollow = (pieces[:, 4] <= MAX_FILLED * height * width) | (width <= BAR_ASPECT * height)
    return tall & hollow & (width <= MAX_PIECE_ASPECT * height)


def _longest_line(letters: Boxes) -> float:
    """The number of strokes of the longest line of text; 0 for none. Letters are sorted by left."""
    line_of_letter, lines = _chain(letters)
    strokes = np.bincount(line_of_letter, letters[:, 5] / (letters[:, 1] - letters[:, 0]), lines)
    long = np.flatnonzero(strokes >= LEAST_STROKES).tolist()
    return max((_count_if_text(letters[line_of_letter == line]) for line in long), default=0.0)


def _count_if_text(line: Boxes) -> float:
    """The number of strokes that a row through a line crosses on average; 0 if it is no text."""
    height, width = line[:, 1] - line[:, 0], line[:, 3] - line[:, 2]
    strokes = float((line[:, 5] / height).sum())
    aspect = float((line[:, 3].max() - line[:, 2].min()) / np.median(height))
    are_bars = line[:, 4] > MAX_FILLED * height * width
    if aspect < 1 or are_bars.all():
        return 0.0
    density, ink = strokes / aspect, float(line[:, 4].sum() / (width * height).sum())
    if len(line) == 1:
        is_text = aspect >= WORD_ASPECT and density >= WORD_DENSITY and ink >= WORD_INK
    else:
        letters = np.maximum(1, np.round(width / height)).sum()
        enough = letters >= LEAST_LETTERS or strokes >= SURE_STROKES
        is_text = bool(enough) and density >= LEAST_DENSITY and ink >= LEAST_INK
    return strokes if is_text else 0.0


@numba.njit(nogil=True, cache=True)
def _count_values(plane, heights, least, lowest, highest):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(frequency, inked) of the values from `lowest` to `highest`."""
    frequency = np.zeros(highest - lowest + 1, np.int64)
    inked = np.zeros(highest - lowest + 1, np.int64)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            index = np.int64(plane[y, x]) - lowest
            frequency[index] += 1
            inked[index] += heights[y, x] >= least
    return frequency, inked


@numba.njit(nogil=True, cache=True)
def _chain(letters):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(line of each letter, number of lines): each letter is followed by the nearest free one.

    The letters, boxes sorted by their left side, are alike in height and lie beside each other.
    """
    count = len(letters)
    line_of_letter = np.full(count, -1, np.int64)
    lines = 0
    for first in range(count):
        if line_of_letter[first] >= 0:
            continue
        current = first
        while current >= 0:
            line_of_letter[current] = lines
            top, bottom, left, right = letters[current, :4]
            height = bottom - top
            nearest, least = -1, np.inf
            for other in range(current + 1, count):
                gap = letters[other, 2] - right
                other_height = letters[other, 1] - letters[other, 0]
                lower, higher = min(height, other_height), max(height, other_height)
                beside = min(bottom, letters[other, 1]) - max(top, letters[other, 0])
                if (
                    line_of_letter[other] < 0
                    and letters[other, 2] > left
                    and -MOST_COVERED * lower < gap <= MAX_GAP * higher
                    and lower >= LEAST_HEIGHT_RATIO * higher
                    and beside >= LEAST_OVERLAP * lower
                ):
                    off_line = abs(letters[other, 1] - bottom)
                    distance = max(gap, 0) + off_line + (higher - lower) / 2
                    if distance < least:
                        nearest, least = other, distance
            current = nearest
        lines += 1
    return line_of_letter, lines


@numba.njit(nogil=True, cache=True)
def _root(parents, label):  # type: ignore[no-untyped-def]  # pragma: no cover
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@numba.njit(nogil=True, cache=True)
def _measure(codes, least_px):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(boxes, codes) of the 8-connected pieces of pixels that have the same code, not 0.

    Pieces that are smaller than `least_px` both ways are left out. A box is top, bottom, left,
    right, pixels, runs along rows, runs along columns.
    """
    height, width = codes.shape
    labels = np.zeros((height, width), np.int32)
    parents = np.empty(height * width + 1, np.int32)
    last = 0
    for y in range(height):
        for x in range(width):
            code = codes[y, x]
            if code == 0:
                continue
            label = 0
            for dy, dx in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):
                row, column = y + dy, x + dx
                if row < 0 or column < 0 or column >= width or codes[row, column] != code:
                    continue
                other = _root(parents, labels[row, column])
                if label == 0 or other == label:
                    label = other
                elif other < label:
                    parents[label] = other
                    label = other
                else:
                    parents[other] = label
            if label == 0:
                last += 1
                label = last
                parents[label] = label
            labels[y, x] = label
    numbers = np.zeros(last + 1, np.int32)
    count = 0
    for label in range(1, last + 1):
        if parents[label] == label:
            numbers[label] = count
            count += 1
    boxes = np.zeros((count, 7), np.int64)
    of_code = np.zeros(count, np.int64)
    boxes[:, 0], boxes[:, 2] = height, width
    for y in range(height):
        for x in range(width):
            code = codes[y, x]
            if code == 0:
                continue
            piece = numbers[_root(parents, labels[y, x])]
            of_code[piece] = code
            box = boxes[piece]
            box[0], box[1] = min(box[0], y), max(box[1], y + 1)
            box[2], box[3] = min(box[2], x), max(box[3], x + 1)
            box[4] += 1
            box[5] += x == 0 or codes[y, x - 1] != code
            box[6] += y == 0 or codes[y - 1, x] != code
    kept = 0
    for piece in range(count):
        box = boxes[piece]
        if max(box[1] - box[0], box[3] - box[2]) >= least_px:
            boxes[kept], of_code[kept] = box, of_code[piece]
            kept += 1
    return boxes[:kept], of_code[:kept]
