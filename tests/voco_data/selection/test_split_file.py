"""`update_split` on stores: labels, families, pseudonyms, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.small_finetune import grades_of, write_labels
from tests.support.small_stores import make_store, random_volumes
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError
from voco_data.selection.series import Selection
from voco_data.selection.split_file import read_split, update_split
from voco_data.storage.local import LocalStorage
from voco_data.store.record import Record

GRID = (2, 4, 4)


def test_labelled_patients_are_split_and_labels_have_no_influence(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(30, GRID))
    ids = sorted(store.catalogue["patient_id"])
    labels = write_labels(tmp_path / "a.csv", [*ids[:20], "elsewhere"], grades_of(21))
    other = write_labels(tmp_path / "b.csv", ids[:20], grades_of(20, seed=5))
    summary = update_split(store, tmp_path / "split.json", labels)
    assert (summary.patients, summary.added, summary.test) == (20, 20, 4)
    assert json.loads(json.dumps(summary.to_json()))["folds"] == list(summary.folds)
    split = read_split(tmp_path / "split.json")
    assert sorted(split.groups) == ids[:20]
    update_split(store, tmp_path / "other.json", other)
    assert read_split(tmp_path / "other.json").groups == split.groups


def test_new_patients_are_appended_and_nothing_new_writes_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(30, GRID))
    ids = sorted(store.catalogue["patient_id"])
    out = tmp_path / "split.json"
    update_split(store, out, write_labels(tmp_path / "a.csv", ids[3:], grades_of(27)), seed=4)
    before, text = read_split(out), out.read_text()
    relabelled = write_labels(tmp_path / "b.csv", ids[3:], grades_of(27, seed=1))
    assert update_split(store, out, relabelled).added == 0
    assert out.read_text() == text
    summary = update_split(store, out, write_labels(tmp_path / "c.csv", ids, grades_of(30)))
    assert summary.added == 3
    after = read_split(out)
    assert before.groups.items() <= after.groups.items()
    assert [addition.count for addition in after.additions] == [27, 3]
    assert all(addition.when.endswith("Z") for addition in after.additions)


def test_without_labels_all_patients_are_split(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(9, GRID))
    assert update_split(store, tmp_path / "split.json", n_folds=2, test_share=0.4).patients == 9
    assert len(read_split(tmp_path / "split.json").test) in (3, 4)  # a share of 3.6


def test_patients_with_one_volume_stay_together(tmp_path: Path) -> None:
    def same_content(record: Record) -> Record:
        pair = f"content {record.row % 10}"  # row 0 and row 10, 1 and 11, ...
        return dataclasses.replace(record, content_digest=pair)

    store = make_store(tmp_path, random_volumes(20, GRID), change=same_content)
    for seed in range(5):
        out = tmp_path / f"split-{seed}.json"
        summary = update_split(store, out, seed=seed, n_folds=2)
        groups = read_split(out).groups
        assert all(groups[f"patient-{i:03d}"] == groups[f"patient-{i + 10:03d}"] for i in range(10))
        assert summary.separated_families == 0


def test_a_link_that_comes_later_moves_nobody_and_is_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a", random_volumes(20, GRID))
    out = tmp_path / "split.json"
    update_split(store, out, n_folds=2)
    before = read_split(out)
    mates = {before.test[0], before.folds[0][0]}

    def link(record: Record) -> Record:
        linked = record.patient_id in mates
        return dataclasses.replace(record, content_digest="x" if linked else record.content_digest)

    later = make_store(tmp_path / "b", random_volumes(22, GRID), change=link)
    summary = update_split(later, out)
    assert (summary.added, summary.separated_families) == (2, 1)
    assert before.groups.items() <= read_split(out).groups.items()


def test_a_root_that_hides_ids_gets_a_split_of_pseudonyms(tmp_path: Path) -> None:
    hidden = pseudonyms.load_or_make(LocalStorage(tmp_path))

    def hide(record: Record) -> Record:
        return dataclasses.replace(record, patient_id=hidden("patient", record.patient_id))

    store = make_store(tmp_path, random_volumes(12, GRID), change=hide)
    names = [f"patient-{number:03d}" for number in range(12)]
    labels = write_labels(tmp_path / "train.csv", names, grades_of(12))
    update_split(
        store,
        tmp_path / "split.json",
        labels,
        n_folds=2,
        pseudonymise=lambda patient: hidden("patient", patient),
    )
    text = (tmp_path / "split.json").read_text()
    assert "patient-" not in text
    assert set(read_split(tmp_path / "split.json").groups) == set(store.catalogue["patient_id"])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(12, GRID))
    out = tmp_path / "split.json"
    update_split(store, out, n_folds=2)
    text = out.read_text()
    with pytest.raises(InputError, match="n_folds of the split is 2, cannot change to 5"):
        update_split(store, out, n_folds=5)
    with pytest.raises(InputError, match="seed of the split is 0, cannot change to 1"):
        update_split(store, out, seed=1)
    with pytest.raises(InputError, match="test_share"):
        update_split(store, out, test_share=0.3)
    assert out.read_text() == text
    with pytest.raises(InputError, match="2 to 1000 folds"):
        update_split(store, tmp_path / "new.json", n_folds=1)
    with pytest.raises(InputError, match="12 patients are too few"):
        update_split(store, tmp_path / "new.json", n_folds=12)
    assert not (tmp_path / "new.json").exists()
    foreign = write_labels(tmp_path / "labels.csv", ["x"], np.zeros((1, 3)))
    with pytest.raises(InputError, match="none of the store's 12 patients"):
        update_split(store, tmp_path / "new.json", foreign)
    with pytest.raises(InputError, match="cannot read the split; make it with voco split"):
        read_split(tmp_path / "absent.json")


def test_a_pipe_a_device_and_brackets_without_end_are_no_split(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="cannot read the split"):
            read_split(path)
        with pytest.raises(InputError, match="expected a text file of patient ids"):
            _ = Selection(patients_file=str(path)).patient_ids
    with pytest.raises(InputError, match="expected a file that voco split made"):
        read_split(tmp_path / "deep.json")
