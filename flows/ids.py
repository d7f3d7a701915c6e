"""How to join labels, which have the archive's own ids, with a store that has pseudonyms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path


def renaming_of(store: str | Path) -> Callable[[str], str] | None:
    """The function from a patient's id to the pseudonym in `store`; None if ids were kept."""
    from voco_data.deidentification import (
        pseudonyms,  # here: it needs pandas, and `voco --help` does not
    )
    from voco_data.storage import parent_storage

    pseudonymiser = pseudonyms.load(parent_storage(store))
    return None if pseudonymiser is None else partial(pseudonymiser, "patient")
