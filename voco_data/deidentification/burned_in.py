"""Detect text that is burned into the pixels, and may name the patient.

Such text stands at the same place on many slices, where anatomy changes: a line of strokes that
all of them share is text, also at a low contrast. On fewer slices it needs a higher one. On a
single slice, text is brighter than the thin structures of a body, or all pixels of a letter have
one value, as those of bones have not because of noise. docs/burned-in-text.md has measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from voco_data.deidentification.text_lines import Plane, count_strokes, strokes_above
from voco_data.deidentification.text_search import TextSearch

SLICES_EXAMINED = 16
"""Slices are examined at even distances, with the first and the last."""
LOWEST_HU, HIGHEST_HU = -1100, 4000
"""Values beyond count as these: padding, and text at the end of 16 bits."""
LEVELS_HU = (100, 200, 350, 600, 1000, 1400, 2000, 2700)
"""Heights at which strokes are cut. Letters that touch at a low one are apart at a higher one."""
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
    """Strokes of one value."""
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
    strokes = [_Strokes(strokes_above(plane), strokes_above(-plane)) for plane in planes]
    if (
        _is_shared([each.bright for each in strokes], rules.bright)
        or _is_shared([each.dark for each in strokes], rules.dark)
        or _is_shared([strokes_above(plane[::2, ::2]) for plane in planes], rules.large)
        or any(map(partial(_is_on_slice, rules), planes, strokes))
    ):
        return True
    others = set(range(len(hu))) - set(examined) if rules.examines_all else set()
    for index in sorted(others):
        plane = _clip(hu[index])
        alone = _Strokes(strokes_above(plane), strokes_above(-plane))
        if _is_text(alone.bright, 1, rules.bright) or _is_text(alone.dark, 1, rules.dark):
            return True
        if _is_on_slice(rules, plane, alone):
            return True
    return False


class _Strokes(NamedTuple):
    """Heights of the strokes of a slice."""

    bright: Plane
    dark: Plane


def _clip(plane: Plane) -> Plane:
    return np.clip(plane, LOWEST_HU, HIGHEST_HU)


def _is_shared(strokes: Sequence[Plane], rules: tuple[_Rule, ...]) -> bool:
    """Whether text is on all slices, on a half, a quarter, or a single one of them."""
    least = min(rule.slices for rule in rules)
    for parts in sorted({1, 2, 4, len(strokes)}):
        bounds = np.linspace(0, len(strokes), parts + 1).round().astype(int).tolist()
        for first, end in pairwise(bounds):
            group = strokes[first:end]
            if len(group) >= least and _is_text(np.minimum.reduce(group), len(group), rules):
                return True
    return False


def _is_text(strokes: Plane, slices: int, rules: tuple[_Rule, ...]) -> bool:
    """Whether strokes that so many slices share form a line of text, cut at some height."""
    rules = tuple(rule for rule in rules if slices >= rule.slices)
    highest = int(strokes.max())
    for level in LEVELS_HU:
        needed = [rule.strokes for rule in rules if rule.height_hu <= level <= highest]
        if needed and _has_line((strokes >= level).astype(np.int16), min(needed)):
            return True
    return False


def _has_line(codes: Plane, needed: float) -> bool:
    """Whether a line of text has at least `needed` strokes."""
    if np.count_nonzero(codes) < LEAST_PIXELS:
        return False
    strokes = count_strokes(codes)
    return strokes > 0 and strokes >= needed


def _is_on_slice(rules: _Rules, plane: Plane, strokes: _Strokes) -> bool:
    """Whether one slice has text whose letters are of one value, which little else has."""
    values = plane - np.int16(LOWEST_HU - 1)
    frequency = np.bincount(values.ravel(), minlength=HIGHEST_HU - LOWEST_HU + 2)
    used = np.flatnonzero(frequency)
    if len(used) < 2 or np.median(np.diff(used)) > COARSEST_STEP_HU:
        return False
    for heights, rule in product(strokes, rules.exact):
        drawn = heights >= rule.height_hu
        inked = np.bincount(values[drawn], minlength=len(frequency))
        is_ink = (inked >= LEAST_PIXELS) & (inked >= LEAST_SHARE * frequency)
        is_ink[used[-1]] = False  # bone and metal have it, where values were clipped
        if is_ink.any() and _has_line(
            np.where(drawn & is_ink[values], values, np.int16(0)), rule.strokes
        ):
            return True
    return False
