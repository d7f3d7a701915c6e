"""Pseudonyms for patient ids of labels, which are the archive's own, to join them with a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path


def patient_pseudonymiser(store: str | Path) -> Callable[[str], str] | None:
    """The function from a patient id to its pseudonym in `store`; None if the store keeps ids."""
    from voco_data.deidentification import (
        pseudonyms,  # here: it needs pandas, and `voco --help` does not
    )
    from voco_data.storage import parent_storage

    pseudonymiser = pseudonyms.load(parent_storage(store))
    return None if pseudonymiser is None else partial(pseudonymiser, "patient")
