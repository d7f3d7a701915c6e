"""Selections of a store's series, and what is held out with the test patients."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.selection.series import (
    Selection,
    describe_series,
    held_out_mask,
    list_series,
    patients_digest,
)
from voco_data.store.record import Record


def table(**patients: str) -> pd.DataFrame:
    """A series for each letter: keyword `patient="ab"` has two volumes with these contents."""
    rows = [
        {"patient_id": patient, "content_digest": content}
        for patient, contents in patients.items()
        for content in contents
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(
        row=range(len(frame)),
        layout=["flare" if p.startswith("flare") else "ratic" for p in frame["patient_id"]],
        flags=["" if c.islower() else "duplicate lost_files" for c in frame["content_digest"]],
        store=0,
    )


SERIES = table(one="ab", two="C", flare1="d", flare2="E")


def selected(**options: object) -> str:
    mask = Selection(**options).mask(SERIES)  # type: ignore[arg-type]
    return "".join(SERIES["content_digest"][mask])


def test_everything_is_selected_by_default() -> None:
    assert selected() == "abCdE"


def test_layouts_patients_and_flags_select(tmp_path: Path) -> None:
    assert selected(layouts=("ratic",)) == "abC"
    assert selected(layouts=("flare",)) == "dE"
    assert selected(layouts=("flare", "ratic")) == "abCdE"
    assert selected(patients=("one", "flare1")) == "abd"
    assert selected(without_flags=("lost_files",)) == "abd"
    assert selected(without_flags=("lost",)) == "abCdE"
    assert selected(layouts=("ratic",), without_flags=("duplicate",)) == "ab"
    ids = tmp_path / "ids.txt"
    ids.write_text("two\n\n flare2 \n")
    assert selected(patients_file=str(ids)) == "CE"


def test_weights_are_by_layout() -> None:
    weights = Selection(weights={"flare": 0.5}).weights_of(SERIES["layout"])
    assert weights is not None
    assert weights.tolist() == [1, 1, 1, 0.5, 0.5]
    assert Selection().weights_of(SERIES["layout"]) is None
    assert Selection(weights={"flare": 3.0, "ratic": 3.0}).weights_of(SERIES["layout"]) is None
    assert Selection(weights={"flare": 3.0}).weights_of(["ratic"] * 3) is None


def test_bad_selections_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no series of the layout flair; the stores hold flare, r"):
        selected(layouts=("flair",))
    with pytest.raises(InputError, match="no series of the layout flair"):
        selected(weights={"flair": 2.0})
    with pytest.raises(InputError, match="expected a number above 0 for flare, got 0"):
        Selection(weights={"flare": 0.0})
    with pytest.raises(InputError, match="2 of the 3 patients are not in the stores") as caught:
        selected(patients=("one", "Jane Doe", "John Doe"))
    assert "Doe" not in str(caught.value), "it may be a name that the store hides"
    with pytest.raises(InputError, match="give patients or patients_file"):
        Selection(patients=("a",), patients_file="b")
    with pytest.raises(InputError, match="expected a text file of patient ids"):
        selected(patients_file=str(tmp_path / "absent.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no patient id"):
        selected(patients_file=str(tmp_path / "empty.txt"))


def test_what_is_held_out_with_test_patients() -> None:
    series = table(
        test="ab",  # the test patient
        alias="bc",  # in no group, has a volume of the test patient: taken for the same patient
        second_alias="cd",  # in no group, linked through the first alias
        fold="ae",  # in a fold, shares a volume with the test patient, found after the split
        other="f",
        flare="g",
    )
    mask = held_out_mask(series, ["test"], ["test", "fold", "other"])
    left = [f"{p} {c}" for p, c in zip(series["patient_id"], series["content_digest"], strict=True)]
    kept = [name for name, held in zip(left, mask, strict=True) if not held]
    assert kept == ["fold e", "other f", "flare g"]


def test_a_split_of_other_patients_holds_nothing_out() -> None:
    assert not held_out_mask(SERIES, ["elsewhere"], ["elsewhere"]).any()


def test_series_are_listed_store_by_store(tmp_path: Path) -> None:
    def flare(record: Record) -> Record:
        return dataclasses.replace(record, layout="flare", flags=("lost_files",))

    one = make_store(tmp_path / "a", random_volumes(3, (2, 4, 4)))
    two = make_store(tmp_path / "b", random_volumes(2, (2, 4, 4), seed=1), change=flare)
    series = list_series([one, two])
    assert series["store"].tolist() == [0, 0, 0, 1, 1]
    assert series["row"].tolist() == [0, 1, 2, 0, 1]
    assert Selection(layouts=("flare",)).mask(series).tolist() == [False] * 3 + [True] * 2
    assert Selection(without_flags=("lost_files",)).mask(series).sum() == 3
    described = describe_series(series)
    assert described["layouts"] == {"flare": 2, "made up": 3}
    assert (described["patients"], described["volumes"]) == (3, 5)
    assert described["patients_digest"] == patients_digest(np.unique(series["patient_id"]))


def test_the_digest_is_of_the_set() -> None:
    assert patients_digest(["b", "a", "b"]) == patients_digest(["a", "b"])
    assert patients_digest(["a"]) != patients_digest(["b"])
    # sha256sum of "a\nb"
    assert patients_digest(["a", "b"]) == "7e18f737311b"
