"""Types of option values: each takes the text of the command line, and says what it expected."""

from __future__ import annotations

import argparse
from pathlib import Path

from voco_data.storage import is_url


def share(text: str) -> float:
    """A number between 0 and 1."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return number


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return number


def whole_number(text: str) -> int:
    """An integer of at least 0."""
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A finite time of at least 0 seconds."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return number


def local(text: str) -> Path:
    """A path of this machine."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"expected a path of this machine, got {text}")
    return Path(text)
