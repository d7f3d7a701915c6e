"""Files of runs: what names the patient goes, and what only looks like it stays, byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from voco_data.errors import InputError
from voco_data.selection.exposure import SeenPatients, StorePatients
from voco_data.selection.split import Addition, Split
from voco_data.selection.split_file import read_split, write_split
from voco_data.withdrawal import documents, tables
from voco_data.withdrawal.learnt import Evidence, find_learnt
from voco_data.withdrawal.names import PatientNames
from voco_data.withdrawal.records import Withdrawal, Withdrawals
from voco_data.withdrawal.search import find_in_files
from voco_data.withdrawal.taint import is_tainted, mark_tainted

WORDY = PatientNames(frozenset(["p-1"]), frozenset(["s-1"]), sources=frozenset(["z0123"]))
DIGITS = PatientNames(frozenset(["12"]), frozenset(["77"]))


def without(path: Path, names: PatientNames, write: Callable[..., None]) -> str:
    out = path.with_name("out")
    write(path, out, names)
    return out.read_bytes().decode()


@pytest.mark.parametrize(
    ("names", "text", "kept"),
    [
        (WORDY, "patient_id,n\np-1,2\np-10,3\np-1-b,4\n", "patient_id,n\np-10,3\np-1-b,4\n"),
        (WORDY, 'a;patient_id\r\n"x\ny";p-1\r\n"u\nv";p-2\r\n', 'a;patient_id\r\n"u\nv";p-2\r\n'),
        (WORDY, "series_uid,z\ns-1,1\ns-11,2\n", "series_uid,z\ns-11,2\n"),
        # A row of another patient stays, whatever else it says.
        (WORDY, "patient_id,remark\np-2,p-1\n", "patient_id,remark\np-2,p-1\n"),
        (WORDY, "path,mask\ns-2/p-1/a.npy,\np-10/a.npy,\n", "path,mask\np-10/a.npy,\n"),
        (WORDY, "source,reason\nz0123,thin\nz0124,thin\n", "source,reason\nz0124,thin\n"),
        # 12 is a patient in a column of ids, and a number in all others.
        (DIGITS, "patient_id,step\n12,1\n13,12\n", "patient_id,step\n13,12\n"),
        (DIGITS, "step,loss\n12,0.5\n77,0.4\n", "step,loss\n12,0.5\n77,0.4\n"),
        (DIGITS, "test_patients,folds\n12,5\n", "test_patients,folds\n12,5\n"),
        (DIGITS, "series_id,image\n77,1\n78,2\n", "series_id,image\n78,2\n"),
    ],
)
def test_rows_of_text_tables(tmp_path: Path, names: PatientNames, text: str, kept: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    assert without(path, names, tables.write_without) == kept
    assert (tables.count_rows(path, names) > 0) == (kept != text)


def test_files_outside_of_the_folder_of_a_table_stay(tmp_path: Path) -> None:
    (tmp_path / "pairs" / "s-1").mkdir(parents=True)
    inside, outside = tmp_path / "pairs" / "s-1" / "a.npy", tmp_path / "b.npy"
    for file in (inside, outside):
        file.write_bytes(b"x")
    table = tmp_path / "pairs" / "images.csv"
    table.write_text(f"patient_id,path,mask\np-1,s-1/a.npy,../b.npy\np-1,{outside},\n")
    tables.remove_listed_files(table, WORDY)
    assert not inside.parent.exists()
    assert outside.exists()


def test_rows_of_parquet_tables_and_lists_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({"patient_id": [12, 13, 120], "step": [1, 12, 77]})
    frame.to_parquet(path)
    tables.write_without(path, tmp_path / "out.parquet", DIGITS)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "out.parquet").reset_index(drop=True),
        frame.iloc[1:].reset_index(drop=True),
    )
    path = tmp_path / "chosen.txt"
    path.write_text("11\n12\n120\n")
    assert without(path, DIGITS, tables.write_without) == "11\n120\n"


@pytest.mark.parametrize(
    ("names", "value", "kept"),
    [
        (WORDY, {"patients": ["p-1", "p-10"]}, {"patients": ["p-10"]}),
        (WORDY, {"x": [{"patient_id": "p-1", "y": [1]}, {"patient_id": "p-2"}]},
         {"x": [{"patient_id": "p-2"}]}),
        (WORDY, {"p-1": 3, "p-10": 4}, {"p-10": 4}),
        (WORDY, {"selection": {"patients": ["p-1"]}}, {"selection": {"patients": ["(withdrawn)"]}}),
        (WORDY, {"series_uid": "s-1", "n": 1}, {"series_uid": "(withdrawn)", "n": 1}),
        (DIGITS, {"torch": "12", "12": 3, "layers": ["12"]}, None),
        (DIGITS, {"steps": 12, "counts": {"12": 5}}, None),
        (DIGITS, {"patients": {"12": ["d"], "13": ["e"]}}, {"patients": {"13": ["e"]}}),
        (DIGITS, {"test": ["12"], "folds": [["120"], ["12", "13"]]},
         {"test": [], "folds": [["120"], ["13"]]}),
    ],
)  # fmt: skip
def test_entries_of_json(tmp_path: Path, names: PatientNames, value: Any, kept: Any) -> None:
    expected = value if kept is None else kept
    for indent in (None, 1, 2):
        path = tmp_path / "values.json"
        path.write_text(json.dumps(value, indent=indent) + "\n")
        assert (documents.count_entries(path, names) > 0) == (kept is not None)
        text = without(path, names, documents.write_without)
        assert text == json.dumps(expected, indent=indent) + "\n"


@pytest.mark.parametrize(
    ("names", "page", "shows"),
    [
        (WORDY, "<td>p-1</td>", True),
        (WORDY, "<td>p-10</td><td>p-1-b</td>", False),
        (WORDY, '<img src="data:image/png;base64,AA+p-1/A=">'.replace("p-1", "p1"), False),
        (PatientNames(frozenset(["a&b"])), "<td>a&amp;b</td>", True),
        (DIGITS, "<td>12</td> 12 patients, 77 series", False),
        (DIGITS, "<h2>Patient 12, series 77</h2>", True),
        (DIGITS, "<h2>Patient 120, series 770</h2>", False),
    ],
)
def test_pages(names: PatientNames, page: str, shows: bool) -> None:
    assert names.is_on_page(page) == shows


@pytest.mark.parametrize(
    ("names", "data", "found"),
    [
        (WORDY, b"p-1", True),
        (WORDY, b"p-10 p-1-b xp-1 _p-1 p-1", True),
        (WORDY, b"p-10 p-1-b xp-1 _p-1 -p-1", False),
        (WORDY, b"\0s-1\xff", True),
        (DIGITS, b"12 77", False),
        (PatientNames(frozenset(["M\u00fcller"])), "'M\u00fcller'".encode(), True),
    ],
)
def test_bytes_of_other_files(names: PatientNames, data: bytes, found: bool) -> None:
    assert names.is_in_bytes(data) == found


def evidence(own: str = "mine") -> Evidence:
    return Evidence(
        WORDY, "root", {"p-1": frozenset([own]), "p-2": frozenset(["hers"])}, frozenset([own])
    )


def write_run(run: Path, root: str, patients: dict[str, str], **description: Any) -> Path:
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"stage": "pretrain"} | description))
    held = {patient: frozenset([digest]) for patient, digest in patients.items()}
    SeenPatients((StorePatients(root, held),)).write(run)
    return run


@pytest.mark.parametrize(
    ("root", "patients", "how", "entries"),
    [
        ("root", {"p-1": "mine", "p-2": "hers"}, ["by id", "by volume"], 1),
        ("root", {"p-1": "other crop"}, ["by id"], 1),
        ("root", {"p-10": "x"}, None, 0),
        # Another root, in which somebody else has the id.
        ("elsewhere", {"p-1": "someone"}, None, 0),
        # The root was moved: others are in both, with equal volumes.
        ("moved", {"p-1": "other crop", "p-2": "hers"}, ["by id"], 1),
        # The same scan under another id: it was learnt from, and the entry is another one's.
        ("elsewhere", {"q-7": "mine"}, ["by volume"], 0),
    ],
)
def test_who_has_learnt(
    tmp_path: Path, root: str, patients: dict[str, str], how: list[str] | None, entries: int
) -> None:
    run = write_run(tmp_path / "run", root, patients)
    assert [each.how for each in find_learnt([run], evidence())] == ([] if how is None else [how])
    found = list(find_in_files([run / "patients.json"], evidence(), []))
    assert sum(each.count for each in found) == entries


def test_a_group_of_a_split_that_becomes_empty_is_filled_first(tmp_path: Path) -> None:
    split = Split(n_folds=2).add([f"p-{n}" for n in range(2, 9)])
    alone = Addition("", ("p-1",), split.additions[0].folds)
    path = tmp_path / "split.json"
    write_split(path, Split(n_folds=2, additions=(alone,)))
    (tmp_path / "frozen.json").write_text(without(path, WORDY, documents.write_without))
    now = read_split(tmp_path / "frozen.json")
    assert (now.test, now.folds, now.withdrawn) == ((), split.folds, 1)
    later = now.add(["q-1"])
    assert later.test == ("q-1",)
    assert later.folds == split.folds
    assert Split.from_json(later.to_json()) == later
    write_split(path, Split(n_folds=2, additions=(Addition("", (), split.folds),)))
    with pytest.raises(InputError, match="in the test set"):
        read_split(path)  # nobody was forgotten: it is no split


def test_marks_and_records(tmp_path: Path) -> None:
    assert not is_tainted(tmp_path)
    mark_tainted(tmp_path, "aa", "2026-01-01T00:00:00Z")
    mark_tainted(tmp_path, "bb", "2026-02-01T00:00:00Z")
    mark_tainted(tmp_path, "bb", "2026-03-01T00:00:00Z")
    mark = json.loads((tmp_path / "tainted.json").read_text())
    assert mark == {"since": "2026-01-01T00:00:00Z", "receipts": ["aa", "bb"]}
    assert is_tainted(str(tmp_path))
    for text in ("", "[]", '{"since": 1}'):
        (tmp_path / "withdrawals.json").write_text(text)
        with pytest.raises(InputError, match=r"withdrawals\.json: expected"):
            Withdrawals.read(tmp_path)
        (tmp_path / "tainted.json").write_text(text)
        with pytest.raises(InputError, match=r"tainted\.json: expected"):
            mark_tainted(tmp_path, "cc", "")


def test_a_chain_of_withdrawals_explains_what_changed() -> None:
    steps = [("a", "b"), ("b", "c")]
    record = Withdrawals(
        tuple(
            Withdrawal(f"r{i}", "", {"test": 1}, {"t": {"before": x, "after": y}})
            for i, (x, y) in enumerate(steps)
        )
    )
    told = {(old, now): record.explains("t", old, now) for old in "abcx" for now in "abcx"}
    assert {pair for pair, so in told.items() if so} == {
        *((each, each) for each in "abcx"),
        ("a", "c"),
        ("b", "c"),
    }
    assert [record.is_unfinished("t", now) for now in "abcx"] == [True, True, False, False]
    assert [record.first_digest("t", now) for now in "abcx"] == ["a", "b", "a", "x"]
    assert record.first_digest("u", "y") == "y"
    assert (record.count("test"), record.count("training")) == (2, 0)
