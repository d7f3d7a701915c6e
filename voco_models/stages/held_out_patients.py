"""Which patients a pretraining holds out for its own probes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError
from voco_data.selection import content_links, find_families
from voco_data.store import Store
from voco_models.data import Item


def hold_out_patients(
    stores: Sequence[Store],
    items: Sequence[Item],
    fraction: float,
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[list[Item], list[Item], npt.NDArray[np.float64] | None]:
    """The items to train on, and those of held-out patients; both in the order of `items`.

    The third value are the `weights` of the items to train on; None if they are equal.

    A family of patients who share a volume is held out if the hash of its smallest id is in the
    lowest `fraction` of all hashes. So a patient who comes later moves nobody outside of the
    family, and no patient and no volume is in both parts. The family with the lowest hash always
    is held out. Raises InputError if nobody or nothing is left to train on.
    """
    patients = {
        (id(store), int(row)): str(patient)
        for store in stores
        for row, patient in zip(store.catalogue["row"], store.catalogue["patient_id"], strict=True)
    }
    of_item = [patients[(id(item.store), item.row)] for item in items]
    links = [link for store in stores for link in content_links(store)]
    families = find_families(set(of_item), links)
    places = {patient: _place(families[patient]) for patient in set(of_item)}
    lowest = min(places, key=places.__getitem__)
    held = {p for p, place in places.items() if place < fraction or place == places[lowest]}
    is_held = np.array([patient in held for patient in of_item], np.bool_)
    training = [item for item, out in zip(items, is_held, strict=True) if not out]
    probed = [item for item, out in zip(items, is_held, strict=True) if out]
    if not training:
        raise InputError(
            f"probe_every: all {len(places)} patients would be held out; "
            "use more patients, or set probe_every=0"
        )
    kept = None if weights is None else weights[~is_held]
    if kept is not None and (kept == kept[0]).all():
        kept = None
    return training, probed, kept


def _place(patient: str) -> float:
    """A number in [0, 1) that is a function of the id."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) / 2**64
