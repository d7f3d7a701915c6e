"""The series of stores as one table, and a selection of them.

A selection says which series a stage uses, and how often it draws them. It is part of a recipe.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.errors import InputError
from voco_data.selection.families import find_families, patients_sharing_volumes
from voco_data.storage import read_text
from voco_data.store import Store

COLUMNS = ("row", "patient_id", "series_uid", "layout", "flags", "content_digest")
"""Columns of the catalogue that a table of series has, beside `store`, its position."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which series a stage uses, and how often it draws them. By default all, equally often."""

    layouts: tuple[str, ...] = ()
    """Layouts of archives, such as `ratic` and `flare`; all if empty."""
    patients: tuple[str, ...] = ()
    """Patient ids as the store has them; all if empty."""
    patients_file: str | None = None
    """A text file with a patient id on each line, instead of `patients`."""
    without_flags: tuple[str, ...] = ()
    """Flags of the ledger; series that have one of them are left out."""
    weights: dict[str, float] = field(default_factory=dict)
    """Layout to how often its series are drawn in training; 1 for all others."""

    def __post_init__(self) -> None:
        for layout, weight in self.weights.items():
            if not 0 < weight < math.inf:
                raise InputError(
                    f"selection: weights: expected a number above 0 for {layout}, got {weight}; "
                    "layouts leaves a layout out"
                )
        if self.patients and self.patients_file is not None:
            raise InputError("selection: give patients or patients_file, not both")

    @property
    def patient_ids(self) -> frozenset[str] | None:
        """The ids of `patients` or `patients_file`; None for all patients.

        Raises InputError if the file cannot be read or holds no id.
        """
        if self.patients_file is None:
            return frozenset(self.patients) or None
        try:
            lines = read_text(Path(self.patients_file), "patients").splitlines()
        except InputError as error:
            raise InputError(
                f"selection: {self.patients_file}: expected a text file of patient ids ({error})"
            ) from error
        ids = frozenset(line.strip() for line in lines) - {""}
        if not ids:
            raise InputError(f"selection: {self.patients_file}: the file holds no patient id")
        return ids

    def check(self, series: pd.DataFrame) -> None:
        """Raise InputError if layouts or patients are named that none of the `series` has."""
        present = set(series["layout"])
        for layout in (*self.layouts, *self.weights):
            if layout not in present:
                raise InputError(
                    f"selection: no series of the layout {layout}; the stores hold "
                    f"{', '.join(sorted(present)) or 'nothing'}"
                )
        named = self.patient_ids
        unknown = len(named - set(series["patient_id"])) if named else 0
        if named and unknown:
            raise InputError(
                f"selection: {unknown} of the {len(named)} patients are not in the stores; give "
                "ids as the stores have them"
            )

    def mask(self, series: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which of N `series` are selected, bool (N,). Raises InputError as `check`."""
        self.check(series)
        chosen = np.ones(len(series), np.bool_)
        if self.layouts:
            chosen &= series["layout"].isin(self.layouts).to_numpy(np.bool_)
        if (named := self.patient_ids) is not None:
            chosen &= series["patient_id"].isin(named).to_numpy(np.bool_)
        if self.without_flags:
            unwanted = set(self.without_flags)
            chosen &= np.array([unwanted.isdisjoint(flags.split()) for flags in series["flags"]])
        return chosen

    def weights_of(self, layouts: Iterable[str]) -> npt.NDArray[np.float64] | None:
        """Relative frequency of each of N series, float64 (N,); None if all are equal."""
        weights = np.array([self.weights.get(layout, 1.0) for layout in layouts], np.float64)
        return None if (weights == weights[:1]).all() else weights


def list_series(stores: Sequence[Store]) -> pd.DataFrame:
    """Every stored series, store by store, in row order: `COLUMNS`, and the position of `store`."""
    tables = [
        store.catalogue[list(COLUMNS)].sort_values("row").assign(store=position)
        for position, store in enumerate(stores)
    ]
    return pd.concat(tables, ignore_index=True)


def held_out_mask(
    series: pd.DataFrame, held_out: Collection[str], grouped: Collection[str]
) -> npt.NDArray[np.bool_]:
    """Which of N series must not be learnt from if the patients `held_out` are, bool (N,).

    These are their own series; all series of patients of their families who are in no group of the
    split (`grouped` are those who are); and the volumes that other patients share with any of them.
    """
    patients = series["patient_id"].astype(str)
    links = patients_sharing_volumes(patients, series["content_digest"])
    family_of = find_families(patients, links)
    held, placed = set(held_out), set(grouped)
    families = {family_of[patient] for patient in held & family_of.keys()}
    alone = {p for p, family in family_of.items() if family in families and p not in placed}
    mine = patients.isin(held | alone).to_numpy(np.bool_)
    shared = series["content_digest"].isin(set(series["content_digest"][mine]))
    return mine | shared.to_numpy(np.bool_)


def patients_digest(patient_ids: Iterable[str]) -> str:
    """Identify a set of patients: first 12 hex digits of a SHA-256 of the sorted ids."""
    text = "\n".join(sorted(set(patient_ids)))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def describe_series(series: pd.DataFrame) -> dict[str, object]:
    """What a run records of its series: counts, volumes by layout, and the patients' digest."""
    by_layout = series["layout"].value_counts().sort_index()
    return {
        "patients": int(series["patient_id"].nunique()),
        "volumes": len(series),
        "layouts": {str(layout): int(count) for layout, count in by_layout.items()},
        "patients_digest": patients_digest(series["patient_id"]),
    }
