"""Splits: exact sizes, no patient twice, balanced, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from voco_data.errors import InputError
from voco_data.labels.splits import Split, make_split, patients_sharing_volumes


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[str], np.ndarray, int, int]:
    n_folds = draw(st.integers(2, 5))
    count = draw(st.integers(n_folds + 1, 80))
    labels = np.random.default_rng(draw(st.integers(0, 999))).choice(
        3, size=(count, 3), p=[0.7, 0.2, 0.1]
    )
    return [f"p{i}" for i in range(count)], labels, n_folds, draw(st.integers(0, 9))


@given(cohorts())
@settings(max_examples=60, deadline=None)
def test_parts_have_exact_sizes_and_share_no_patient(
    cohort: tuple[list[str], np.ndarray, int, int],
) -> None:
    ids, labels, n_folds, seed = cohort
    split = make_split(ids, labels, n_folds=n_folds, seed=seed)
    parts = [split.test, *split.folds]
    assert sorted(p for part in parts for p in part) == sorted(ids)
    assert len(split.test) == min(max(round(len(ids) * 0.2), 1), len(ids) - n_folds)
    sizes = [len(fold) for fold in split.folds]
    assert len(sizes) == n_folds
    assert max(sizes) - min(sizes) <= 1
    for i, fold in enumerate(split.folds):
        assert sorted((*split.training(i), *fold, *split.test)) == sorted(ids)


@given(cohorts(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_depends_on_the_set_of_patients_and_the_seed_only(
    cohort: tuple[list[str], np.ndarray, int, int], random: object
) -> None:
    ids, labels, n_folds, seed = cohort
    order = list(range(len(ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first = make_split(ids, labels, n_folds=n_folds, seed=seed)
    again = make_split([ids[i] for i in order], labels[order], n_folds=n_folds, seed=seed)
    assert first == again
    assert first.digest == again.digest


@pytest.mark.parametrize("seed", range(5))
def test_the_rarest_class_is_spread_evenly(seed: int) -> None:
    # 100 patients: 10 with a high spleen. 20 test and 5 folds of 16: 2 and 1.6 of them expected.
    labels = np.zeros((100, 3), np.int8)
    labels[::10, 2] = 2
    split = make_split([f"{i:03d}" for i in range(100)], labels, n_folds=5, seed=seed)
    high = {f"{i:03d}" for i in range(0, 100, 10)}
    assert len(high & set(split.test)) == 2
    assert {len(high & set(fold)) for fold in split.folds} <= {1, 2}


def test_common_labels_are_balanced_too() -> None:
    labels = np.random.default_rng(3).choice(3, size=(300, 3), p=[0.65, 0.2, 0.15])
    ids = [f"{i:03d}" for i in range(300)]
    split = make_split(ids, labels, n_folds=5, seed=0)
    rows = {patient: i for i, patient in enumerate(ids)}
    for part in (split.test, *split.folds):
        chosen = labels[[rows[p] for p in part]]
        for grade in range(3):
            expected = (labels == grade).sum(axis=0) * len(part) / 300
            assert np.abs((chosen == grade).sum(axis=0) - expected).max() <= 2


def test_another_seed_is_another_split() -> None:
    labels = np.zeros((50, 3), np.int8)
    ids = [str(i) for i in range(50)]
    one, two = (make_split(ids, labels, n_folds=5, seed=seed) for seed in (0, 1))
    assert one.test != two.test
    assert one.digest != two.digest


def test_json_round_trip() -> None:
    split = make_split([str(i) for i in range(20)], np.zeros((20, 3)), n_folds=3, seed=7)
    assert Split.from_json(split.to_json()) == split


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        "no json",
        '{"seed": 0, "test": ["a"], "folds": [["a"], ["b"]]}',
        '{"seed": 0, "test": [], "folds": [["a"], ["b"]]}',
    ],
)
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="split"):
        Split.from_json(text)


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="5 labelled patients are too few"):
        make_split(list("abcde"), np.zeros((5, 3)), n_folds=5, seed=0)


@given(cohorts(), st.data())
@settings(max_examples=60, deadline=None)
def test_linked_patients_share_a_part(
    cohort: tuple[list[str], np.ndarray, int, int], data: st.DataObject
) -> None:
    ids, labels, n_folds, seed = cohort
    names = st.sampled_from([*ids, "a patient without labels"])
    links = data.draw(st.lists(st.tuples(names, names), max_size=len(ids) // 4))
    try:
        split = make_split(ids, labels, n_folds=n_folds, seed=seed, linked=links)
    except InputError:
        assume(False)
    part = {p: i for i, members in enumerate([split.test, *split.folds]) for p in members}
    assert set(part) == set(ids)
    part["a patient without labels"] = next(
        (part[a if b not in part else b] for a, b in links if (a in part) != (b in part)), 0
    )
    assert all(part[a] == part[b] for a, b in links)
    shuffled = data.draw(st.permutations([(b, a) for a, b in links]))
    assert make_split(ids, labels, n_folds=n_folds, seed=seed, linked=shuffled) == split


def test_a_chain_of_copies_is_one_component_and_sizes_stay_exact() -> None:
    ids = [f"{i:02d}" for i in range(50)]
    labels = np.random.default_rng(0).choice(3, size=(50, 3), p=[0.7, 0.2, 0.1])
    patients = ["03", "17", "17", "31", "44", "45", "08"]
    digests = ["x", "x", "y", "y", "z", "z", "alone"]
    links = patients_sharing_volumes(patients, digests)
    assert links == [("03", "17"), ("17", "31"), ("44", "45")]
    for seed in range(20):
        split = make_split(ids, labels, n_folds=5, seed=seed, linked=links)
        parts = [set(part) for part in (split.test, *split.folds)]
        assert [len(part) for part in parts] == [10, 8, 8, 8, 8, 8]
        for component in ({"03", "17", "31"}, {"44", "45"}):
            assert sum(component <= part for part in parts) == 1


def test_no_links_change_nothing() -> None:
    labels = np.random.default_rng(1).choice(3, size=(40, 3))
    ids = [f"{i:02d}" for i in range(40)]
    plain = make_split(ids, labels, n_folds=5, seed=3)
    assert make_split(ids, labels, n_folds=5, seed=3, linked=[("00", "00")]) == plain


def test_one_component_cannot_be_split() -> None:
    ids = [str(i) for i in range(9)]
    links = [("0", other) for other in ids]
    with pytest.raises(InputError, match="share so many volumes that they are 1 groups"):
        make_split(ids, np.zeros((9, 3)), n_folds=2, seed=0, linked=links)
