"""Detect text that is burned into the pixels, and may name the patient.

Such text stands at the same place on many slices, where anatomy changes: a line of strokes that
all of them share is text, also at a low contrast. On fewer slices it needs a higher one. On a
single slice, text is brighter than the thin structures of a body, or all pixels of a letter have
one value, as those of bones have not because of noise. docs/burned-in-text.md has measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from voco_data.deidentification.text_lines import (
    Plane,
    count_strokes,
    count_values,
    strokes_above,
)
from voco_data.deidentification.text_search import TextSearch

SLICES_EXAMINED = 16
"""Slices are examined at even distances, with the first and the last."""
LOWEST_HU, HIGHEST_HU = -1100, 4000
"""Values beyond count as these: padding, and text at the end of 16 bits."""
LEVELS_HU = (100, 200, 350, 600, 1000, 1400, 2000, 2700)
"""Heights at which strokes are cut. Letters that touch at a low one are apart at a higher one."""
SMALL_MATRIX, SMALL_MATRIX_STROKES = 128, 6
"""In a picture with fewer rows or columns, organs and bones are as thin as strokes: lines must be
longer."""
LEAST_PIXELS = 12
"""Fewer pixels are no word."""
LEAST_SHARE = 0.6
"""Share of the pixels of a value that are strokes: less, where values are clipped or coarse."""
COARSEST_STEP_HU = 2
"""Where most values of a slice are farther apart, those of bones are alike, too."""
ANY = 0.0
"""Strokes of a line where any line of text will do."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What makes strokes text: slices that share them, their height, the length of their line."""

    slices: int
    """At least so many slices share them."""
    height_hu: int
    """They are at least so far above, or below, their background."""
    strokes: float = ANY
    """At least so many strokes are on a line."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules of a search. Strokes that satisfy one of them are text."""

    bright: tuple[_Rule, ...]
    dark: tuple[_Rule, ...]
    """Strokes that are darker than their background: bowel gas and lungs have some."""
    large: tuple[_Rule, ...]
    """Bright strokes in a picture of half the size: those of large letters."""
    exact: tuple[_Rule, ...]
    """Bright strokes of one value, on one slice."""
    examines_all: bool
    """Whether all slices are examined alone, or those that are compared with each other."""


RULES: dict[TextSearch, _Rules] = {
    "usual": _Rules(
        bright=(
            _Rule(12, 200),
            _Rule(12, 100, 8),
            _Rule(8, 350),
            _Rule(4, 600),
            _Rule(1, 1400),
            _Rule(1, 1000, 4),
            _Rule(1, 600, 8),
        ),
        dark=(_Rule(12, 600), _Rule(12, 200, 6), _Rule(8, 350, 6), _Rule(1, 1000, 6)),
        large=(_Rule(12, 350, 4.5), _Rule(12, 1000)),
        exact=(_Rule(1, 200),),
        examines_all=False,
    ),
    "strict": _Rules(
        bright=(
            _Rule(12, 100),
            _Rule(8, 200),
            _Rule(4, 350),
            _Rule(1, 1000),
            _Rule(1, 600, 5),
            _Rule(1, 350, 12),
        ),
        dark=(_Rule(12, 200), _Rule(8, 350), _Rule(4, 600), _Rule(1, 1000, 4), _Rule(1, 600, 6)),
        large=(_Rule(12, 200),),
        exact=(_Rule(1, 200), _Rule(1, 100, 4)),
        examines_all=True,
    ),
}


def looks_like_text(hu: npt.NDArray[np.int16], search: TextSearch = "usual") -> bool:
    """Whether slices of `hu`, int16 (slice, row, column), have a line of text along either axis."""
    rules = RULES[search]
    picked = np.linspace(0, len(hu) - 1, min(len(hu), SLICES_EXAMINED)).round().astype(int)
    examined = np.unique(picked).tolist()
    planes = [_clip(hu[index]) for index in examined]
    bright = np.stack([strokes_above(plane) for plane in planes])
    if (
        _is_shared(bright, rules.bright)
        or _is_shared(np.stack([strokes_above(-plane) for plane in planes]), rules.dark)
        or _is_shared(np.stack([strokes_above(plane[::2, ::2]) for plane in planes]), rules.large)
        or any(map(partial(_is_on_slice, rules), planes, bright))
    ):
        return True
    others = set(range(len(hu))) - set(examined) if rules.examines_all else set()
    return any(_has_text_alone(_clip(hu[index]), rules) for index in sorted(others))


def _has_text_alone(plane: Plane, rules: _Rules) -> bool:
    """Whether one slice has text, by the rules for single slices."""
    bright = strokes_above(plane)
    return (
        _is_text(bright, 1, rules.bright)
        or _is_text(strokes_above(-plane), 1, rules.dark)
        or _is_on_slice(rules, plane, bright)
    )


def _clip(plane: Plane) -> Plane:
    return np.clip(plane, LOWEST_HU, HIGHEST_HU)


def _is_shared(strokes: npt.NDArray[np.int16], rules: tuple[_Rule, ...]) -> bool:
    """Whether text is on all slices, on a half, a quarter, or a single one of them."""
    least = min(rule.slices for rule in rules)
    for parts in sorted({1, 2, 4, len(strokes)}):
        bounds = np.linspace(0, len(strokes), parts + 1).round().astype(int).tolist()
        for first, end in pairwise(bounds):
            slices = end - first
            if slices >= least and _is_text(strokes[first:end].min(axis=0), slices, rules):
                return True
    return False


def _is_text(strokes: Plane, slices: int, rules: tuple[_Rule, ...]) -> bool:
    """Whether strokes that so many slices share form a line of text, cut at some height."""
    rules = tuple(rule for rule in rules if slices >= rule.slices)
    highest = int(strokes.max())
    for level in LEVELS_HU:
        needed = [rule.strokes for rule in rules if rule.height_hu <= level <= highest]
        if not needed:
            continue
        drawn = strokes >= level
        if np.count_nonzero(drawn) < LEAST_PIXELS:
            return False
        if _has_line(drawn.astype(np.int16), min(needed)):
            return True
    return False


def _has_line(codes: Plane, needed: float) -> bool:
    """Whether a line of text has at least `needed` strokes."""
    if min(codes.shape) < SMALL_MATRIX:
        needed = max(needed, SMALL_MATRIX_STROKES)
    strokes = count_strokes(codes)
    return strokes > 0 and strokes >= needed


def _is_on_slice(rules: _Rules, plane: Plane, heights: Plane) -> bool:
    """Whether a slice, with its bright strokes, has letters of one value that little else has."""
    for rule in rules.exact:
        frequency, inked = count_values(plane, heights, rule.height_hu, (LOWEST_HU, HIGHEST_HU))
        is_ink = (inked >= LEAST_PIXELS) & (inked >= LEAST_SHARE * frequency)
        used = np.flatnonzero(frequency)
        is_ink[used[-1]] = False  # bone and metal have it, where values were clipped
        if not is_ink.any() or np.median(np.diff(used)) > COARSEST_STEP_HU:
            continue
        values = plane - np.int16(LOWEST_HU)
        letters = np.where((heights >= rule.height_hu) & is_ink[values], values + np.int16(1), 0)
        if _has_line(letters.astype(np.int16), rule.strokes):
            return True
    return False
