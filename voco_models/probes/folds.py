"""Which patients are left out together: folds of patients, and folds of domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from voco_data.errors import InputError
from voco_models.probes.volumes import ProbedVolume

Fold = frozenset[str]
"""Patients that are left out together; the probe is fitted on all others."""


def patient_folds(volumes: Sequence[ProbedVolume], n_folds: int, seed: int = 0) -> list[Fold]:
    """At most `n_folds` folds of patients, with about equally many volumes each.

    Patients with most volumes are placed first, each in the fold that has fewest; `seed` breaks
    ties. Every patient is in one fold. Raises InputError for fewer than two folds or patients.
    """
    counts = Counter(volume.patient for volume in volumes)
    if n_folds < 2 or len(counts) < 2:
        raise InputError(
            f"probe: expected at least 2 folds and 2 patients, got {n_folds} and {len(counts)}"
        )
    order = np.random.default_rng(seed).permutation(sorted(counts)).tolist()
    order.sort(key=lambda patient: -counts[patient])
    folds: list[set[str]] = [set() for _ in range(min(n_folds, len(counts)))]
    sizes = [0] * len(folds)
    for patient in order:
        smallest = min(range(len(folds)), key=lambda k: (sizes[k], k))
        folds[smallest].add(patient)
        sizes[smallest] += counts[patient]
    return [frozenset(fold) for fold in folds]


def domain_folds(volumes: Sequence[ProbedVolume]) -> list[Fold]:
    """A fold for each domain: its patients are left out, all other domains are fitted on.

    Raises InputError if there are fewer than two domains, or if a patient is in several.
    """
    domains: dict[str, str] = {}
    for volume in volumes:
        if domains.setdefault(volume.patient, volume.domain) != volume.domain:
            raise InputError("probe: a patient is in several domains; give each patient one domain")
    names = sorted(set(domains.values()))
    if len(names) < 2:
        raise InputError(
            f"probe: leaving domains out needs at least 2 domains, got {len(names)}; "
            "give a table of domains"
        )
    return [frozenset(p for p, domain in domains.items() if domain == name) for name in names]


def held_out_fold(volumes: Sequence[ProbedVolume], patients: Collection[str]) -> list[Fold]:
    """One fold: the `patients` that have volumes. Raises InputError if it is none or all."""
    present = {volume.patient for volume in volumes}
    fold = frozenset(patients) & present
    if not fold or fold == present:
        raise InputError(
            f"probe: expected some patients to leave out and some to fit on, got {len(fold)} of "
            f"{len(present)} left out"
        )
    return [fold]
