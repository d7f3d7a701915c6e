"""Texts for a terminal: ids, paths and headers may hold control characters, which are escaped."""

from __future__ import annotations

MAX_CELL = 120
"""Longest cell of a table; a longer one is shortened in its middle."""


def escape_controls(text: str) -> str:
    """`text` with escapes for what a terminal would obey or cannot show; line ends stay.

    These are control characters, formats such as the marks of text direction, and surrogates, which
    stand for undecodable bytes of a file name.
    """
    return "".join(char if char in "\n " or char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def shorten(text: str) -> str:
    """`text` of at most MAX_CELL characters: beginning and end of a longer one."""
    if len(text) <= MAX_CELL:
        return text
    half = (MAX_CELL - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
