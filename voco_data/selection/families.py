"""Families: patients that share a volume, directly or through others.

Two ids that hold the same volume are taken for one patient, so a split keeps them together.
"""

from __future__ import annotations

from collections.abc import Iterable


def patients_sharing_volumes(
    patient_ids: Iterable[str], content_digests: Iterable[str]
) -> list[tuple[str, str]]:
    """Pairs of patients who have series with equal content, sorted.

    The arguments are parallel: one item a series. The pairs connect all patients of a family.
    """
    first: dict[str, str] = {}
    pairs = {
        (first.setdefault(digest, patient), patient)
        for patient, digest in zip(patient_ids, content_digests, strict=True)
    }
    return sorted((a, b) for a, b in pairs if a != b)


def find_families(patient_ids: Iterable[str], linked: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Patient to the name of the family: the smallest id in it.

    The families are the connected components of the links, which may lead through ids that are not
    among `patient_ids`. Union-find with path halving (Tarjan and van Leeuwen, J. ACM 31, 245,
    1984).
    """
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while (above := parent.get(patient, patient)) != patient:
            parent[patient] = parent.get(above, above)
            patient = above
        return patient

    for one, other in linked:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {patient: root(patient) for patient in patient_ids}
