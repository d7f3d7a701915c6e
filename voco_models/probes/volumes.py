"""The volumes that probes ask about, with what keeps them apart: patient and domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_data.store import Store
from voco_models.data import input_window

MIN_PATIENTS = 2
"""One to fit on, one to leave out."""


@dataclass(frozen=True, slots=True)
class ProbedVolume:
    """One volume in memory, and whom it shows."""

    voxels: Tensor
    """Stored voxels (Z, Y, X)."""
    patient: str
    """All volumes of a patient are on the same side: fitted on, or left out."""
    domain: str = ""
    """Scanner, archive, or another source of differences; empty if unknown."""
    low: float = 0.0
    """Stored value at the low end of the window, which the network sees as -1."""
    high: float = 255.0
    """Stored value at the high end, which the network sees as 1."""

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or not self.low < self.high:
            raise ValueError(
                f"expected voxels (Z, Y, X) and low < high, got {tuple(self.voxels.shape)}, "
                f"{self.low}, {self.high}"
            )


def read_volumes(
    stores: Sequence[Store],
    *,
    domains: Mapping[str, str] | None = None,
    limit: int | None = None,
    patients: frozenset[str] | None = None,
    seed: int = 0,
) -> list[ProbedVolume]:
    """Volumes of `stores`, store by store in row order, with their patients.

    Parameters
    ----------
    stores : stores of one grid.
    domains : domain by patient; a patient without one is an error.
    limit : read at most so many volumes, drawn at random with `seed`: first one of each patient,
        then a second one, and so on.
    patients : read volumes of these patients only.

    Raises
    ------
    InputError : for stores of several grids, fewer than two patients, and a patient without domain.
    """
    if len({store.grid for store in stores}) > 1:
        raise InputError(
            f"probe: expected stores of one grid, got {sorted({store.grid for store in stores})}"
        )
    listed = [
        (store, int(row), str(patient))
        for store in stores
        for row, patient in zip(store.catalogue["row"], store.catalogue["patient_id"], strict=True)
        if patients is None or str(patient) in patients
    ]
    owners = {patient for _, _, patient in listed}
    if len(owners) < MIN_PATIENTS:
        raise InputError(
            f"probe: expected volumes of at least {MIN_PATIENTS} patients, got {len(owners)}; "
            "give more stores"
        )
    missing = sorted(owners - set(domains)) if domains is not None else []
    if missing:
        raise InputError(
            f"probe: the table of domains lacks {len(missing)} of {len(owners)} patients; "
            "add a line for each"
        )
    kept = _choose([patient for _, _, patient in listed], limit, seed)
    volumes = []
    for store, row, patient in (listed[index] for index in kept):
        window = input_window(None, store.spec)
        volumes.append(
            ProbedVolume(
                voxels=torch.from_numpy(store.read(row)),
                patient=patient,
                domain="" if domains is None else domains[patient],
                low=window.low,
                high=window.high,
            )
        )
    return volumes


def _choose(patients: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Indices of the volumes to read, ascending: round after round, one volume a patient."""
    if limit is None or limit >= len(patients):
        return list(range(len(patients)))
    rng = np.random.default_rng(seed)
    rounds: dict[str, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for index in rng.permutation(len(patients)).tolist():
        patient = patients[index]
        rounds[patient] = rounds.get(patient, -1) + 1
        ranked.append((rounds[patient], len(ranked), index))
    return sorted(index for _, _, index in sorted(ranked)[:limit])
