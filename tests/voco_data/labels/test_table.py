"""The label table: what is read, what is refused, how it meets a store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from voco_data.errors import InputError
from voco_data.labels.table import Labels, join_labels, read_labels

HEADER = (
    "patient_id,bowel_healthy,bowel_injury,extravasation_healthy,extravasation_injury,"
    "kidney_healthy,kidney_low,kidney_high,liver_healthy,liver_low,liver_high,"
    "spleen_healthy,spleen_low,spleen_high,any_injury"
)
ROWS = (
    "10004,1,0,0,1,0,1,0,1,0,0,0,0,1,1",
    "9,1,0,1,0,1,0,0,1,0,0,1,0,0,0",
    "10005,0,1,1,0,1,0,0,0,1,0,1,0,0,1",
)


def write(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return read_labels(write(tmp_path, *ROWS))


def test_reads_grades_by_patient(labels: Labels) -> None:
    assert labels.patient_ids == ("10004", "10005", "9")  # strings sort as strings
    np.testing.assert_array_equal(labels.organs, [[1, 0, 2], [0, 1, 0], [0, 0, 0]])
    assert labels.organs.dtype == np.int8
    np.testing.assert_array_equal(labels.binary["bowel"], [0, 1, 0])
    np.testing.assert_array_equal(labels.binary["extravasation"], [1, 0, 0])


def test_keeps_leading_zeros_of_ids(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "007" + ROWS[0][5:], ROWS[1]))
    assert labels.patient_ids == ("007", "9")


def test_digest_is_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    assert read_labels(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_optional_groups_may_be_absent(tmp_path: Path) -> None:
    header = "patient_id," + ",".join(HEADER.split(",")[5:14])
    labels = read_labels(write(tmp_path, "a,1,0,0,0,1,0,0,0,1", header=header))
    assert labels.binary == {}
    np.testing.assert_array_equal(labels.organs, [[0, 1, 2]])


def test_arrays_cannot_be_changed(labels: Labels) -> None:
    with pytest.raises(ValueError, match="read-only"):
        labels.organs[0, 0] = 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((ROWS[1], ROWS[0].replace("10004,1,0,0,1,0,1,0", "10004,1,0,0,1,1,1,0")), "10004.*kidney"),
        ((ROWS[1].replace("1,0,0,0", "0,0,0,0"),), "patient 9, group spleen"),
        ((ROWS[1].replace("9,1,0", "9,2,-1"),), "patient 9, group bowel"),
        ((ROWS[1].replace("9,1,0", "9,0.5,0.5"),), "patient 9, group bowel"),
        ((ROWS[1].replace("9,1,0", "9,yes,no"),), "patient 9, group bowel"),
        ((ROWS[0], ROWS[0]), "10004 has more than one row"),
        ((ROWS[0], ROWS[1][1:]), "row 3 has no patient_id"),
        ((), "no rows"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_labels(write(tmp_path, *rows))
    assert "\n" not in str(caught.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "9,1", header="patient_id,kidney_healthy")
    with pytest.raises(InputError, match=r"missing: kidney_low, kidney_high, liver_healthy"):
        read_labels(path)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_labels(tmp_path / "absent.csv")
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="CSV"):
        read_labels(tmp_path / "noise.csv")


def test_labels_may_cover_more_than_the_store(labels: Labels) -> None:
    joined = join_labels(labels, ["9", "10004", "9"])
    assert joined.labels.patient_ids == ("10004", "9")
    np.testing.assert_array_equal(joined.labels.organs, [[1, 0, 2], [0, 0, 0]])
    np.testing.assert_array_equal(joined.labels.binary["extravasation"], [1, 0])
    assert joined.label_ids == {"10004": "10004", "9": "9"}


def test_unlabelled_patient_needs_consent(labels: Labels) -> None:
    with pytest.raises(InputError, match="11111"):
        join_labels(labels, ["9", "11111"])
    joined = join_labels(labels, ["9", "11111"], allow_unlabelled=True)
    assert joined.label_ids == {"9": "9"}


def test_labels_of_no_patient_are_refused_even_with_consent(labels: Labels) -> None:
    with pytest.raises(InputError, match="none of the store's 1 patients"):
        join_labels(labels, ["11111"], allow_unlabelled=True)


def test_pseudonyms_match_and_stay(labels: Labels) -> None:
    joined = join_labels(labels, ["p9", "10005"], pseudonymise=lambda patient: f"p{patient}")
    assert joined.labels.patient_ids == ("10005", "p9")
    np.testing.assert_array_equal(joined.labels.organs, [[0, 1, 0], [0, 0, 0]])


def test_an_id_and_its_pseudonym_are_one_person(labels: Labels) -> None:
    joined = join_labels(labels, ["p9", "9"], pseudonymise=lambda patient: f"p{patient}")
    assert joined.labels.patient_ids == ("9",)
    assert joined.label_ids == {"9": "9", "p9": "9"}
