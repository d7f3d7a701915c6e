"""Who is left out together: all volumes of a patient, and all patients of a domain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from voco_data.errors import InputError
from voco_models.probes.folds import domain_folds, held_out_fold, patient_folds
from voco_models.probes.volumes import ProbedVolume

VOXELS = torch.zeros(1, 2, 2, dtype=torch.uint8)


def volumes_of(*owners: tuple[str, str]) -> list[ProbedVolume]:
    return [ProbedVolume(VOXELS, patient, domain) for patient, domain in owners]


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(lambda p: len(set(p)) > 1),
    st.integers(2, 8),
    st.integers(0, 3),
)
def test_every_patient_is_left_out_once(numbers: list[int], n_folds: int, seed: int) -> None:
    volumes = volumes_of(*((f"p{number}", "") for number in numbers))
    folds = patient_folds(volumes, n_folds, seed)
    everyone = [patient for fold in folds for patient in fold]
    assert sorted(everyone) == sorted({volume.patient for volume in volumes})
    assert len(folds) == min(n_folds, len(set(numbers)))
    assert all(folds)
    assert folds == patient_folds(volumes[::-1], n_folds, seed)


def test_a_patient_with_many_volumes_fills_a_fold() -> None:
    volumes = volumes_of(*([("big", "")] * 6 + [(f"p{number}", "") for number in range(6)]))
    assert frozenset({"big"}) in patient_folds(volumes, 2)


def test_a_domain_is_left_out_whole() -> None:
    volumes = volumes_of(("a", "x"), ("b", "y"), ("c", "x"), ("a", "x"))
    assert domain_folds(volumes) == [frozenset("ac"), frozenset("b")]


@pytest.mark.parametrize("owners", [[("a", "x"), ("b", "x")], [("a", "x"), ("a", "y")]])
def test_domains_that_cannot_be_left_out(owners: list[tuple[str, str]]) -> None:
    with pytest.raises(InputError, match="probe: "):
        domain_folds(volumes_of(*owners))


def test_held_out_patients_without_volumes_are_ignored() -> None:
    volumes = volumes_of(("a", ""), ("b", ""))
    assert held_out_fold(volumes, ["b", "elsewhere"]) == [frozenset("b")]
    for wrong in (["elsewhere"], ["a", "b"]):
        with pytest.raises(InputError, match="leave out"):
            held_out_fold(volumes, wrong)


def test_too_few_folds_or_patients() -> None:
    with pytest.raises(InputError, match="at least 2"):
        patient_folds(volumes_of(("a", ""), ("b", "")), 1)
    with pytest.raises(InputError, match="at least 2"):
        patient_folds(volumes_of(("a", ""), ("a", "")), 5)
