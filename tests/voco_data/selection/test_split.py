"""Frozen splits: shares, disjoint groups, families, and that nobody ever moves."""

from __future__ import annotations

import json
import random as random_module
from pathlib import Path

import pytest
from hypothesis import assume, given, settings, strategies as st

from voco_data.errors import InputError
from voco_data.selection.families import find_families, patients_sharing_volumes
from voco_data.selection.split import Split
from voco_data.selection.split_file import read_split, write_split


def names(count: int, start: int = 0) -> list[str]:
    return [f"patient {number:04d}" for number in range(start, start + count)]


def sizes(split: Split) -> list[int]:
    return [len(split.test), *map(len, split.folds)]


@st.composite
def plans(draw: st.DrawFn) -> Split:
    share = draw(st.sampled_from([0.1, 0.2, 0.25, 0.5]))
    return Split(draw(st.integers(0, 99)), share, draw(st.integers(2, 5)))


@given(plans(), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_groups_are_disjoint_and_near_their_shares(plan: Split, more: int) -> None:
    patients = names(plan.n_folds + 1 + more)
    split = plan.add(patients)
    assert sorted(p for group in (split.test, *split.folds) for p in group) == patients
    assert min(sizes(split)) >= 1
    shares = [plan.test_share] + [(1 - plan.test_share) / plan.n_folds] * plan.n_folds
    for size, share in zip(sizes(split), shares, strict=True):
        assert size < share * len(patients) + 1 or size == 1
    # The first patients fill every group: the folds take at least one patient each.
    assert len(split.test) > min(plan.test_share * len(patients), more + 1) - 2
    for number, fold in enumerate(split.folds):
        everyone = (*split.training(number), *fold, *split.test)
        assert sorted(everyone) == patients


@given(plans(), st.integers(0, 60), st.integers(1, 30), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_adding_patients_moves_nobody(
    plan: Split, more: int, added: int, random: random_module.Random
) -> None:
    first = plan.add(names(plan.n_folds + 1 + more), when="2026-01-01T00:00:00Z")
    later = names(added, start=5000)
    random.shuffle(later)
    # Ids that come later need not sort after those that are there.
    later[0] = "a patient before all others"
    second = first.add(later + names(3), when="2026-02-01T00:00:00Z")
    assert first.groups.items() <= second.groups.items()
    assert second.additions[0] == first.additions[0]
    assert second.additions[1].count == added
    assert second.groups.keys() - first.groups.keys() == set(later)
    assert second.add(later) is second


def test_ten_per_cent_more_patients_keep_every_test_patient() -> None:
    before = Split().add(names(180))
    after = before.add(names(198))
    assert sizes(before) == [36, 29, 29, 29, 29, 28]
    assert set(before.test) <= set(after.test)
    assert sizes(after)[0] in (39, 40)


@given(plans(), st.integers(0, 40), st.randoms(use_true_random=False), st.data())
@settings(max_examples=60, deadline=None)
def test_depends_on_the_sets_only(
    plan: Split, more: int, random: random_module.Random, data: st.DataObject
) -> None:
    patients = names(plan.n_folds + 1 + more)
    pool = st.sampled_from([*patients, "someone who is not split"])
    links = data.draw(st.lists(st.tuples(pool, pool), max_size=len(patients) // 4))
    try:
        split = plan.add(patients, linked=links)
    except InputError:
        assume(False)
    family_of = find_families(patients, links)
    groups = split.groups
    for patient, family in family_of.items():
        relatives = [p for p in patients if family_of[p] == family]
        assert {groups[p] for p in relatives} == {groups[patient]}
    random.shuffle(patients)
    random.shuffle(links)
    swapped = [(b, a) for a, b in links]
    assert plan.add([*patients, patients[0]], linked=swapped) == split


def test_a_new_relative_comes_to_its_family() -> None:
    split = Split(n_folds=2).add(names(20))
    for number, group in enumerate((split.test, *split.folds)):
        added = split.add(["new"], linked=[("new", "someone"), ("someone", group[0])])
        assert added.groups["new"] == number
    both = [("new", split.folds[1][0]), ("new", split.test[0])]
    linked = split.add(["new"], linked=both)
    assert linked.groups["new"] == 0, "held out rather than learnt from"
    assert linked.count_separated_families(both) == 1
    assert split.groups.items() <= linked.groups.items()


def test_families_are_whole_and_shares_near() -> None:
    # 40 families of 1 to 3 patients: 80 patients, 16 of them test.
    links, patients = [], names(80)
    for start in range(0, 80, 4):
        links += [
            (patients[start], patients[start + 1]),
            (patients[start + 1], patients[start + 2]),
        ]
    for seed in range(20):
        split = Split(seed=seed).add(patients, linked=links)
        assert split.count_separated_families(links) == 0
        assert abs(len(split.test) - 16) <= 3
        assert all(abs(len(fold) - 12.8) <= 3 for fold in split.folds)


def test_another_seed_is_another_split() -> None:
    one, two = (Split(seed=seed).add(names(50)) for seed in (0, 1))
    assert one.test != two.test
    assert one.digest != two.digest


def test_the_test_set_is_no_function_of_the_order_of_ids() -> None:
    split = Split().add(names(1000))
    numbers = [int(patient.split()[1]) for patient in split.test]
    assert 440 < sum(numbers) / len(numbers) < 560  # 499.5 +- 20 (one sigma) for a random subset


def test_shared_volumes_link_patients() -> None:
    links = patients_sharing_volumes(["03", "17", "17", "31", "44"], ["x", "x", "y", "y", "alone"])
    assert links == [("03", "17"), ("17", "31")]
    families = find_families(["03", "17", "31", "44"], links)
    assert families == {"03": "03", "17": "03", "31": "03", "44": "44"}


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="5 patients are too few for a test set and 5 folds"):
        Split().add(names(5))
    with pytest.raises(InputError, match="share so many volumes that they are 1 families"):
        Split(n_folds=2).add(names(9), linked=[(names(1)[0], other) for other in names(9)])


@pytest.mark.parametrize(("share", "folds"), [(0.0, 5), (1.0, 5), (0.2, 1)])
def test_shares_that_are_none_are_refused(share: float, folds: int) -> None:
    with pytest.raises(InputError, match="expected a test share"):
        Split(0, share, folds)


# The file


def test_the_file_holds_what_was_added_when(tmp_path: Path) -> None:
    split = Split(seed=3).add(names(20), when="2026-01-01T00:00:00Z")
    split = split.add(names(24), when="2026-02-01T00:00:00Z")
    write_split(tmp_path / "split.json", split)
    assert read_split(tmp_path / "split.json") == split
    data = json.loads((tmp_path / "split.json").read_text())
    assert (data["format"], data["version"], data["seed"]) == ("voco split", 1, 3)
    assert [(a["when"], a["count"]) for a in data["additions"]] == [
        ("2026-01-01T00:00:00Z", 20),
        ("2026-02-01T00:00:00Z", 4),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


def test_the_date_is_no_part_of_the_digest() -> None:
    assert Split().add(names(9), when="a").digest == Split().add(names(9), when="b").digest


def test_the_split_of_an_older_run_is_read_with_its_digest() -> None:
    old = '{"folds":[["a","b"],["c"]],"seed":7,"test":["d"]}'
    split = Split.from_json(old)
    assert (split.seed, split.test, split.folds) == (7, ("d",), (("a", "b"), ("c",)))
    # sha256sum of the text, which is what the older version recorded as the digest
    assert split.digest == "880f3fb14f6b"
    grown = split.add(["e"], when="2026-02-01T00:00:00Z")
    assert Split.from_json(grown.to_json()) == grown


VALID = {
    "format": "voco split", "version": 1, "seed": 0, "test_share": 0.2, "n_folds": 2,
    "additions": [{"when": "", "count": 3, "test": ["a"], "folds": [["b"], ["c"]]}],
}  # fmt: skip


def test_a_valid_file_is_read() -> None:
    assert Split.from_json(json.dumps(VALID)).test == ("a",)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"seed": "John Doe"},
        {"n_folds": 3},
        {"additions": []},
        {"additions": [{"when": "", "test": ["a"], "folds": [["a"], ["b"]]}]},
        {"additions": [{"when": "", "test": [], "folds": [["a"], ["b"]]}]},
        {"additions": [{"when": "", "test": [1], "folds": [["a"], ["b"]]}]},
        {"additions": [{"when": "", "test": "a", "folds": [["c"], ["b"]]}]},
        {"additions": 3},
    ],
)
def test_a_bad_file_is_refused_without_its_text(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(VALID | change))
    with pytest.raises(InputError, match="split") as caught:
        read_split(path)
    assert "John" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "no json", '{"seed": 0, "test": ["a"]}'])
