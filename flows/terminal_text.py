"""Texts for a terminal: ids, paths and headers may hold control characters, which are escaped."""

from __future__ import annotations

MAX_CELL = 120
"""Longest cell of a table; a longer one is shortened in its middle."""
MAX_LINE = 2000
"""Longest message of an error."""


def escape_controls(text: str) -> str:
    """`text` with escapes for what a terminal would obey or cannot show; line ends stay.

    These are control characters, formats such as the marks of text direction, and surrogates, which
    stand for undecodable bytes of a file name.
    """
    return "".join(char if char in "\n " or char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def shorten(text: str, most: int = MAX_CELL) -> str:
    """`text` of at most `most` characters: beginning and end of a longer one."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
