"""Patient-level splits: a held-out test set and k folds over the rest, balanced by label.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML 2011): patients with the rarest
label are placed first, each where that label is missed most. Sizes are exact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError

TEST_FRACTION = 0.2
"""The paper holds out 20 % of the patients."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which patients test, and which validate in each fold. All are sorted and disjoint."""

    seed: int
    test: tuple[str, ...]
    """Held out: seen by no model and by no threshold."""
    folds: tuple[tuple[str, ...], ...]
    """Validation patients of each fold; a fold's model trains on the other folds."""

    def __post_init__(self) -> None:
        everyone = [patient for part in (self.test, *self.folds) for patient in part]
        if len(set(everyone)) != len(everyone):
            raise InputError("split: a patient is in more than one part")
        if len(self.folds) < 2 or not all((self.test, *self.folds)):
            raise InputError("split: needs a test set and at least two folds, none of them empty")

    def training(self, fold: int) -> tuple[str, ...]:
        """Patients that the model of `fold` learns from, sorted."""
        others = (part for i, part in enumerate(self.folds) if i != fold)
        return tuple(sorted(patient for part in others for patient in part))

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the JSON text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Canonical JSON text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Split:
        """Parse `to_json`. Raises InputError if the text is no split."""
        try:
            data = json.loads(text)
            return cls(
                seed=int(data["seed"]),
                test=tuple(data["test"]),
                folds=tuple(tuple(fold) for fold in data["folds"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"split: cannot be read ({error})") from error


def make_split(
    patient_ids: Sequence[str],
    labels: npt.NDArray[np.integer],
    *,
    n_folds: int,
    seed: int,
    test_fraction: float = TEST_FRACTION,
) -> Split:
    """Split patients by their `labels` (P, G), one class index for each of G groups.

    Depends on the set of patients, not on their order. Raises InputError if there are too few
    patients for a test set and `n_folds` folds.
    """
    if len(set(patient_ids)) != len(patient_ids) or len(patient_ids) != len(labels):
        raise InputError("split: patient ids must be unique, with one row of labels each")
    if not 0 < test_fraction < 1 or n_folds < 2:
        raise InputError("split: needs 0 < test_fraction < 1 and at least 2 folds")
    if len(patient_ids) < n_folds + 1:
        raise InputError(
            f"split: {len(patient_ids)} labelled patients are too few for a test set and "
            f"{n_folds} folds; at least {n_folds + 1} are needed"
        )
    order = np.argsort(np.array(patient_ids, dtype=object))
    sizes = _part_sizes(len(patient_ids), n_folds, test_fraction)
    parts = _assign(_indicators(labels[order]), sizes, np.random.default_rng(seed))
    ids = [patient_ids[i] for i in order]
    members = [tuple(ids[i] for i in np.flatnonzero(parts == p)) for p in range(len(sizes))]
    return Split(seed=seed, test=members[0], folds=tuple(members[1:]))


def _part_sizes(count: int, n_folds: int, test_fraction: float) -> npt.NDArray[np.int64]:
    """Patients in the test set, then in each fold; folds differ by one at most."""
    test = min(max(round(count * test_fraction), 1), count - n_folds)
    base, extra = divmod(count - test, n_folds)
    return np.array([test] + [base + (i < extra) for i in range(n_folds)], np.int64)


def _indicators(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """(P, L): one column for every class that occurs in every group."""
    columns = [
        labels[:, group] == value
        for group in range(labels.shape[1])
        for value in np.unique(labels[:, group])
    ]
    return np.stack(columns, axis=1)


def _assign(
    has_label: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Part of every patient. Each part ends with exactly its size."""
    count = len(has_label)
    parts = np.full(count, -1, np.int64)
    room = sizes.copy()
    wanted = np.outer(sizes / count, has_label.sum(axis=0))
    visit = rng.permutation(count)
    while (parts < 0).any():
        left = has_label[parts < 0].sum(axis=0)
        rarest = int(np.where(left > 0, left, count + 1).argmin())
        for patient in visit[(parts[visit] < 0) & has_label[visit, rarest]]:
            # Most missed label first, then most room, then chance.
            rank = np.lexsort((rng.random(len(sizes)), -room, -wanted[:, rarest]))
            part = int(rank[room[rank] > 0][0])
            parts[patient] = part
            room[part] -= 1
            wanted[part] -= has_label[patient]
    return parts