def test_what_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="split"):
        Split.from_json(text)


def test_a_restricted_split_keeps_the_groups() -> None:
    split = Split(n_folds=2).add(names(40))
    kept = names(20)
    part = split.restrict([*kept, "elsewhere"])
    assert part.groups == {patient: split.groups[patient] for patient in kept}
    with pytest.raises(InputError, match=r"none of the 1 patients is in the test set"):
        split.restrict(split.folds[0][:1])


@given(plans(), st.integers(10, 60), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_smaller_fractions_are_parts_of_larger_ones(plan: Split, more: int, seed: int) -> None:
    split = plan.add(names(plan.n_folds + 10 * more))
    n = sum(map(len, split.folds))
    before: set[str] = set()
    for fraction in (0.3, 0.5, 1.0):
        try:
            kept = split.keep_fraction(fraction, seed)
        except InputError:  # a fold would be empty
            continue
        patients = {patient for fold in kept.folds for patient in fold}
        assert len(patients) == max(1, round(fraction * n))
        assert before <= patients
        assert kept.test == split.test
        assert kept.groups.items() <= split.groups.items()
        before = patients
    assert len(before) == n


def test_a_fraction_that_leaves_a_fold_empty_is_refused() -> None:
    split = Split(n_folds=3).add(names(20))
    with pytest.raises(InputError, match="none of the 5 patients is in the"):
        split.keep_fraction(0.01, 0)
