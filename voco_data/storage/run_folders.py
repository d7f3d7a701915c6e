"""The folders of preprocess runs under a root, and how they are told from others beside them."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path

FOLDER = "runs"
ID = re.compile(r"\d{8}T\d{6}-preprocess-[0-9a-f]{6}")
"""Name of the folder of a preprocess run. Others below runs/ are not ours: say, of trainings."""


def new_id() -> str:
    """A name for the run that ends now; sorted by name, runs are sorted by time."""
    return f"{time.strftime('%Y%m%dT%H%M%S')}-preprocess-{secrets.token_hex(3)}"


def folders(root: Path) -> list[Path]:
    """Folders of the preprocess runs under a root of this machine."""
    return [path for path in (root / FOLDER).glob("*") if ID.fullmatch(path.name)]
