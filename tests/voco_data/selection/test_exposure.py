"""What a run has seen, and how many test patients are among it: known, none, some, unknown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.selection.exposure import FILE, Exposure, SeenPatients, measure_exposure
from voco_data.selection.series import list_series, patients_digest
from voco_data.store.reader import Store
from voco_data.store.record import Record

GRID = (2, 4, 4)


def seen_by(store: Store, *rows: int) -> SeenPatients:
    series = list_series([store])
    return SeenPatients.of_series([store], series[series["row"].isin(rows)])


def exposure(seen: SeenPatients | None, store: Store, *test: int) -> Exposure:
    ids = {f"patient-{number:03d}": [f"patient-{number:03d}"] for number in test}
    return measure_exposure(seen, store, list_series([store]), ids)


def renamed(prefix: str, content: str = "") -> dict[str, object]:
    """Options of `make_store` for patients of other names and, with `content`, other volumes."""

    def change(record: Record) -> Record:
        digest = f"{content} {record.row}" if content else record.content_digest
        name = record.patient_id.replace("patient", prefix)
        return dataclasses.replace(record, patient_id=name, content_digest=digest)

    return {"change": change}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "root", random_volumes(6, GRID))


def test_patients_of_one_root_are_counted(store: Store) -> None:
    assert exposure(seen_by(store, 0, 1, 2), store, 3, 4).seen == 0
    some = exposure(seen_by(store, 0, 1, 2), store, 2, 3)
    assert (some.seen, some.test_patients, some.transductive) == (1, 2, True)
    assert "pretrained on 1 of the 2 test patients" in some.sentence
    assert "transductive" in some.sentence


def test_another_spec_under_the_same_root_has_the_same_patients(tmp_path: Path) -> None:
    # The digest of the content is of the HU, before the grid; here it differs, and ids tell.
    small = make_store(tmp_path, random_volumes(4, GRID), profile="one")
    other = make_store(
        tmp_path, random_volumes(4, GRID), profile="two", **renamed("patient", "other")
    )
    assert exposure(seen_by(small, 0, 1), other, 1, 2).seen == 1
    assert exposure(seen_by(small, 0, 1), other, 2, 3).seen == 0


def test_an_equal_volume_of_another_id_counts(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a", random_volumes(4, GRID))
    other = make_store(tmp_path / "b", random_volumes(4, GRID), **renamed("someone"))
    found = exposure(seen_by(other, 0), one, 0, 1)
    assert found.seen == 1
    assert exposure(seen_by(other, 3), one, 0, 1).seen is None, "another root: it cannot be known"


def test_a_copy_of_the_root_is_recognised_by_a_patient_in_both(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a", random_volumes(4, GRID))
    copy = make_store(tmp_path / "b", random_volumes(4, GRID))
    assert exposure(seen_by(one, 0, 1), copy, 2, 3).seen == 0
    assert exposure(seen_by(one, 0, 1), copy, 1, 2).seen == 1


def test_equal_ids_of_another_root_are_other_patients(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a", random_volumes(4, GRID))
    other = make_store(
        tmp_path / "b", random_volumes(4, GRID), **renamed("patient", "other hospital")
    )
    found = exposure(seen_by(other, 0, 1), one, 0, 1)
    assert (found.seen, found.transductive) == (None, None)
    assert found.sentence.startswith("It is unknown whether")


def test_one_unknown_store_makes_none_unknown_but_not_some(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a", random_volumes(4, GRID))
    other = make_store(tmp_path / "b", random_volumes(4, GRID, seed=9), **renamed("x"))
    both = list_series([one, other])
    chosen = both[(both["store"] == 1) | (both["row"] == 0)]
    seen = SeenPatients.of_series([one, other], chosen)
    assert exposure(seen, one, 2, 3).seen is None
    assert exposure(seen, one, 0, 3).seen == 1


def test_a_store_of_which_nothing_was_learnt_leaves_nothing_unknown(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a", random_volumes(4, GRID))
    other = make_store(tmp_path / "b", random_volumes(4, GRID, seed=9), **renamed("x"))
    both = list_series([one, other])
    seen = SeenPatients.of_series([one, other], both[both["store"] == 0].query("row < 2"))
    assert exposure(seen, one, 2, 3).seen == 0


def test_two_ids_of_a_patient_are_one(store: Store) -> None:
    ids = {"patient-000": ["patient-000", "patient-005"]}
    found = measure_exposure(seen_by(store, 5), store, list_series([store]), ids)
    assert (found.seen, found.test_patients) == (1, 1)


def test_without_a_record_it_is_unknown(store: Store) -> None:
    found = exposure(None, store, 0)
    assert (found.pretrained, found.seen, found.transductive) == (True, None, None)


def test_without_pretraining_there_is_nothing_to_see() -> None:
    none = Exposure(pretrained=False, test_patients=9, seen=0)
    assert none.transductive is None
    assert none.sentence == "The backbone was not pretrained on scans."


@pytest.mark.parametrize("seen", [None, 0, 4])
def test_json_round_trip(seen: int | None) -> None:
    exposed = Exposure(pretrained=True, test_patients=7, seen=seen)
    assert Exposure.from_json(json.loads(json.dumps(exposed.to_json()))) == exposed


def test_the_file_round_trips_and_names_no_path(store: Store, tmp_path: Path) -> None:
    seen = seen_by(store, 1, 4)
    assert not SeenPatients.is_written(tmp_path)
    assert SeenPatients.read(tmp_path) is None
    seen.write(tmp_path)
    assert SeenPatients.is_written(tmp_path)
    assert SeenPatients.read(tmp_path) == seen
    assert seen.digest == patients_digest(["patient-001", "patient-004"])
    assert str(store.path.parent) not in (tmp_path / FILE).read_text()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "voco patients", "version": 2, "stores": []}',
     '{"format": "voco patients", "version": 1, "stores": [3]}'],
)  # fmt: skip
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match="expected a file of a voco run"):
        SeenPatients.read(tmp_path)
