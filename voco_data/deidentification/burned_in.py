"""Detect text that is burned into the pixels, and may name the patient.

Such text stands at the same place on many slices, where anatomy changes: what is a stroke on all of
them is text at a low contrast already. On fewer slices it needs a higher one. Text on a single slice
is brighter than any thin structure of a body, or all pixels of a letter have one value, which noise
forbids to those of bones and implants. docs/burned-in-text.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from voco_data.deidentification.text_lines import Plane, has_line, strokes_above

TextSearch: TypeAlias = Literal["usual", "strict"]
"""How text is searched: with few false alarms, or so that less is missed."""

SEARCH_VERSION = 2
"""Increase it if other series would be refused: files that an older search has passed are read
again."""
SLICES_EXAMINED = 16
"""Slices are examined at even distances, with the first and the last."""
LOWEST_HU, HIGHEST_HU = -1100, 4000
"""Values beyond count as these: padding, and text at the end of 16 bits."""
LEVELS_HU = (100, 200, 350, 600, 1000, 1800, 2600)
"""Heights at which strokes are cut. Letters that touch at a low one are apart at a higher one."""
LEAST_PIXELS = 12
"""Fewer pixels are no word."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """Least heights of strokes over their background, in HU."""

    bright: tuple[tuple[int, int], ...]
    """Slices that share a stroke, and its least height; the highest number first."""
    dark: tuple[tuple[int, int], ...]
    """The same of strokes that are darker than their background."""
    large: int
    """Of strokes in a picture of half the size, which all slices share."""
    exact: int
    """Of a stroke of one value, on one slice."""
    slices: int | None
    """How many slices are examined alone; None is all."""


LIMITS: dict[TextSearch, _Limits] = {
    "usual": _Limits(
        bright=((12, 200), (8, 350), (4, 600), (1, 1000)),
        dark=((12, 350), (8, 600)),
        large=350,
        exact=200,
        slices=SLICES_EXAMINED,
    ),
    "strict": _Limits(
        bright=((12, 100), (8, 200), (4, 350), (1, 600)),
        dark=((12, 200), (8, 350), (4, 600), (1, 1000)),
        large=200,
        exact=100,
        slices=None,
    ),
}


def looks_like_text(hu: npt.NDArray[np.int16], search: TextSearch = "usual") -> bool:
    """Whether slices of `hu`, int16 (slice, row, column), have a line of text along either axis."""
    limits = LIMITS[search]
    planes = [_clip(hu[index]) for index in _spread(len(hu), SLICES_EXAMINED)]
    for sign, heights in ((1, limits.bright), (-1, limits.dark)):
        strokes = [strokes_above(sign * plane) for plane in planes]
        for group in _groups(strokes):
            if _has_text(np.minimum.reduce(group), _least_height(len(group), heights)):
                return True
        if sign == 1 and _has_large_text(planes, limits.large):
            return True
    return any(
        _has_text_alone(_clip(hu[index]), limits)
        for index in _spread(len(hu), limits.slices or len(hu))
    )


def _spread(slices: int, most: int) -> Iterable[int]:
    """At most `most` indices of slices at even distances, with the first and the last."""
    picked = np.linspace(0, slices - 1, min(slices, most))
    return map(int, np.unique(picked.round().astype(int)))


def _clip(plane: Plane) -> Plane:
    return np.clip(plane, LOWEST_HU, HIGHEST_HU)


def _groups(strokes: Sequence[Plane]) -> Iterable[Sequence[Plane]]:
    """All slices, both halves, and the quarters, where they are several slices."""
    for parts in (1, 2, 4):
        bounds = np.linspace(0, len(strokes), parts + 1).round().astype(int).tolist()
        for first, end in zip(bounds, bounds[1:], strict=False):
            if end - first > 1:
                yield strokes[first:end]


def _least_height(slices: int, heights: tuple[tuple[int, int], ...]) -> int | None:
    """The least height of strokes that so many slices share; None if they are not searched."""
    return next((height for least, height in heights if slices >= least), None)


def _has_large_text(planes: Sequence[Plane], least: int) -> bool:
    """Whether all slices share large letters, whose strokes are thin in a smaller picture."""
    if len(planes) < SLICES_EXAMINED // 2:
        return False
    strokes = [strokes_above(np.ascontiguousarray(plane[::2, ::2])) for plane in planes]
    return _has_text(np.minimum.reduce(strokes), least)


def _has_text(strokes: Plane, least: int | None) -> bool:
    """Whether strokes of some height, `least` or more, form a line."""
    if least is None:
        return False
    highest = int(strokes.max())
    for level in LEVELS_HU:
        if least <= level <= highest:
            drawn = strokes >= level
            if np.count_nonzero(drawn) >= LEAST_PIXELS and has_line(drawn.astype(np.int16)):
                return True
    return False


def _has_text_alone(plane: Plane, limits: _Limits) -> bool:
    """Whether one slice has text that no thin structure of a body looks like."""
    above, below = strokes_above(plane), strokes_above(-plane)
    if _has_text(above, _least_height(1, limits.bright)):
        return True
    if _has_text(below, _least_height(1, limits.dark)):
        return True
    values = plane - np.int16(LOWEST_HU - 1)
    # The lowest value is where air was clipped; there noise has pieces of one value.
    dark = (below >= limits.exact) & (plane > plane.min())
    return any(
        has_line(np.where(drawn, values, np.int16(0))) for drawn in (above >= limits.exact, dark)
    )
