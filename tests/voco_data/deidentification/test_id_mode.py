"""A root has one id mode and one key: a patient never has two names in it."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.command import main
from flows.ids import patient_pseudonymiser
from tests.support.ct_files import body, write_slices
from voco_data.deidentification import id_mode, pseudonyms
from voco_data.errors import InputError
from voco_data.ingest.run import preprocess
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_slices(tmp_path / "archive" / "p", body(seed=1), tags={"PatientID": "anna"})
    (tmp_path / "specs.json").write_text(SMALL.canonical_json())
    return tmp_path


def run(folder: Path, archive: str = "archive", *, keep_ids: bool = False) -> None:
    preprocess(
        folder / archive,
        folder / "root",
        spec_file=folder / "specs.json",
        workers=1,
        keep_ids=keep_ids,
    )


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def patients(folder: Path) -> list[str]:
    return sorted(Store.open(folder / "root" / SMALL.name).catalogue["patient_id"])


def make_older(root: Path) -> None:
    """Remove what versions before did not write."""
    for path in (*root.glob("ids.mode*"), *root.glob(".ids.mode*"), root / "archives.parquet"):
        path.unlink(missing_ok=True)


def write_ratic(folder: Path) -> None:
    for series in ("100", "101"):
        write_slices(
            folder / "ratic" / "train_images" / "42" / series,
            body(seed=int(series)),
            names=[f"{number}.dcm" for number in range(1, 25)],
        )
    for name in ("train_2024.csv", "train_series_meta.csv"):
        (folder / "ratic" / name).write_text("patient_id\n42\n")


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_another_mode_is_refused_before_anything_is_written(
    folder: Path, first: bool, older: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, keep_ids=first)
    if older:
        make_older(folder / "root")
    before = files(folder / "root")
    line = ["preprocess", str(folder / "archive"), "--root", str(folder / "root")]
    line += ["--spec-file", str(folder / "specs.json"), "--workers", "1"]
    line += [] if first else ["--keep-ids"]
    for options in ([], ["--estimate"]):
        capsys.readouterr()
        assert main([*line, *options]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert [line for line in told if "--keep-ids" in line] == told[-1:]
    assert files(folder / "root") == before
    run(folder, keep_ids=first)
    assert len(patients(folder)) == 1


def test_public_archives_keep_their_ids_in_any_root(folder: Path) -> None:
    write_ratic(folder)
    run(folder, "ratic")
    assert not (folder / "root" / "ids.mode").exists()
    run(folder)  # pseudonyms beside public ids
    run(folder, "ratic")
    hidden = pseudonyms.load_or_make(LocalStorage(folder / "root"))("patient", "anna")
    assert patients(folder) == ["42", "42", hidden]
    make_older(folder / "root")
    run(folder)
    with pytest.raises(InputError, match="holds pseudonyms"):
        run(folder, keep_ids=True)


def test_an_older_root_with_ids_of_both_kinds_is_refused(folder: Path) -> None:
    run(folder)
    first = folder / "root" / SMALL.name
    shutil.move(folder / "root", folder / "hidden")
    run(folder, keep_ids=True)
    other = StoreSpec(profile="other", grid=(4, 16, 16))
    (folder / "specs.json").write_text(other.canonical_json())
    shutil.rmtree(folder / "root" / SMALL.name)
    run(folder, keep_ids=True)
    shutil.copytree(folder / "hidden" / SMALL.name, first)
    make_older(folder / "root")
    for keep_ids in (True, False):
        with pytest.raises(InputError, match="both pseudonyms and ids that were kept"):
            run(folder, keep_ids=keep_ids)


def test_two_runs_that_begin_at_once_end_with_one_mode(tmp_path: Path) -> None:
    root = LocalStorage(tmp_path)
    set_modes: list[str] = []
    begin = threading.Barrier(8)

    def set_mode(mode: str) -> None:
        begin.wait()
        try:
            id_mode.set_id_mode(root, mode, ())
        except InputError:
            return
        set_modes.append(mode)

    modes = ["kept", "pseudonym"] * 4
    threads = [threading.Thread(target=set_mode, args=(mode,)) for mode in modes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set_modes) == 4
    assert set(set_modes) == {(tmp_path / "ids.mode").read_text().strip()}


def test_a_damaged_mode_is_one_line(folder: Path) -> None:
    run(folder)
    (folder / "root" / "ids.mode").write_text("perhaps")
    with pytest.raises(InputError, match=r"ids\.mode: expected kept or pseudonym"):
        run(folder)


@pytest.mark.parametrize("evidence", ["map", "store", "records"])
def test_a_missing_key_is_refused_and_not_replaced(
    folder: Path, evidence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    root = folder / "root"
    private = root / "private"
    (private / "ids.key").rename(folder / "ids.key")
    if evidence != "map":
        (private / "ids.parquet").unlink()
    if evidence == "records":
        (root / SMALL.name / "volumes" / "catalogue.parquet").unlink()
    if evidence == "map":
        shutil.rmtree(root / SMALL.name)
    before = files(root)
    given = ["--spec-file", str(folder / "specs.json"), "--workers", "1"]
    for line in (
        ["preprocess", str(folder / "archive"), "--root", str(root), *given],
        ["preprocess", str(folder / "archive"), "--root", str(root), *given, "--estimate"],
        ["store", "forget", str(root), "anna"],
    ):
        capsys.readouterr()
        assert main(line) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len([text for text in told if "ids.key" in text]) == 1
        assert "is missing" in told[-1]
    with pytest.raises(InputError, match="is missing"):
        patient_pseudonymiser(root / SMALL.name)
    assert files(root) == before
    (folder / "ids.key").rename(private / "ids.key")
    run(folder)
    assert len(patients(folder)) == 1


def test_the_key_of_another_root_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    key = folder / "root" / "private" / "ids.key"
    own = key.read_text()
    key.write_text("0f" * 32)
    line = ["preprocess", str(folder / "archive"), "--root", str(folder / "root")]
    assert main([*line, "--spec-file", str(folder / "specs.json"), "--workers", "1"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert "this key made none of the pseudonyms" in told[-1]
    key.write_text(own)
    run(folder)
    assert len(patients(folder)) == 1


def test_public_stores_need_no_key(folder: Path) -> None:
    write_ratic(folder)
    run(folder, "ratic")
    assert patient_pseudonymiser(folder / "root" / SMALL.name) is None


@pytest.mark.parametrize("given", ["id", "old pseudonym", "new pseudonym"])
def test_forget_follows_every_pseudonym_of_the_map(
    folder: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Versions before replaced a missing key: the map holds the pairs of both keys.
    run(folder)
    root = folder / "root"
    private = root / "private"
    first_map = pd.read_parquet(private / "ids.parquet")
    (old,) = patients(folder)
    for path in (private / "ids.key", private / "ids.parquet"):
        path.unlink()
    shutil.move(root / SMALL.name, folder / "aside")
    (root / "freshness.parquet").unlink()
    run(folder)
    (new,) = patients(folder)
    other = StoreSpec(profile="other", grid=(4, 16, 16))
    (folder / "specs.json").write_text(other.canonical_json())
    shutil.move(root / SMALL.name, folder / "new")
    shutil.move(folder / "aside", root / SMALL.name)
    assert old != new
    write_slices(folder / "archive" / "q", body(seed=2), tags={"PatientID": "bert"})
    run(folder)
    storage = LocalStorage(root)
    merged = pseudonyms.load_or_make(storage)
    merged.add_pairs(first_map[["kind", "pseudonym", "original"]].itertuples(index=False))
    pseudonyms.merge_into_map(storage, merged)
    patient = {"id": "anna", "old pseudonym": old, "new pseudonym": new}[given]
    capsys.readouterr()
    assert main(["store", "forget", str(root), patient, "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["series"] == 2
    for store in (SMALL, other):
        left = set(Store.open(root / store.name).catalogue["patient_id"])
        assert not left & {"anna", old, new}
    pairs = list(pseudonyms.read_map(storage))
    assert {original for kind, _, original in pairs if kind == "patient"} == {"bert"}
    assert np.all([old not in pair and new not in pair for pair in pairs])
