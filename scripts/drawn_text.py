"""Draw text into slices as burned-in text is drawn: fonts, sizes, smoothing, turns, grey levels.

The fonts are those that Pillow and Matplotlib bring. Text is random, so no detector can know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Case = Literal["upper", "mixed"]
Edges = Literal["hard", "grey", "smoothed"]
"""Two values; the grey edges of a font renderer; the same after a Gaussian filter."""
Place = Literal["corner", "edge", "anywhere"]
Share = npt.NDArray[np.float32]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONTS = ("Aileron", "bitmap", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")
"""Pillow's own outline and bitmap fonts, and four of Matplotlib's."""
SMOOTHING_PX = 0.7
"""Standard deviation of the Gaussian filter."""
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORD_GAP_CHANCE = 0.5
MARGIN_PX = 4
"""Least distance of text from the border of a slice."""


@dataclass(frozen=True, slots=True)
class TextStyle:
    """How a text is drawn."""

    font: str = "DejaVuSans"
    cap_px: int = 12
    """Height of a capital letter."""
    edges: Edges = "hard"
    turn_deg: float = 0.0
    value_hu: int = 3071
    opacity: float = 1.0
    """Share of the text's value in a pixel of a stroke; the rest is what lay there."""
    place: Place = "corner"


def draw_words(rng: np.random.Generator, letters: int, case: Case) -> str:
    """Random words of `letters` letters in all; more than four may be two words."""
    text = "".join(rng.choice(list(UPPER), letters))
    words = [text]
    if letters > 4 and rng.random() < WORD_GAP_CHANCE:
        cut = int(rng.integers(2, letters - 1))
        words = [text[:cut], text[cut:]]
    return " ".join(word if case == "upper" else word.capitalize() for word in words)


def render(text: str, style: TextStyle) -> Share:
    """The share of ink of each pixel, float32 (row, column) from 0 to 1, cut to the text."""
    image = _bitmap(text, style.cap_px) if style.font == "bitmap" else _outline(text, style)
    ink = np.asarray(image, np.float32) / 255
    if style.turn_deg:
        ink = ndimage.rotate(ink, style.turn_deg, order=1, reshape=True)
    if style.edges == "smoothed":
        ink = ndimage.gaussian_filter(np.pad(ink, 3), SMOOTHING_PX)
    ink = np.clip(ink, 0, 1)
    if style.edges == "hard":
        ink = np.where(ink >= 0.5, np.float32(1), np.float32(0))
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return np.asarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], np.float32)


def burn_in(
    hu: npt.NDArray[np.int16], ink: Share, style: TextStyle, rng: np.random.Generator
) -> bool:
    """Draw into all slices of `hu`, int16 (slice, row, column). False if the text is too wide."""
    room = [hu.shape[1 + axis] - ink.shape[axis] - 2 * MARGIN_PX for axis in (0, 1)]
    if min(room) < 0:
        return False
    row, column = (MARGIN_PX + int(n) for n in _position(room, style.place, rng))
    view = hu[:, row : row + ink.shape[0], column : column + ink.shape[1]]
    share = ink * np.float32(style.opacity)
    view[...] = np.rint(view * (1 - share) + style.value_hu * share).astype(np.int16)
    return True


def _position(room: list[int], place: Place, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column of the text, of those in which it fits."""
    ends = [int(rng.integers(2)) * room[axis] for axis in (0, 1)]
    free = [int(rng.integers(room[axis] + 1)) for axis in (0, 1)]
    if place == "corner":
        return ends[0], ends[1]
    if place == "edge":
        return (ends[0], free[1]) if rng.random() < 0.5 else (free[0], ends[1])
    return free[0], free[1]


def _outline(text: str, style: TextStyle) -> Image.Image:
    font = load_font(style.font, style.cap_px)
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    image = Image.new("L", (right - left + 8, bottom - top + 8))
    drawing = ImageDraw.Draw(image)
    drawing.fontmode = "1" if style.edges == "hard" and not style.turn_deg else "L"
    drawing.text((4 - left, 4 - top), text, 255, font)
    return image


def _bitmap(text: str, cap_px: int) -> Image.Image:
    """The text in Pillow's font of pixels, enlarged to the height: strokes may be blocks."""
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    image = Image.new("L", (right + 8, bottom + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, 255, font)
    factor = cap_px / _cap_height(font)
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.NEAREST)


@cache
def load_font(name: str, cap_px: int) -> ImageFont.FreeTypeFont:
    """The outline font whose capital letters are `cap_px` high; hinting may make it a row more."""
    size = cap_px
    while _cap_height(_sized(name, size)) < cap_px:
        size += 1
    return _sized(name, size)


def _sized(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name == "Aileron":
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise RuntimeError("this Pillow has no FreeType")
        return font
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def _cap_height(font: Font) -> int:
    """Rows of a capital letter."""
    image = Image.new("L", (400, 400))
    drawing = ImageDraw.Draw(image)
    drawing.fontmode = "1"
    drawing.text((100, 100), "H", 255, font)
    box = image.getbbox()
    if box is None:
        raise RuntimeError("the font has no letter H")
    return box[3] - box[1]
