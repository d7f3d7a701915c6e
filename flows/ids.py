"""Labels with the archive's own ids, for a store that holds pseudonyms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path


def renaming_of(store: str | Path) -> Callable[[str], str] | None:
    """How the root of `store` renames patients; None where it keeps their ids."""
    from voco_data.deidentification import (
        pseudonyms,  # here: it needs pandas, and `voco --help` does not
    )
    from voco_data.storage.urls import parent_storage

    hidden = pseudonyms.load(parent_storage(store))
    return None if hidden is None else partial(hidden, "patient")
