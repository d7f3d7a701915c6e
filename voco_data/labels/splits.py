"""Patient-level splits: a held-out test set and k folds over the rest, balanced by label.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): patients with the
rarest label are placed first, each in the part that lacks most of that label. Patients who share a
volume are linked and stay together. Parts have their exact size unless linked patients prevent it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError

TEST_FRACTION = 0.2
"""Share of the patients in the test set: 20 %, as in the paper."""


@dataclass(frozen=True, slots=True)
class Split:
    """Patients of the test set and of each validation fold. All are sorted and disjoint."""

    seed: int
    test: tuple[str, ...]
    """Held out from training and from the choice of thresholds."""
    folds: tuple[tuple[str, ...], ...]
    """Validation patients of each fold; a fold's model trains on the other folds."""

    def __post_init__(self) -> None:
        everyone = [patient for part in (self.test, *self.folds) for patient in part]
        if len(set(everyone)) != len(everyone):
            raise InputError("split: a patient is in more than one part")
        if len(self.folds) < 2 or not all((self.test, *self.folds)):
            raise InputError("split: needs a test set and at least two folds, none of them empty")

    def training(self, fold: int) -> tuple[str, ...]:
        """Training patients of the model of `fold`: those of all other folds, sorted."""
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
    linked: Iterable[tuple[str, str]] = (),
) -> Split:
    """Split patients by their `labels` (P, G), one class index for each of G groups.

    Patients who are `linked`, directly or through others, come into one part; a link may lead
    through ids that are not among `patient_ids`. The result depends on the sets of patients and
    links, not on their order. Raises InputError if there are too few patients for a test set and
    `n_folds` folds.
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
    components = _linked_components([patient_ids[i] for i in order], linked)
    if len(np.unique(components)) < n_folds + 1:
        raise InputError(
            f"split: {len(patient_ids)} labelled patients share so many volumes that they are "
            f"{len(np.unique(components))} groups, too few for a test set and {n_folds} folds"
        )
    sizes = _part_sizes(len(patient_ids), n_folds, test_fraction)
    parts = _assign(_indicators(labels[order]), components, sizes, np.random.default_rng(seed))
    ids = [patient_ids[i] for i in order]
    members = [tuple(ids[i] for i in np.flatnonzero(parts == p)) for p in range(len(sizes))]
    return Split(seed=seed, test=members[0], folds=tuple(members[1:]))


def patients_sharing_volumes(
    patient_ids: Iterable[str], content_digests: Iterable[str]
) -> list[tuple[str, str]]:
    """Pairs of patients who have series with equal content, for `linked` of `make_split`.

    The arguments are parallel: one item a series.
    """
    first: dict[str, str] = {}
    pairs = {
        (first.setdefault(digest, patient), patient)
        for patient, digest in zip(patient_ids, content_digests, strict=True)
    }
    return sorted((a, b) for a, b in pairs if a != b)


def _linked_components(
    patient_ids: Sequence[str], linked: Iterable[tuple[str, str]]
) -> npt.NDArray[np.int64]:
    """(P,) int64: connected components of the links, each as the index of its first patient.

    Union-find with path halving (Tarjan and van Leeuwen, J. ACM 31, 245, 1984).
    """
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while (above := parent.get(patient, patient)) != patient:
            parent[patient] = parent.get(above, above)
            patient = above
        return patient

    for one, other in linked:
        parent[root(one)] = root(other)
    first: dict[str, int] = {}
    return np.array([first.setdefault(root(p), i) for i, p in enumerate(patient_ids)], np.int64)


def _part_sizes(count: int, n_folds: int, test_fraction: float) -> npt.NDArray[np.int64]:
    """Patients in the test set, then in each fold; folds differ by one at most."""
    test = min(max(round(count * test_fraction), 1), count - n_folds)
    base, extra = divmod(count - test, n_folds)
    return np.array([test] + [base + (i < extra) for i in range(n_folds)], np.int64)


def _indicators(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """(P, L): whether a patient has a class, one column for each class that occurs in a group."""
    columns = [
        labels[:, group] == value
        for group in range(labels.shape[1])
        for value in np.unique(labels[:, group])
    ]
    return np.stack(columns, axis=1)


def _assign(
    has_label: npt.NDArray[np.bool_],
    components: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """(P,) int64: part of every patient. Each part gets its size, unless components prevent it.

    `has_label` is (P, L), `components` (P,) the components of linked patients, `sizes` (parts,).
    """
    count = len(has_label)
    parts = np.full(count, -1, np.int64)
    capacity = sizes.copy()
    desired = np.outer(sizes / count, has_label.sum(axis=0))
    component_ids, component_sizes = np.unique(components, return_counts=True)
    largest_first = np.argsort(-component_sizes, kind="stable")
    # Components of several patients come first, the largest before all, while parts have capacity.
    for component in component_ids[largest_first][component_sizes[largest_first] > 1]:
        members = np.flatnonzero(components == component)
        demand = desired @ has_label[members].sum(axis=0)
        fits = capacity >= min(len(members), capacity.max())
        part = int(np.lexsort((rng.random(len(sizes)), -capacity, -demand, ~fits))[0])
        parts[members] = part
        capacity[part] -= len(members)
        desired[part] -= has_label[members].sum(axis=0)
    visiting_order = rng.permutation(count)
    while (parts < 0).any():
        unplaced = has_label[parts < 0].sum(axis=0)
        rarest = int(np.where(unplaced > 0, unplaced, count + 1).argmin())
        for patient in visiting_order[
            (parts[visiting_order] < 0) & has_label[visiting_order, rarest]
        ]:
            # The part that lacks most of the label; then most capacity; then at random.
            rank = np.lexsort((rng.random(len(sizes)), -capacity, -desired[:, rarest]))
            part = int(rank[capacity[rank] > 0][0])
            parts[patient] = part
            capacity[part] -= 1
            desired[part] -= has_label[patient]
    return parts
