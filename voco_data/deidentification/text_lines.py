"""Find lines of text among the strokes of a slice.

A stroke is thin and brighter than both sides of it: `strokes_above` gives its height over the
brightest background that it does not cover. The connected parts of strokes are letters, or words if
letters touch. Letters of like height that follow each other are a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
"""Largest width of a bar over its height."""
MAX_GAP = 1.3
"""Largest gap between neighbours, over the height of the higher one."""
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
Boxes = npt.NDArray[np.int64]
"""A line a piece: top, bottom, left, right (ends excluded), pixels, runs along the line."""


def strokes_above(plane: Plane, stroke_px: int = STROKE_PX) -> Plane:
    """The plane minus its opening by a square: int16 (row, column), 0 where there is no stroke."""
    margin = stroke_px - 1
    padded = np.pad(plane, margin, mode="edge")
    eroded = _sliding(_sliding(padded, stroke_px, np.minimum).T, stroke_px, np.minimum)
    opened = _sliding(_sliding(eroded, stroke_px, np.maximum).T, stroke_px, np.maximum)
    return plane - opened


def _sliding(plane: Plane, width: int, extreme: Callable[[Plane, Plane], Plane]) -> Plane:
    """The least or greatest of each `width` rows, one below the other; `width` - 1 rows fewer."""
    covered = 1
    while covered < width:
        step = min(covered, width - covered)
        plane = extreme(plane[:-step], plane[step:])
        covered += step
    return plane


def has_line(codes: Plane) -> bool:
    """Whether neighbouring pixels of one code form a line of text, along rows or along columns.

    `codes` is int16 (row, column); 0 is background.
    """
    boxes, of_code = _measure(np.ascontiguousarray(codes))
    along_rows, along_columns = boxes[:, [0, 1, 2, 3, 4, 5]], boxes[:, [2, 3, 0, 1, 4, 6]]
    for pieces in (along_rows, along_columns):
        are_letters = _are_letters(pieces)
        if not 1 <= np.count_nonzero(are_letters) <= MOST_PIECES:
            continue
        letters, codes_of_letters = pieces[are_letters], of_code[are_letters]
        for code in np.unique(codes_of_letters):
            if any(map(_is_text, _chains(letters[codes_of_letters == code]))):
                return True
    return False


def _are_letters(pieces: Boxes) -> npt.NDArray[np.bool_]:
    """Which pieces have the size and the shape of letters, or of words whose letters touch."""
    height, width = pieces[:, 1] - pieces[:, 0], pieces[:, 3] - pieces[:, 2]
    tall = (height >= LETTER_HEIGHT_PX[0]) & (height <= LETTER_HEIGHT_PX[1])
    hollow = (pieces[:, 4] <= MAX_FILLED * height * width) | (width <= BAR_ASPECT * height)
    return tall & hollow & (width <= MAX_PIECE_ASPECT * height)


def _chains(letters: Boxes) -> Iterator[Boxes]:
    """Lines: letters that follow each other. Each letter is in one line."""
    letters = letters[np.argsort(letters[:, 2], kind="stable")]
    top, bottom, left, right = (letters[:, side].astype(np.float32) for side in range(4))
    height = bottom - top
    lower, higher = np.minimum.outer(height, height), np.maximum.outer(height, height)
    gap = left[None, :] - right[:, None]
    beside = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    follows = (
        (left[None, :] > left[:, None])
        & (gap > -0.5 * lower)
        & (gap <= MAX_GAP * higher)
        & (lower >= LEAST_HEIGHT_RATIO * higher)
        & (beside >= LEAST_OVERLAP * lower)
    )
    off_line = np.abs(bottom[None, :] - bottom[:, None])
    unlike = 0.5 * np.abs(height[None, :] - height[:, None])
    distance = np.where(follows, np.maximum(gap, 0) + off_line + unlike, np.inf)
    is_free = np.ones(len(letters), bool)
    for first in range(len(letters)):
        if not is_free[first]:
            continue
        chain, nearest = [], first
        while True:
            chain.append(nearest)
            is_free[nearest] = False
            from_here = np.where(is_free, distance[nearest], np.inf)
            nearest = int(np.argmin(from_here))
            if from_here[nearest] == np.inf:
                break
        yield letters[chain]


@dataclass(frozen=True, slots=True)
class _Line:
    """What tells a line of text from other rows of pieces."""

    pieces: int
    letters: float
    strokes: float
    ink: float
    aspect: float


def _describe(line: Boxes) -> _Line:
    height, width = line[:, 1] - line[:, 0], line[:, 3] - line[:, 2]
    return _Line(
        pieces=len(line),
        letters=float(np.maximum(1, np.round(width / height)).sum()),
        strokes=float((line[:, 5] / height).sum()),
        ink=float(line[:, 4].sum() / (width * height).sum()),
        aspect=float((line[:, 3].max() - line[:, 2].min()) / np.median(height)),
    )


def _is_text(boxes: Boxes) -> bool:
    line = _describe(boxes)
    if line.strokes < LEAST_STROKES or line.aspect < 1:
        return False
    density = line.strokes / line.aspect
    if line.pieces == 1:
        return line.aspect >= WORD_ASPECT and density >= WORD_DENSITY and line.ink >= WORD_INK
    enough = line.letters >= LEAST_LETTERS or line.strokes >= SURE_STROKES
    return enough and density >= LEAST_DENSITY and line.ink >= LEAST_INK


@numba.njit(nogil=True, cache=True)
def _root(parents, label):  # type: ignore[no-untyped-def]  # pragma: no cover
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@numba.njit(nogil=True, cache=True)
def _measure(codes):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(boxes, codes) of the 8-connected pieces of pixels that have the same code, not 0.

    A box is top, bottom, left, right, pixels, runs along rows, runs along columns.
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
    return boxes, of_code
