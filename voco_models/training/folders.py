"""Checks of the folder of a run, without torch."""

from __future__ import annotations

import os
from pathlib import Path

from voco_data.errors import InputError


def check_writable(out: Path) -> None:
    """Raise InputError if `out` is a file, or cannot be made or written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder for the run, found a file; give another --out")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{out}: expected a place that can be written, {parent} cannot")
