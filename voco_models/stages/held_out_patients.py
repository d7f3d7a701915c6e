"""Which patients a pretraining holds out for its own probes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from voco_data.errors import InputError
from voco_data.store import Store
from voco_models.data import Item


def hold_out_patients(
    stores: Sequence[Store], items: Sequence[Item], fraction: float
) -> tuple[list[Item], list[Item]]:
    """The items to train on, and those of held-out patients; both in the order of `items`.

    A patient is held out if the hash of the id is in the lowest `fraction` of all hashes. So a
    patient who comes later moves nobody, and no patient is in both parts. The patient with the
    lowest hash always is. Raises InputError if nobody or nothing is left to train on.
    """
    patients = {
        (id(store), int(row)): str(patient)
        for store in stores
        for row, patient in zip(store.catalogue["row"], store.catalogue["patient_id"], strict=True)
    }
    of_item = [patients[(id(item.store), item.row)] for item in items]
    places = {patient: _place(patient) for patient in set(of_item)}
    lowest = min(places, key=places.__getitem__)
    held = {patient for patient, place in places.items() if place < fraction} | {lowest}
    training = [i for i, patient in zip(items, of_item, strict=True) if patient not in held]
    probed = [i for i, patient in zip(items, of_item, strict=True) if patient in held]
    if not training:
        raise InputError(
            f"probe_every: all {len(places)} patients would be held out; "
            "use more patients, or set probe_every=0"
        )
    return training, probed


def _place(patient: str) -> float:
    """A number in [0, 1) that is a function of the id."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) / 2**64
